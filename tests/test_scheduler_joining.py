# SPDX-License-Identifier: Apache-2.0
"""Trap m11, groups that are added after the scheduler: they join as if they had been there from the start."""

import random

import pytest
import torch
from cases_lr_schedulers import SCHEDULERS, SEED, near, numbers, optimizer, rate
from torch.optim import lr_scheduler as theirs

from fusedsched import lr_scheduler as ours
from fusedsched.lr_scheduler import joining, scheduled


def joined(row, arguments, late, steps=25):
    """The last group's numbers when it joins after `late` steps (None: is there from the start)."""
    lrs = [0.3, 0.2]
    opt = optimizer(lrs if late is not None else [*lrs, 0.4])
    sched, seen = row.ours(opt, **arguments), []
    for t in range(steps):
        if t == late:
            opt.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.4})
        sched.step()
        seen.append(numbers(opt)[-1])
    return seen


@pytest.mark.parametrize("row", SCHEDULERS, ids=lambda row: row.name)
def test_a_group_that_joins_late(row):
    """Law: from its first step on it has the rates that it would have had from the start."""
    rng = random.Random(SEED)
    arguments = {k: v[0] if isinstance(v, list) and k != "milestones" else v for k, v in row.configure(rng, 2).items()}
    arguments.update({"total_steps": 999} if "total_steps" in arguments else {})
    expected = joined(row, arguments, None)
    for late in (0, 1, 2, 13):
        for mine, right in zip(joined(row, arguments, late)[late:], expected[late:], strict=True):
            assert mine == near(right), late


@pytest.mark.parametrize("row", SCHEDULERS, ids=lambda row: row.name)
@pytest.mark.parametrize("edited", [False, True])
def test_a_group_that_is_split_off(row, edited):
    """Law: parameters that move to a group of their own keep the rates that they had with the others."""
    rng = random.Random(SEED + 3)
    arguments = {k: v[0] if isinstance(v, list) and k != "milestones" else v for k, v in row.configure(rng, 1).items()}
    arguments.update({"total_steps": 999} if "total_steps" in arguments else {})
    opt = optimizer([0.3])
    scheds = [row.ours(opt, **arguments), ours.ExponentialLR(opt, 0.99)]
    for t in range(30):
        if t == 5 and edited:
            opt.param_groups[0]["lr"] *= 0.5
        if t == 7:
            opt.add_param_group({**opt.param_groups[0], "params": [torch.nn.Parameter(torch.zeros(1))]})
        for sched in scheds:
            sched.step()
        assert numbers(opt)[-1] == near(numbers(opt)[0]), t


@pytest.mark.parametrize(
    "name", ["LambdaLR", "CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR", "LinearLR", "StepLR"]
)
def test_torch_and_a_group_that_joins_late(name):
    """torch: an error, or a wrong phase."""
    arguments = {
        "LambdaLR": {"lr_lambda": lambda t: 1.0},
        "CosineAnnealingWarmRestarts": {"T_0": 5},
        "CyclicLR": {"base_lr": 0.1, "max_lr": 0.2},
        "OneCycleLR": {"max_lr": 0.2, "total_steps": 50},
        "LinearLR": {"start_factor": 0.5},
        "StepLR": {"step_size": 2},
    }[name]
    opt = optimizer([0.3])
    sched = getattr(theirs, name)(opt, **arguments)
    for _ in range(3):
        sched.step()
    opt.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.3})
    try:
        sched.step()
    except (ValueError, KeyError):
        return
    assert rate(opt, 1) != near(rate(opt, 0))


def test_a_late_group_in_a_composition():
    """Law: in chains and sequences too."""
    for late in (None, 0, 3, 9, 14):
        opt = optimizer([0.3] if late is not None else [0.3, 0.4])
        chain = ours.ChainedScheduler([ours.LinearLR(opt, total_iters=7), ours.ExponentialLR(opt, gamma=0.9)])
        tail = ours.CosineAnnealingLR(opt, T_max=10, eta_min=0.01)
        sched = ours.SequentialLR(opt, [chain, tail], [11])
        for t in range(20):
            if t == late:
                opt.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.4})
            sched.step()
            if late is None and t == 9:
                expected_early = rate(opt, 1)
        if late is None:
            expected = rate(opt, 1)
        else:
            assert rate(opt, 1) == near(expected), late
    assert expected_early != expected


def test_a_late_group_of_a_plateau():
    opt = optimizer([0.4])
    sched = ours.ReduceLROnPlateau(opt, factor=0.5, patience=0)
    sched.step(1.0)
    opt.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.2})
    sched.step(1.0)
    assert [rate(opt, 0), rate(opt, 1)] == sched.get_last_lr() == [0.2, 0.1]


@pytest.mark.parametrize(
    "name, arguments, where",
    [
        ("LambdaLR", {"lr_lambda": [abs, lambda t: 1.0]}, "lr_lambdas"),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": [0.3, 0.4]}, "max_lrs"),
        ("OneCycleLR", {"max_lr": [0.3, 0.4], "total_steps": 9}, "max_lr"),
        ("SWALR", {"swa_lr": [0.3, 0.4]}, "swa_lr"),
    ],
)
def test_a_late_group_where_each_has_its_own(name, arguments, where):
    """Nobody said what the new group gets: an error that says where to say it, and nothing is changed."""
    opt = optimizer([0.1, 0.2])
    sched = getattr(ours, name)(opt, **arguments)
    opt.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.4})
    before, lists = numbers(opt), {k: v for k, v in sched.__dict__.items() if isinstance(v, list)}
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"^{where} must have the same length.*before the next scheduler\.step"):
            sched.step()
    assert numbers(opt) == before and lists == {k: sched.__dict__[k] for k in lists}
    if name == "CyclicLR":
        sched.max_lrs.append(0.5)
        sched.step()
        assert rate(opt, 2) == near(0.1 + 0.4 / 2000)


def test_a_joined_group_with_a_wrong_phase_is_found(monkeypatch):
    """Mutant: a group whose own phase begins when it joins breaks the law above."""
    monkeypatch.setattr(scheduled, "join", lambda s, i, group: (s.last_epoch, joining.join(s, i, group)[1]))
    row = next(r for r in SCHEDULERS if r.name == "ExponentialLR")
    with pytest.raises(AssertionError):
        test_a_group_that_joins_late(row)
