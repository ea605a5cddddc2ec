# SPDX-License-Identifier: Apache-2.0
"""Hooks of state dicts, as torch documents them: what they return is what counts, and they are other people's."""

import copy

import pytest
import torch
from cases import VISIBLE, torch_twin
from scripting import assert_same, parameters, seen, train
from test_errors import _same

from fusedsched import schedules as S

SHAPES = {"a": (3, 4), "b": (5,), "c": (2, 2)}


def named(*names, dtype=torch.float32):
    params = parameters(*SHAPES.values(), dtype=dtype)
    return [(name, params[list(SHAPES).index(name)]) for name in names]


def by_names(optimizer, packed):
    """As in torch's documentation: the saved numbers in the order of the present names."""
    for group, saved in zip(optimizer.param_groups, packed["param_groups"], strict=True):
        number = dict(zip(saved["param_names"], saved["params"], strict=True))
        saved["params"] = [number[name] for name in group["param_names"]]
        saved["param_names"] = list(group["param_names"])


def unwrapped(optimizer, packed):
    return packed["optimizer"]


def with_new_ones(optimizer, packed):
    (group,), (saved,) = optimizer.param_groups, packed["param_groups"]
    saved["params"] = list(range(len(group["params"])))
    saved["param_names"] = list(group["param_names"])


def split(optimizer, packed):
    (saved,) = packed["param_groups"]
    cut = len(optimizer.param_groups[0]["params"])
    parts = [{**saved, k: saved[k]} for k in ("params", "param_names")]
    for part, where in zip(parts, (slice(None, cut), slice(cut, None)), strict=True):
        part.update({k: saved[k][where] for k in ("params", "param_names")})
    return {**packed, "param_groups": parts}


def grouped(*groups):
    return lambda **options: [{"params": named(*names, **options)} for names in groups]


# What was saved, the hook, what it is loaded into.
CASES = {
    "another order": (grouped("abc"), by_names, grouped("cab")),
    "unwrapped": (grouped("abc"), unwrapped, grouped("abc")),
    "new parameters": (grouped("ab"), with_new_ones, grouped("abc")),
    "split groups": (grouped("abc"), split, grouped("a", "bc")),
}


def loaded(make, name, case, dtype=torch.float32, **options):
    before, hook, after = CASES[case]
    options = {**VISIBLE[name], **options}
    groups = before(dtype=dtype)
    first = make(name, groups, **options)
    train(first, [p for group in first.param_groups for p in group["params"]])
    saved = copy.deepcopy(first.state_dict())
    for state in saved["state"].values():  # state of another type than its parameter's
        state.update({k: v.float() for k, v in state.items() if isinstance(v, torch.Tensor)})
    second = make(name, after(dtype=dtype), **options)
    second.register_load_state_dict_pre_hook(hook)
    second.load_state_dict({"optimizer": saved} if hook is unwrapped else saved)
    params = [p for group in second.param_groups for p in group["params"]]
    return saved, second, params


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", VISIBLE)
def test_what_a_pre_hook_returns_is_loaded(name, case, product):
    """Training goes on from the adapted state as with torch's class."""
    results = []
    for make in (product, torch_twin):
        _, optimizer, params = loaded(make, name, case)
        train(optimizer, params)
        results.append(seen(optimizer, params))
    assert_same(*results)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", VISIBLE)
def test_types_of_state_survive_a_pre_hook(name, case, product):
    """Float32 moments of bfloat16 parameters are loaded as they are, whatever the hook made of their order."""
    saved, optimizer, params = loaded(product, name, case, torch.bfloat16)
    names = [n for group in optimizer.param_groups for n in group["param_names"]]
    for key, value in saved["state"].items():
        state = optimizer.state[params[names.index("abc"[key])]]
        for what, tensor in value.items():
            assert state[what].dtype == tensor.dtype and torch.equal(state[what], tensor)


@pytest.mark.parametrize("case", CASES)
def test_schedules_survive_a_pre_hook(case, product):
    """Each group that the hook made has the schedule, and the clock goes on."""
    lr = S.linear(0.1, 0.0, steps=10)
    _, optimizer, params = loaded(product, "AdamW", case, lr=lr)
    for updates in (3, 4):
        assert [float(group["lr"]) for group in optimizer.param_groups] == [lr(updates)] * len(optimizer.param_groups)
        train(optimizer, params, 1)


@pytest.mark.parametrize("fault", ("shapes", "groups", "schedules", "an unknown schedule"))
def test_a_bad_state_from_a_pre_hook_changes_nothing(fault, product):
    """What the hook returns is checked before anything is changed."""
    options = {**VISIBLE["AdamW"], "lr": S.constant(0.1)}
    optimizer = product("AdamW", grouped("abc")(), **options)
    params = optimizer.param_groups[0]["params"]
    train(optimizer, params)

    def spoil(optimizer, packed):
        packed = copy.deepcopy(packed)
        group = packed["param_groups"][0]
        if fault == "shapes":
            group["params"] = group["params"][::-1]
        elif fault == "groups":
            packed["param_groups"] *= 2
        elif fault == "schedules":
            group["fusedsched"]["schedules"]["lr"]["expression"] = S.constant(0.2).to_json()
        else:
            group["fusedsched"]["schedules"]["lr"]["expression"] = {"schedule": "Spiral"}
        return packed

    optimizer.register_load_state_dict_pre_hook(spoil)
    saved, before = optimizer.state_dict(), seen(optimizer, params)
    with pytest.raises(ValueError):
        optimizer.load_state_dict(saved, override="error")
    assert _same(seen(optimizer, params), before) and _same(optimizer.state_dict(), saved)


@pytest.mark.parametrize("name", VISIBLE)
def test_a_post_hook_has_the_last_word(name, product):
    """A post-hook of a load sees the loaded state, and what it changes stays."""
    params = parameters(4)
    optimizer = product(name, params, **{**VISIBLE[name], "lr": S.constant(0.1)})
    train(optimizer, params)
    saved = optimizer.state_dict()

    def after(o):
        assert "fusedsched" not in o.param_groups[0] and float(o.param_groups[0]["lr"]) == 0.1
        o.state.clear()
        o.param_groups[0]["lr"] = 0.5

    optimizer.register_load_state_dict_post_hook(after)
    optimizer.load_state_dict(saved)
    assert not optimizer.state and optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("name", VISIBLE)
@pytest.mark.parametrize("make_name", ("ours", "torch"))
def test_hooks_come_and_go_in_hooks(make_name, name, product):
    """A hook may remove itself and register others; both are for good, as in torch."""
    make = product if make_name == "ours" else torch_twin
    params = parameters(4)
    optimizer = make(name, params, **VISIBLE[name])
    train(optimizer, params)
    calls = []

    def once(o, packed):
        calls.append("once")
        handle.remove()
        o.register_load_state_dict_post_hook(lambda o: calls.append("later"))

    handle = optimizer.register_load_state_dict_pre_hook(once)
    for _ in range(2):
        optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["once", "later", "later"]
    assert not optimizer._optimizer_load_state_dict_pre_hooks
    assert len(optimizer._optimizer_load_state_dict_post_hooks) == 1


@pytest.mark.parametrize("name", VISIBLE)
@pytest.mark.parametrize("make_name", ("ours", "torch"))
def test_a_hook_that_registers_another_while_saving(make_name, name, product):
    """A pre-hook of state_dict may register post-hooks; they run in the same call and stay."""
    make = product if make_name == "ours" else torch_twin
    optimizer = make(name, parameters(4), **VISIBLE[name])
    calls = []

    def first_time(o):
        if not o._optimizer_state_dict_post_hooks.keys() - {"fusedsched"}:
            o.register_state_dict_post_hook(lambda o, packed: calls.append("later"))

    optimizer.register_state_dict_pre_hook(first_time)
    for _ in range(2):
        optimizer.state_dict()
    assert calls == ["later", "later"] and len(optimizer._optimizer_state_dict_post_hooks) == 1


def test_a_hook_may_save_in_its_turn(product):
    """`state_dict` within a hook of `state_dict` is the same state, and other hooks run as well."""
    optimizer = product("SGD", parameters(4), lr=S.constant(0.1))
    inner, calls = [], []

    def again(o, packed):
        if not inner:
            inner.append(None)
            inner[0] = o.state_dict()

    optimizer.register_state_dict_post_hook(again)
    optimizer.register_state_dict_post_hook(lambda o, packed: calls.append(packed))
    assert optimizer.state_dict() == inner[0] and len(calls) == 2
