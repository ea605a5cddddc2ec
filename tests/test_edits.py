# SPDX-License-Identifier: Apache-2.0
"""What a user writes to a scheduled number stays, whatever makes an optimizer look at its tensors anew."""

import copy
import warnings

import pytest
import torch
from cases import VISIBLE, torch_twin
from scripting import assert_same, parameters, seen, train
from test_live_schedules import read
from test_scheduled_hyperparameters import SLOTS, VARYING, with_schedule

from fusedsched import schedules as S


def in_place(group, slot, value):
    (group["betas"][int(slot[-1]) - 1] if slot.startswith("beta") else group[slot]).fill_(value)


def replaced(group, slot, value):
    if slot.startswith("beta"):
        group["betas"] = tuple(value if i == int(slot[-1]) - 1 else beta for i, beta in enumerate(group["betas"]))
    else:
        group[slot] = value


EDITS = {"in place": in_place, "replaced": replaced}


def add_group(optimizer, params):
    optimizer.add_param_group({"params": parameters(2), "lr": 0.25})


def delete_state(optimizer, params):
    optimizer.state.pop(params[0], None)


def reorder(optimizer, params):
    optimizer.param_groups[0]["params"].reverse()


def replace_the_list(optimizer, params):
    optimizer.param_groups[0]["params"] = list(params[::-1])


def replace_the_group(optimizer, params):
    optimizer.param_groups[0] = dict(optimizer.param_groups[0])


def replace_the_state(optimizer, params):
    if params[1] in optimizer.state:
        optimizer.state[params[1]] = copy.deepcopy(optimizer.state[params[1]])


def momentum_by_schedule(optimizer, params):
    """A rule that a captured graph could not get."""
    name = "momentum" if "momentum" in optimizer.defaults else "weight_decay"
    if hasattr(optimizer, "set_schedule"):
        optimizer.set_schedule(name, S.constant(0.25))
    else:
        optimizer.param_groups[0][name] = 0.25


CHANGES = {f.__name__: f for f in (add_group, delete_state, reorder, replace_the_list, replace_the_group)}
CHANGES |= {f.__name__: f for f in (replace_the_state, momentum_by_schedule)}


def numbers(optimizer, slot):
    return [read(group, slot) for group in optimizer.param_groups]


LATER = [(change, True) for change in CHANGES]
AT_ONCE = [(change, False) for change in CHANGES if change != "momentum_by_schedule"]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("change, step_between", LATER + AT_ONCE)
@pytest.mark.parametrize("name", VISIBLE)
def test_an_edit_outlives_the_plan(name, change, edit, step_between, product):
    """After an edit the number stays, and training is torch's with that number."""
    results = []
    for make in (product, torch_twin):
        params = parameters((3, 4), 5)
        first = S.linear(0.1, 0.05, steps=10)
        optimizer = make(name, params, **{**VISIBLE[name], "lr": first if make is product else first(0)})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(optimizer, params, 1)
            (EDITS[edit] if make is product else replaced)(optimizer.param_groups[0], "lr", 0.0125)
            if step_between:
                train(optimizer, params, 1)
            CHANGES[change](optimizer, params)
            train(optimizer, params, 3)
        assert len(caught) == (make is product) and all("'lr'" in str(w.message) for w in caught)
        assert numbers(optimizer, "lr")[0] == 0.0125
        state = [optimizer.state.get(p, {}) for p in params]
        results.append({f"{i}": p.detach().clone() for i, p in enumerate(params)})
        results[-1] |= {f"{i} {k}": v for i, s in enumerate(state) for k, v in s.items()}
    assert_same(*results)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", VISIBLE)
def test_without_an_edit_schedules_go_on(name, change, product):
    """What makes a new plan is no edit; nothing is said, and the schedule goes on."""
    params = parameters((3, 4), 5)
    first = S.linear(0.1, 0.05, steps=10)
    optimizer = product(name, params, **{**VISIBLE[name], "lr": first})
    train(optimizer, params, 1)
    CHANGES[change](optimizer, params)
    train(optimizer, params, 3)
    assert numbers(optimizer, "lr")[0] == first(4)


@pytest.mark.parametrize("change", (None, add_group, reorder))
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name, slot", [(name, slot) for name, slots in SLOTS.items() for slot in slots])
def test_the_warning_names_what_was_written_to(name, slot, edit, change, product):
    """The warning about an edit has the name of the slot; other schedules go on, without one."""
    params = parameters((3, 4), 5)
    options = with_schedule(VISIBLE[name], slot, VARYING[slot])
    other = "lr" if slot != "lr" else "weight_decay"
    options[other] = VARYING[other]
    if name == "SGD":
        del options["betas"]
    optimizer = product(name, params, **options)
    train(optimizer, params, 1)
    EDITS[edit](optimizer.param_groups[0], slot, 0.125)
    with pytest.warns(UserWarning, match=f"The scheduled '{slot}' of a param group was written to") as caught:
        if change is not None:
            change(optimizer, params)
        train(optimizer, params, 2)
    assert len(caught) == 1
    assert numbers(optimizer, slot)[0] == 0.125 and numbers(optimizer, other)[0] == VARYING[other](3)


def test_a_copy_of_an_edited_one_is_constant(product):
    """Copies and checkpoints keep an edit, on both sides."""
    params = parameters(4)
    optimizer = product("AdamW", params, lr=VARYING["lr"])
    train(optimizer, params, 1)
    optimizer.param_groups[0]["lr"].fill_(0.0125)
    with pytest.warns(UserWarning, match="'lr'"):
        twin = copy.deepcopy(optimizer)
    for o in (optimizer, twin):
        reorder(o, None)
        train(o, o.param_groups[0]["params"], 3)
        assert numbers(o, "lr") == [0.0125]
    assert_same(seen(optimizer, params), seen(twin, twin.param_groups[0]["params"]))
    assert isinstance(optimizer.param_groups[0]["lr"], torch.Tensor)
