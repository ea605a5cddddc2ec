# SPDX-License-Identifier: Apache-2.0
"""A schedule in the place of a number: the same update as with the number written in by hand, bit for bit."""

import copy
import warnings

import pytest
import torch
from cases import OPTIMIZERS, VISIBLE, named, torch_twin
from scripting import give_gradients, parameters, train
from tolerances import close

from fusedsched import schedules as S

SLOTS = {
    "AdamW": ("lr", "beta1", "beta2", "weight_decay"),
    "Adam": ("lr", "beta1", "beta2", "weight_decay"),
    "SGD": ("lr", "momentum", "weight_decay"),
}
VARYING = {
    "lr": S.warmup_cosine(peak=0.1, warmup_steps=2, total_steps=6),
    "beta1": S.linear(0.5, 0.9, steps=5),
    "beta2": S.step(0.7, step_size=2, gamma=0.5),
    "momentum": S.linear(0.5, 0.9, steps=5),
    "weight_decay": S.cosine(0.5, 0.0, steps=5),
}


def write(group, slot, value):
    if slot.startswith("beta"):
        betas = list(group["betas"])
        betas[int(slot[-1]) - 1] = value
        group["betas"] = tuple(betas)
    else:
        group[slot] = value


def with_schedule(options, slot, schedule):
    options = copy.copy(options)
    options.setdefault("betas", (0.9, 0.999))
    write(options, slot, schedule)
    return options


def values(params):
    return torch.cat([p.detach().reshape(-1) for p in params])


@pytest.mark.parametrize("row", named(OPTIMIZERS))
def test_a_constant_schedule_is_a_number(row, product):
    lr, results = row.options.get("lr", 1e-3), []
    for value in (lr, S.constant(lr)):
        params = parameters((3, 4), 50)
        train(product(row.optimizer, params, **{**row.options, "lr": value}), params, 5)
        results.append(values(params))
    assert torch.equal(*results)


@pytest.mark.parametrize("name, slot", [(name, slot) for name, slots in SLOTS.items() for slot in slots])
def test_any_scalar(name, slot, product):
    schedule, results = VARYING[slot], []
    for scheduled in (True, False):
        params = parameters((3, 4), 50)
        options = with_schedule(VISIBLE[name], slot, schedule if scheduled else schedule(0))
        if name == "SGD":
            del options["betas"]
        optimizer = product(name, params, **options)
        for update in range(8):
            if not scheduled:
                write(optimizer.param_groups[0], slot, schedule(update))
            give_gradients(params, update)
            optimizer.step()
        results.append(values(params))
    assert torch.equal(*results)


@pytest.mark.parametrize("name", VISIBLE)
def test_the_group_reads_as_what_the_next_update_will_use(name, product):
    params = parameters(4)
    optimizer = product(name, params, **{**VISIBLE[name], "lr": VARYING["lr"]})
    shown = optimizer.param_groups[0]["lr"]
    assert shown.shape == () and shown.dtype == torch.float64
    for update in range(8):
        assert optimizer.param_groups[0]["lr"] is shown and shown.item() == VARYING["lr"](update)
        train(optimizer, params, 1)


@pytest.mark.parametrize("edit", ("replace", "in place", "times"))
def test_an_edit_means_constant_from_here_on(edit, product):
    params = parameters(4)
    optimizer = product("SGD", params, lr=VARYING["lr"])
    train(optimizer, params, 2)
    group = optimizer.param_groups[0]
    if edit == "replace":
        group["lr"] = 0.25
    elif edit == "in place":
        group["lr"].fill_(0.25)
    else:
        group["lr"] *= 0.25 / float(group["lr"])
    before = params[0].detach().clone()
    with pytest.warns(UserWarning, match="'lr' of a param group was written to"):
        train(optimizer, params, 1)
    assert torch.allclose(params[0], before - 0.25 * params[0].grad)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one warning is enough
        train(optimizer, params, 3)
    assert float(group["lr"]) == pytest.approx(0.25)
    optimizer.set_schedule("lr", VARYING["lr"])
    assert float(group["lr"]) == VARYING["lr"](6)


def test_groups_have_schedules_of_their_own(product):
    params = parameters(4, 4, 4)
    first, second = S.linear(0.1, 0.0, steps=10), S.constant(0.3)
    optimizer = product("SGD", [{"params": params[:1]}, {"params": params[1:2], "lr": second}], lr=first)
    train(optimizer, params, 2)
    optimizer.add_param_group({"params": params[2:]})
    optimizer.add_param_group({"params": parameters(2), "lr": 0.7})
    lrs = [float(group["lr"]) for group in optimizer.param_groups]
    assert lrs == [first(2), 0.3, first(2), 0.7]


def test_the_clock_counts_applied_updates(product):
    params = parameters(4)
    optimizer = product("SGD", params, lr=VARYING["lr"])
    params[0].grad = None
    optimizer.step()  # nothing to apply
    assert float(optimizer.param_groups[0]["lr"]) == VARYING["lr"](0)
    give_gradients(params)
    optimizer.step(lambda: torch.tensor(1.0))
    assert float(optimizer.param_groups[0]["lr"]) == VARYING["lr"](1)


def test_other_units_of_time(product):
    params = parameters(4)
    schedule = S.linear(0.1, 0.0, steps=1000, unit="token")
    optimizer = product("SGD", params, lr=schedule)
    train(optimizer, params, 3)
    assert float(optimizer.param_groups[0]["lr"]) == 0.1
    optimizer.advance(tokens=250)
    assert float(optimizer.param_groups[0]["lr"]) == schedule(250)
    optimizer.advance(samples=100)
    assert float(optimizer.param_groups[0]["lr"]) == schedule(250)


@pytest.mark.parametrize("how", (copy.deepcopy, lambda x: __import__("pickle").loads(__import__("pickle").dumps(x))))
def test_copies_go_on_by_themselves(how, product):
    params = parameters(4)
    optimizer = product("AdamW", params, **{**VISIBLE["AdamW"], "lr": VARYING["lr"]})
    train(optimizer, params, 2)
    twin = how(optimizer)
    train(twin, twin.param_groups[0]["params"], 2)
    assert float(twin.param_groups[0]["lr"]) == VARYING["lr"](4)
    assert float(optimizer.param_groups[0]["lr"]) == VARYING["lr"](2)


@pytest.mark.parametrize("at", ("constructor", "group", "added group"))
def test_nesterov_momentum_may_begin_with_zero(at, product):
    """Where momentum is a schedule, nesterov asks for one that is positive somewhere; the rest is torch's."""
    momentum, options, results = S.linear(0.0, 0.9, steps=3), dict(lr=0.1, nesterov=True), []
    for make in (product, torch_twin):
        params = parameters((3, 4), 5)
        first = momentum if make is product else 0.9
        if at == "constructor":
            optimizer = make("SGD", params, momentum=first, **options)
            assert make is torch_twin or optimizer.defaults["momentum"] == 0.0
        elif at == "group":
            optimizer = make("SGD", [{"params": params, "momentum": first}], momentum=0.9, **options)
        else:
            optimizer = make("SGD", parameters(2), momentum=0.9, **options)
            optimizer.add_param_group({"params": params, "momentum": first})
        group = optimizer.param_groups[-1]
        for update in range(5):
            if make is torch_twin:
                group["momentum"] = momentum(update)
            assert float(group["momentum"]) == momentum(update)
            give_gradients(params, update)
            if update == 0:  # on a device the buffer begins before the momentum does
                params[0].grad.zero_()
                params[1].grad.zero_()
            optimizer.step()
        results.append(values(params))
    close(*results, 5, "parameters")


def test_nesterov_momentum_that_is_zero_throughout(product):
    """It is refused, with torch's sentence."""
    with pytest.raises(ValueError, match="Nesterov momentum requires a momentum and zero dampening"):
        product("SGD", parameters(4), momentum=S.constant(0.0), nesterov=True)
    with pytest.raises(ValueError, match="Nesterov momentum requires a momentum and zero dampening"):
        product("SGD", parameters(4), momentum=S.linear(0.0, 0.9, steps=3), dampening=0.5, nesterov=True)


def _group_deep_copied(optimizer):
    optimizer.param_groups[0].update(
        {k: copy.deepcopy(v) for k, v in optimizer.param_groups[0].items() if k != "params"}
    )


def _groups_replaced(optimizer):
    groups = [copy.deepcopy({k: v for k, v in group.items() if k != "params"}) for group in optimizer.param_groups]
    optimizer.param_groups = [{**a, "params": b["params"]} for a, b in zip(groups, optimizer.param_groups, strict=True)]


def _put_aside(optimizer):
    group = optimizer.param_groups[0]
    aside, group["lr"] = group["lr"], 0.0
    group["lr"] = aside


NO_EDITS = {
    "a group, deep-copied": _group_deep_copied,
    "new groups": _groups_replaced,
    "a tensor, deep-copied": lambda o: o.param_groups[0].update(lr=copy.deepcopy(o.param_groups[0]["lr"])),
    "its value": lambda o: o.param_groups[0].update(lr=float(o.param_groups[0]["lr"])),
    "filled with its value": lambda o: o.param_groups[0]["lr"].copy_(o.param_groups[0]["lr"].clone()),
    "put aside": _put_aside,
}


@pytest.mark.parametrize("what", NO_EDITS)
def test_the_value_that_the_schedule_shows_is_no_edit(what, product):
    params = parameters(4, 3)
    optimizer = product("SGD", [{"params": params[:1]}, {"params": params[1:], "lr": 0.5}], lr=VARYING["lr"])
    train(optimizer, params, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for update in range(2, 6):
            NO_EDITS[what](optimizer)
            assert float(optimizer.param_groups[0]["lr"]) == VARYING["lr"](update)
            before = params[0].detach().clone()
            train(optimizer, params, 1)
            assert torch.allclose(params[0], before - VARYING["lr"](update) * params[0].grad)
    assert float(optimizer.param_groups[0]["lr"]) == VARYING["lr"](6)
