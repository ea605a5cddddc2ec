# SPDX-License-Identifier: Apache-2.0
"""A bad argument is refused by name, before the optimizer is changed; where torch refuses it, in its words."""

import copy
import math
from typing import Any, NamedTuple

import pytest
import torch
from cases_lr_schedulers import optimizer

from fusedsched import lr_scheduler


class Bad(NamedTuple):
    """A constructor call that must raise before anything is changed; `torch_says`: torch's own sentence comes first."""

    name: str
    arguments: dict[str, Any]
    error: type[Exception]
    message: str
    kind: str = "sgd"


NAN = math.nan
BAD = [
    Bad("StepLR", {"step_size": 0}, ValueError, r"StepLR: invalid step_size: 0\. It must be a number and not be 0"),
    Bad("StepLR", {"step_size": 3, "gamma": NAN}, ValueError, r"invalid gamma: nan\. It must be a finite number"),
    Bad("StepLR", {"step_size": "3"}, TypeError, r"step_size must be a number, got '3'"),
    Bad("StepLR", {"step_size": 3, "last_epoch": 4}, KeyError, r"param 'initial_lr' is not specified in param_groups"),
    Bad("StepLR", {"step_size": 3, "last_epoch": "4"}, ValueError, r"Invalid last_epoch: '4'"),
    Bad("MultiStepLR", {"milestones": [1, NAN]}, ValueError, r"invalid milestones\[1\]: nan"),
    Bad("ConstantLR", {"factor": NAN}, ValueError, r"^Constant multiplicative factor expected to be between 0 and 1\."),
    Bad("ConstantLR", {"factor": 1.5}, ValueError, r"^Constant multiplicative factor .* got factor=1\.5"),
    Bad("LinearLR", {"start_factor": 0.0}, ValueError,
     r"^Starting multiplicative factor expected to be greater than 0"),
    Bad("LinearLR", {"end_factor": NAN}, ValueError, r"^Ending multiplicative factor .* got end_factor=nan"),
    Bad("LinearLR", {"total_iters": NAN}, ValueError, r"invalid total_iters: nan"),
    Bad("ExponentialLR", {"gamma": math.inf}, ValueError, r"invalid gamma: inf"),
    Bad("ExponentialLR", {"gamma": None}, TypeError, r"gamma must be a number, got None"),
    Bad("PolynomialLR", {"power": -1.0}, ValueError,
     r"invalid power: -1\.0\. It must be a finite number and be 0 or more"),
    Bad("CosineAnnealingLR", {"T_max": 0}, ValueError, r"invalid T_max: 0"),
    Bad("CosineAnnealingLR", {"T_max": 5, "eta_min": NAN}, ValueError, r"invalid eta_min: nan"),
    Bad("CosineAnnealingWarmRestarts", {"T_0": 0}, ValueError, r"^Expected positive integer T_0, but got 0"),
    Bad("CosineAnnealingWarmRestarts", {"T_0": 2, "T_mult": 0.5}, ValueError, r"^Expected integer T_mult >= 1"),
    Bad("CyclicLR", {"base_lr": 0.1, "max_lr": 1, "step_size_up": 0}, ValueError, r"invalid step_size_up: 0"),
    Bad("CyclicLR", {"base_lr": 0.1, "max_lr": 1, "mode": "square"}, ValueError,
     r"^mode is invalid and scale_fn is None"),
    Bad("CyclicLR", {"base_lr": 0.1, "max_lr": [1]}, ValueError,
     r"^max_lr must have the same length as optimizer\.param"),
    Bad("CyclicLR", {"base_lr": 0.1, "max_lr": 1}, ValueError, r"^optimizer must support momentum or beta1", "plain"),
    Bad("OneCycleLR", {"max_lr": 1}, ValueError,
     r"^You must define either total_steps OR \(epochs AND steps_per_epoch\)"),
    Bad("OneCycleLR", {"max_lr": 1, "total_steps": -5}, ValueError, r"^Expected positive integer total_steps"),
    Bad("OneCycleLR", {"max_lr": 1, "total_steps": 9, "div_factor": 0}, ValueError, r"invalid div_factor: 0"),
    Bad("OneCycleLR", {"max_lr": 1, "total_steps": 9, "pct_start": 1}, ValueError, r"^Expected float between 0 and 1"),
    Bad("OneCycleLR", {"max_lr": 1, "total_steps": 9, "anneal_strategy": "x"}, ValueError,
     r"^anneal_strategy must be one"),
    Bad("OneCycleLR", {"max_lr": 1, "total_steps": 9, "base_momentum": [1]}, ValueError,
     r"^base_momentum must have the"),
    Bad("OneCycleLR", {"max_lr": 1, "total_steps": 9}, ValueError, r"^optimizer must support momentum", "plain"),
    Bad("SWALR", {"swa_lr": 0.1, "anneal_strategy": "x"}, ValueError,
     r"^anneal_strategy must be one of 'cos' or 'linear'"),
    Bad("SWALR", {"swa_lr": 0.1, "anneal_epochs": -1}, ValueError, r"^anneal_epochs must be equal or greater than 0"),
    Bad("SWALR", {"swa_lr": [0.1]}, ValueError, r"^swa_lr must have the same length"),
    Bad("LambdaLR", {"lr_lambda": 3}, TypeError, r"^lr_lambda should be a function, but got int"),
    Bad("LambdaLR", {"lr_lambda": [abs]}, ValueError, r"^Expected 2 lr_lambdas, but got 1"),
    Bad("MultiplicativeLR", {"lr_lambda": [abs, 3]}, TypeError, r"^lr_lambda should be a function, but got int"),
    Bad("ReduceLROnPlateau", {"factor": 1.0}, ValueError, r"^Factor should be < 1\.0\."),
    Bad("ReduceLROnPlateau", {"factor": NAN}, ValueError, r"invalid factor: nan"),
    Bad("ReduceLROnPlateau", {"mode": "best"}, ValueError, r"^mode best is unknown!"),
    Bad("ReduceLROnPlateau", {"min_lr": [0.1]}, ValueError, r"^expected 2 min_lrs, got 1"),
    Bad("SequentialLR", {"schedulers": [], "milestones": []}, ValueError,
     r"^SequentialLR expects at least one scheduler"),
    Bad("SequentialLR", {"schedulers": [3], "milestones": []}, TypeError, r"^SequentialLR at index 0 should have"),
    Bad("SequentialLR", {"schedulers": [], "milestones": 3}, TypeError, r"milestones must be a list of steps, got 3"),
]  # fmt: skip


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


@pytest.mark.parametrize("row", BAD, ids=lambda row: f"{row.name}-{'-'.join(row.arguments)}")
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
