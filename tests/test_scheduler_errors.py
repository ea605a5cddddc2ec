# SPDX-License-Identifier: Apache-2.0
"""Law: a bad argument is refused by name, before the optimizer is changed; where torch refuses it, in its words."""

import copy

import pytest
import torch
from cases_lr_schedulers import BAD_SCHEDULERS, optimizer

from fusedsched import lr_scheduler


class Plain(torch.optim.Optimizer):
    """An optimizer with neither momentum nor betas."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})


def two_groups(kind):
    if kind == "plain":
        return Plain([{"params": [torch.zeros(1)], "lr": lr} for lr in (0.1, 0.2)], lr=0.1)
    return optimizer([0.1, 0.2], kind)


def seen(opt):
    return [{key: copy.copy(v) for key, v in group.items() if key != "params"} for group in opt.param_groups]


@pytest.mark.parametrize("row", BAD_SCHEDULERS, ids=lambda row: f"{row.name}-{'-'.join(row.arguments)}")
def test_refused_before_anything_changed(row):
    arguments = {"gamma": 0.5} if row.name == "ExponentialLR" else {}
    opt = two_groups(row.kind)
    before = seen(opt)
    with pytest.raises(row.error, match=row.message):
        getattr(lr_scheduler, row.name)(opt, **{**arguments, **row.arguments})
    assert seen(opt) == before
    assert "step" not in opt.__dict__ or row.kind != "plain"


@pytest.mark.parametrize("name", [n for n in lr_scheduler.__all__ if n not in ("LRScheduler", "ChainedScheduler")])
def test_what_is_no_optimizer(name):
    cls = getattr(lr_scheduler, name)
    arguments = {"SequentialLR": ([], []), "CyclicLR": (0.1, 0.2), "ReduceLROnPlateau": ()}.get(name, (1,))
    with pytest.raises(TypeError, match="^int is not an Optimizer"):
        cls(3, *arguments)


def test_members_of_another_optimizer():
    opt, other = two_groups("sgd"), two_groups("sgd")
    member = lr_scheduler.StepLR(other, 3)
    before = seen(opt)
    for make in (
        lambda: lr_scheduler.SequentialLR(opt, [member], []),
        lambda: lr_scheduler.ChainedScheduler([member], opt),
    ):
        with pytest.raises(ValueError, match="expects all schedulers to belong to the same optimizer"):
            make()
    with pytest.raises(ValueError, match="expects at least one scheduler to be chained"):
        lr_scheduler.ChainedScheduler([])
    with pytest.raises(ValueError, match="one more than the number of milestone points"):
        lr_scheduler.SequentialLR(other, [member], [3])
    assert seen(opt) == before


def test_never_is_a_number_of_steps():
    """What torch takes and never fails on stays allowed: an infinite number of steps means never."""
    inf = float("inf")
    for cls, arguments in (
        (lr_scheduler.StepLR, {"step_size": inf}),
        (lr_scheduler.ConstantLR, {"factor": 1.0, "total_iters": inf}),
        (lr_scheduler.PolynomialLR, {"total_iters": inf}),
        (lr_scheduler.MultiStepLR, {"milestones": [inf]}),
        (lr_scheduler.CosineAnnealingLR, {"T_max": inf}),
    ):
        opt = optimizer([0.25])
        sched = cls(opt, **arguments)
        for _ in range(3):
            sched.step()
        assert opt.param_groups[0]["lr"] == 0.25
