# SPDX-License-Identifier: Apache-2.0
"""Law: what comes from outside and is damaged is refused by name or taken; a refusal changes nothing. Nothing ends the
process. `python tests/fuzzing.py all 0 1000` runs more."""

import copy

import fuzzing
import pytest
import torch
from cases import BACKENDS
from tiers import full

import fusedsched as fs
from fusedsched import lr_scheduler
from fusedsched.schedules import Schedule, linear

pytestmark = pytest.mark.skipif("cpu" not in BACKENDS, reason="needs the compiled extension")
QUICK, ROWS = 40, 10  # inputs of a fuzzer in the quick tier; rows in the full one
# Inputs of a row: together 20,000.
ROW = {"optimizer_state": 200, "scheduler_state": 400, "schedule_json": 500, "expression": 500, "program_table": 400}


@pytest.mark.parametrize("fuzzer", fuzzing.FUZZERS)
@pytest.mark.parametrize("row", [-1, *(full(row) for row in range(ROWS))])
def test_damaged_input(row, fuzzer):
    size = QUICK if row < 0 else ROW[fuzzer]
    for seed in range(row * size, (row + 1) * size):
        fuzzing.run(fuzzer, seed)


@pytest.mark.parametrize("fuzzer", fuzzing.FUZZERS)
def test_some_inputs_are_taken_and_some_are_not(fuzzer):
    assert {fuzzing.run(fuzzer, seed) for seed in range(40)} == {True, False}


DAMAGES = {
    "no state": lambda d: d.pop("state"),
    "no groups": lambda d: d.pop("param_groups"),
    "groups of another type": lambda d: d.update(param_groups={"a": 1}),
    "a group of another type": lambda d: d["param_groups"].__setitem__(0, 7),
    "no parameters": lambda d: d["param_groups"][0].pop("params"),
    "a state of another type": lambda d: d["state"].__setitem__(0, "x"),
    "a moment of another type": lambda d: d["state"][0].__setitem__("exp_avg", 3),
    "a count of another type": lambda d: d["state"][0].__setitem__("step", [1]),
    "clocks of another type": lambda d: d["param_groups"][0]["fusedsched"].__setitem__("clocks", "abc"),
    "clocks that are too large": lambda d: d["param_groups"][0]["fusedsched"].__setitem__("clocks", [2**70]),
    "a schedule of another type": lambda d: d["param_groups"][0]["fusedsched"]["schedules"].update(lr=None),
    "no expression": lambda d: d["param_groups"][0]["fusedsched"]["schedules"]["lr"].pop("expression"),
    "a state that contains itself": lambda d: d["state"][0].__setitem__("more", [d["state"]]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_of_an_optimizer(damage, product):
    p = torch.ones(3).requires_grad_()
    optimizer = product("AdamW", [p], lr=linear(0.5, 0.0, steps=10))
    for _ in range(2):
        p.grad = torch.ones(3)
        optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    state = copy.deepcopy(before)
    DAMAGES[damage](state)
    with pytest.raises((ValueError, TypeError, KeyError), match="load|saved schedule"):
        optimizer.load_state_dict(state)
    assert fuzzing.alike(before, optimizer.state_dict())
    twin_p = torch.nn.Parameter(p.detach().clone())
    twin = product("AdamW", [twin_p], lr=linear(0.5, 0.0, steps=10))
    twin.load_state_dict(before)
    for q, one in ((p, optimizer), (twin_p, twin)):
        q.grad = torch.ones(3)
        one.step()
    assert torch.equal(p.detach(), twin_p.detach())


@pytest.mark.parametrize("key,value", [("_last_lr", 3), ("_schedulers", [1]), ("last_epoch", "x")])
def test_a_damaged_state_of_a_scheduler(key, value):
    p = torch.ones(3).requires_grad_()
    optimizer = fs.SGD([p], lr=0.5, backend="cpu")
    members = [lr_scheduler.LinearLR(optimizer, 0.5, total_iters=3), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    scheduler = lr_scheduler.SequentialLR(optimizer, members, milestones=[3])
    p.grad = torch.ones(3)
    optimizer.step()
    scheduler.step()
    before = copy.deepcopy((scheduler.state_dict(), optimizer.state_dict()))
    state = copy.deepcopy(before[0])
    state[key] = value
    state.pop("fusedsched", None)
    try:
        scheduler.load_state_dict(state)
    except (ValueError, TypeError, KeyError):
        assert fuzzing.alike(before, (scheduler.state_dict(), optimizer.state_dict()))
        return
    assert key != "_schedulers"


def test_a_text_that_is_nested_too_deeply():
    with pytest.raises(ValueError, match="nested too deeply"):
        Schedule.from_json("[" * 100_000)
