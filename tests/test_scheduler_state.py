# SPDX-License-Identifier: Apache-2.0
"""States go both ways between our schedulers and torch's, whatever is loaded first; copies and pickles go on as
if nothing had happened.
"""

import copy
import io
import json

import pytest
import torch
from cases_lr_schedulers import SCHEDULERS, make, numbers, optimizer, rate, run
from scheduler_pairs import as_torch
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
    """A state that torch's class wrote brings the rates here too."""
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
    """Torch's class goes on from ours; and what it writes later, with our key still in it, is not mistaken."""
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
    """Torch's keys, and after an edit one more, of plain data; `weights_only` loading takes it."""
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
@as_torch(bound=1e-11)
def test_a_setting_that_is_changed_on_resume(m, name, arguments, changed, how):
    """A schedule whose setting changes while it is loaded continues from its rate, as torch's does."""
    opt = optimizer([0.3])
    sched = getattr(m, name)(opt, **arguments)
    run(opt, sched, 5)
    states = copy.deepcopy((opt.state_dict(), sched.state_dict()))
    for key, value in changed.items():
        states[1].pop(key) if how == "left out of the state" else states[1].update({key: value})
    fresh = optimizer([0.3])
    other = getattr(m, name)(fresh, **(arguments if how == "changed in the state" else arguments | changed))
    fresh.load_state_dict(states[0]), other.load_state_dict(states[1])
    return run(fresh, other, 12)


@named
@pytest.mark.parametrize("how", ["copy", "state"])
def test_a_clock_that_is_set_before_it_is_saved(row, how):
    """`last_epoch` set by hand goes with a copy or a state, as without one."""
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


@as_torch
def test_a_loaded_optimizer_keeps_its_rates(m):
    """A state of torch's moves no rate that a loaded optimizer brought, though it is that of a new one."""

    def build():
        opt = optimizer([0.1])
        return opt, m.ExponentialLR(opt, 0.5), m.ReduceLROnPlateau(opt)

    saved, fresh = build(), build()
    saved[0].step(), saved[1].step(), saved[2].step(1.0)
    saved[0].param_groups[0]["lr"] = 0.1
    for part, other in zip(fresh, saved, strict=True):
        state = copy.deepcopy(other.state_dict())
        state.pop("fusedsched", None)
        part.load_state_dict(state)
    assert rate(fresh[0]) == 0.1
    return rate(fresh[0])


def test_loading_shares_nothing():
    """A loaded scheduler has lists of its own; torch's shares them with the one that was saved."""
    opt, sched = optimizer([0.3]), None
    sched = ours.StepLR(opt, 2)
    fresh = optimizer([0.3])
    other = ours.StepLR(fresh, 2)
    other.load_state_dict(sched.state_dict())
    other.base_lrs[0] = 7.0
    assert sched.base_lrs == [0.3]


def nested(m, opt):
    """A chain and two leaves in a sequence."""
    chain = m.ChainedScheduler([m.LinearLR(opt, total_iters=7), m.ExponentialLR(opt, gamma=0.9)])
    return m.SequentialLR(opt, [chain, m.CosineAnnealingWarmRestarts(opt, 3), m.PolynomialLR(opt, 9, 2.0)], [5, 12])


def leaves(m, opt):
    return m.SequentialLR(opt, [m.LinearLR(opt, 0.5, 1.0, 4), m.ExponentialLR(opt, 0.9)], [4])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("at", [2, 5, 6, 7, 13])
@pytest.mark.parametrize(("build", "package"), [(nested, ours), (leaves, ours), (leaves, theirs)])
def test_states_of_compositions_beside_a_plateau(build, package, at, order):
    """Ours continue to the bit from their own state, and from one of torch's compositions, the rates with it."""

    def made(m):
        opt = optimizer([0.3, 0.2])
        # A state of torch's has no word about rates that others have written.
        plateau = m.ReduceLROnPlateau(opt, factor=0.5, patience=1 if package is ours else 99)
        return {"optimizer": opt, "scheduler": build(m, opt), "plateau": plateau}

    def go(parts, n):
        seen = []
        for _ in range(n):
            parts["scheduler"].step()
            parts["plateau"].step(1.0)
            seen.append(numbers(parts["optimizer"]))
        return seen

    whole, fresh = made(package), made(ours)
    go(whole, at)
    for name in (*order.split(", "), "plateau")[:: -1 if order == ORDERS[0] else 1]:
        fresh[name].load_state_dict(copy.deepcopy(whole[name].state_dict()))
    expected = go(whole, 15)
    assert close(go(fresh, 15), expected, 0.0 if package is ours else 1e-11)
