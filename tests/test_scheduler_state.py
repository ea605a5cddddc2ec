# SPDX-License-Identifier: Apache-2.0
"""Laws: states go both ways between our schedulers and torch's, whatever is loaded first; copies and pickles go on as
if nothing had happened.
"""

import copy
import io
import json

import pytest
import torch
from cases_lr_schedulers import SCHEDULERS, make, numbers, optimizer, run
from torch.optim import lr_scheduler as theirs

from fusedsched import lr_scheduler as ours

named = pytest.mark.parametrize("row", SCHEDULERS, ids=lambda row: row.name)


def close(a, b, bound=1e-11):
    return all(
        abs(x - y) <= bound
        for p, q in zip(a, b, strict=True)
        for g, h in zip(p, q, strict=True)
        for x, y in zip(g, h, strict=True)
    )


ORDERS = ["optimizer, scheduler", "scheduler, optimizer", "scheduler"]


def load(order, opt, sched, states):
    for what in order.split(", "):
        {"optimizer": opt, "scheduler": sched}[what].load_state_dict(copy.deepcopy(states[what]))


@named
@pytest.mark.parametrize("order", ORDERS)
def test_states_of_torch(row, order):
    """Law: a state that torch's class wrote brings the rates here too."""
    opt, sched = make(row, "theirs")
    run(opt, sched, 9)
    states = copy.deepcopy({"optimizer": opt.state_dict(), "scheduler": sched.state_dict()})
    expected = run(opt, sched, 40)
    fresh, other = make(row)
    before = copy.deepcopy(states["scheduler"])
    load(order, fresh, other, states)
    if "optimizer" not in order:
        for group, full in zip(fresh.param_groups, states["optimizer"]["param_groups"], strict=True):
            group["betas" if "betas" in group else "momentum"] = full["betas" if "betas" in group else "momentum"]
    assert close(run(fresh, other, 40), expected)
    assert states["scheduler"].keys() == before.keys()


@named
def test_states_for_torch(row):
    """Law: torch's class goes on from ours; and what it writes later, with our key still in it, is not mistaken."""
    opt, sched = make(row)
    run(opt, sched, 9)
    there, back = make(row, "theirs")
    there.load_state_dict(opt.state_dict())
    back.load_state_dict(sched.state_dict())
    expected = run(opt, sched, 20)
    assert close(run(there, back, 20), expected)
    home, again = make(row)
    home.load_state_dict(there.state_dict())
    again.load_state_dict(back.state_dict())
    assert close([numbers(home)], [expected[-1]]) and close(run(home, again, 10), run(opt, sched, 10))


@named
def test_keys_of_the_state(row):
    """Law: torch's keys, and after an edit one more, of plain data; `weights_only` loading takes it."""
    (opt, sched), (_, other) = make(row), make(row, "theirs")
    run(opt, sched, 3)
    assert sched.state_dict().keys() == other.state_dict().keys()
    opt.param_groups[0]["lr"] *= 0.5
    state = sched.state_dict()
    assert state.keys() ^ other.state_dict().keys() == {"fusedsched"}
    assert json.loads(json.dumps(state["fusedsched"]))["lr"] == [group["lr"] for group in opt.param_groups]
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == state


CHANGED = [
    ("StepLR", {"step_size": 3, "gamma": 0.9}, {"gamma": 0.5}),
    ("StepLR", {"step_size": 3, "gamma": 0.9}, {"step_size": 2}),
    ("MultiStepLR", {"milestones": [2, 4, 9], "gamma": 0.9}, {"gamma": 0.5}),
    ("ConstantLR", {"factor": 0.5, "total_iters": 9}, {"factor": 0.25}),
    ("LinearLR", {"start_factor": 0.5, "total_iters": 9}, {"total_iters": 19}),
    ("ExponentialLR", {"gamma": 0.9}, {"gamma": 0.5}),
    ("PolynomialLR", {"total_iters": 9}, {"total_iters": 19}),
    ("CosineAnnealingLR", {"T_max": 10}, {"T_max": 20}),
    ("CosineAnnealingLR", {"T_max": 10}, {"eta_min": 0.1}),
]


@pytest.mark.parametrize(("name", "arguments", "changed"), CHANGED, ids=lambda value: str(value))
@pytest.mark.parametrize("how", ["changed in the state", "left out of the state", "changed in the new one too"])
def test_a_setting_that_is_changed_on_resume(name, arguments, changed, how):
    """Law: a schedule whose setting changes while it is loaded goes on from its rate, as torch's does."""
    runs = []
    for package in (ours, theirs):
        opt = optimizer([0.3])
        sched = getattr(package, name)(opt, **arguments)
        run(opt, sched, 5)
        states = copy.deepcopy((opt.state_dict(), sched.state_dict()))
        for key, value in changed.items():
            states[1].pop(key) if how == "left out of the state" else states[1].update({key: value})
        fresh = optimizer([0.3])
        other = getattr(package, name)(fresh, **(arguments if how == "changed in the state" else arguments | changed))
        fresh.load_state_dict(states[0]), other.load_state_dict(states[1])
        runs.append(run(fresh, other, 12))
    assert close(*runs)


@named
@pytest.mark.parametrize("how", ["copy", "state"])
def test_a_clock_that_is_set_before_it_is_saved(row, how):
    """Law: `last_epoch` set by hand goes with a copy or a state, as without one."""
    opt, sched = make(row)
    run(opt, sched, 5)
    sched.last_epoch = 2
    if how == "copy":
        twin = copy.deepcopy(sched)
        fresh = twin.optimizer
    else:
        fresh, twin = make(row)
        load("optimizer, scheduler", fresh, twin, {"optimizer": opt.state_dict(), "scheduler": sched.state_dict()})
    assert close(run(fresh, twin, 9), run(opt, sched, 9))


def test_a_loaded_optimizer_keeps_its_rates():
    """Law: a state of torch's moves no rate that a loaded optimizer brought, though it is that of a new one."""
    rates = []
    for package in (ours, theirs):
        saved = []
        for stage in range(2):
            opt = optimizer([0.1])
            parts = opt, package.ExponentialLR(opt, 0.5), package.ReduceLROnPlateau(opt)
            if stage == 0:
                opt.step(), parts[1].step(), parts[2].step(1.0)
                opt.param_groups[0]["lr"] = 0.1
                saved = [copy.deepcopy(part.state_dict()) for part in parts]
                [state.pop("fusedsched", None) for state in saved]
            else:
                [part.load_state_dict(state) for part, state in zip(parts, saved, strict=True)]
        rates.append(opt.param_groups[0]["lr"])
    assert rates == [0.1, 0.1]


def test_loading_shares_nothing():
    """Law: a loaded scheduler has lists of its own; torch's shares them with the one that was saved."""
    opt, sched = optimizer([0.3]), None
    sched = ours.StepLR(opt, 2)
    fresh = optimizer([0.3])
    other = ours.StepLR(fresh, 2)
    other.load_state_dict(sched.state_dict())
    other.base_lrs[0] = 7.0
    assert sched.base_lrs == [0.3]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("at", [2, 5, 6, 13])
def test_compositions_and_plateaus(order, at):
    """Law: the same for what holds others, and beside a plateau."""

    def build():
        opt = optimizer([0.3, 0.2])
        chain = ours.ChainedScheduler([ours.LinearLR(opt, total_iters=7), ours.ExponentialLR(opt, gamma=0.9)])
        tail = ours.CosineAnnealingWarmRestarts(opt, 3)
        sched = ours.SequentialLR(opt, [chain, tail, ours.PolynomialLR(opt, 9, 2.0)], [5, 12])
        return opt, sched, ours.ReduceLROnPlateau(opt, factor=0.5, patience=1)

    def go(opt, sched, plateau, n):
        seen = []
        for _ in range(n):
            sched.step()
            plateau.step(1.0)
            seen.append(numbers(opt))
        return seen

    whole = build()
    go(*whole, at)
    states = [copy.deepcopy(part.state_dict()) for part in whole]
    expected = go(*whole, 15)
    parts = build()
    if order == "scheduler, optimizer":
        states, parts_in_order = states[::-1], parts[::-1]
    else:
        parts_in_order = parts
    for part, state in zip(parts_in_order, states, strict=True):
        if order != "scheduler" or part is not parts[0]:
            part.load_state_dict(state)
    assert go(*parts, 15) == expected


@pytest.mark.parametrize("order", ORDERS)
def test_compositions_of_torch(order):
    """Law: states of torch's compositions load, the rates with them."""

    def build(module):
        opt = optimizer([0.3, 0.2])
        return opt, module.SequentialLR(opt, [module.LinearLR(opt, 0.5, 1.0, 4), module.ExponentialLR(opt, 0.9)], [4])

    opt, sched = build(theirs)
    run(opt, sched, 7)
    states = copy.deepcopy({"optimizer": opt.state_dict(), "scheduler": sched.state_dict()})
    fresh, other = build(ours)
    load(order, fresh, other, states)
    assert close(run(fresh, other, 9), run(opt, sched, 9))
