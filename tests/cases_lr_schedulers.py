# SPDX-License-Identifier: Apache-2.0
"""The drop-in schedulers: each with its torch twin and random configurations; and the arguments they must refuse."""

import math
import os
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch.optim import lr_scheduler as theirs
from torch.optim.swa_utils import SWALR

import fusedsched
from fusedsched import lr_scheduler as ours

SEED = int(os.environ.get("FUSEDSCHED_SEED", "20240517"))


class Scheduler(NamedTuple):
    """One class: a random configuration (rng, number of groups) -> keyword arguments; what it can do."""

    name: str
    configure: Callable[[random.Random, int], dict[str, Any]]
    closed_form: bool = True  # a step between edits takes the fast path
    recomputes: bool = False  # an edit of the rate is forgotten at the next step
    takes_epoch: bool = True  # step(epoch) has torch's closed form

    @property
    def ours(self) -> type:
        return getattr(ours, self.name)

    @property
    def theirs(self) -> type:
        return SWALR if self.name == "SWALR" else getattr(theirs, self.name)


def rates(rng, groups):
    """One rate, or one for each group."""
    return rng.choice([rng.uniform(0.01, 1.0), [rng.uniform(0.01, 1.0) for _ in range(groups)]])


def cosine(rng, groups):
    return {"T_max": rng.choice([1, 2, 7, 50, 333]), "eta_min": rng.choice([0.0, 0.003, 0.4])}


def cyclic(rng, groups):
    return {
        "base_lr": rates(rng, groups),
        "max_lr": rates(rng, groups),
        "step_size_up": rng.randint(1, 40),
        "step_size_down": rng.choice([None, 1, 17]),
        "mode": rng.choice(["triangular", "triangular2", "exp_range"]),
        "gamma": rng.uniform(0.99, 1.0),
    }


def one_cycle(rng, groups):
    total = rng.choice([7, 50, 999, 20_000])
    return {
        "max_lr": rates(rng, groups),
        "total_steps": total,
        "pct_start": rng.choice([0.0, 0.25, 0.3, 0.77]),
        "anneal_strategy": rng.choice(["cos", "linear"]),
        "three_phase": rng.choice([False, True]),
        "div_factor": rng.uniform(1.0, 30.0),
    }


def swa(rng, groups):
    return {
        "swa_lr": rates(rng, groups),
        "anneal_epochs": rng.choice([0, 1, 10, 200]),
        "anneal_strategy": rng.choice(["cos", "linear"]),
    }


def functions(rng, groups):
    a = rng.uniform(0.9, 1.0)
    one = lambda t: a ** (t % 7)  # noqa: E731
    return {"lr_lambda": rng.choice([one, [one] * groups])}


SCHEDULERS = [
    Scheduler("StepLR", lambda r, n: {"step_size": r.randint(1, 90), "gamma": r.uniform(0.5, 1.1)}),
    Scheduler(
        "MultiStepLR",
        lambda r, n: {"milestones": [r.randint(0, 300) for _ in range(r.randint(0, 9))], "gamma": r.uniform(0.1, 1.2)},
    ),
    Scheduler("ConstantLR", lambda r, n: {"factor": r.uniform(0.1, 1.0), "total_iters": r.randint(0, 50)}),
    Scheduler(
        "LinearLR",
        lambda r, n: {
            "start_factor": r.uniform(0.01, 1.0),
            "end_factor": r.choice([0.0, 1.0, r.uniform(0.0, 1.0)]),
            "total_iters": r.choice([0, 1, 2, 40, 9000]),
        },
        takes_epoch=False,  # torch's closed form divides by total_iters, which may be 0
    ),
    Scheduler("ExponentialLR", lambda r, n: {"gamma": r.uniform(0.95, 1.0002)}),
    Scheduler("PolynomialLR", lambda r, n: {"total_iters": r.choice([1, 2, 40, 9000]), "power": r.uniform(0.0, 3.0)}),
    Scheduler("CosineAnnealingLR", cosine),
    Scheduler("SWALR", swa, takes_epoch=False),
    Scheduler(
        "CosineAnnealingWarmRestarts",
        lambda r, n: {"T_0": r.randint(1, 20), "T_mult": r.randint(1, 3), "eta_min": r.choice([0, 0.003])},
        recomputes=True,
    ),
    Scheduler("CyclicLR", cyclic, recomputes=True),
    Scheduler("OneCycleLR", one_cycle, recomputes=True, takes_epoch=False),
    Scheduler("LambdaLR", functions, closed_form=False, recomputes=True),
    Scheduler("MultiplicativeLR", functions, closed_form=False, takes_epoch=False),
]


class ThreeBetas(torch.optim.SGD):
    """An optimizer whose betas are three, as in AdEMAMix."""

    def __init__(self, params, lr):
        super().__init__(params, lr=lr)
        self.defaults["betas"] = (0.9, 0.99, 0.999)
        for group in self.param_groups:
            group["betas"] = (0.9, 0.99, 0.999)


def optimizer(lrs, kind="sgd"):
    """An optimizer with one group for each rate, on which `step()` has been called."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs]
    make = {
        "sgd": lambda: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
        "adam": lambda: torch.optim.Adam(groups, lr=0.1),
        "three": lambda: ThreeBetas(groups, lr=0.1),
        "our sgd": lambda: fusedsched.SGD(groups, lr=0.1, momentum=0.9),
        "our adam": lambda: fusedsched.Adam(groups, lr=0.1),
    }
    opt = make[kind]()
    if kind.startswith("our"):
        opt.step()  # its schedulers ask for its plan
    opt._opt_called = True  # so that the schedulers do not warn about the order of calls
    return opt


def numbers(opt):
    """All that a scheduler writes: (rate, momentum or beta1) of each group, as floats."""
    found = []
    for group in opt.param_groups:
        momentum = group["betas"][0] if "betas" in group else group.get("momentum", 0.0)
        found.append((float(group["lr"]), float(momentum)))
    return found


def rate(opt, i=0):
    """One group's rate."""
    return float(opt.param_groups[i]["lr"])


def curve(opt, sched, n, i=0):
    """That rate now and after each of n - 1 steps."""
    values = [rate(opt, i)]
    for _ in range(n - 1):
        sched.step()
        values.append(rate(opt, i))
    return values


def near(values):
    """For comparisons of curves."""
    return pytest.approx(values, rel=1e-12, abs=1e-15)


def arguments_of(row, groups=2):
    """One configuration that lasts for hundreds of steps."""
    arguments = row.configure(random.Random(SEED + 1), groups)
    arguments.update({"total_steps": 999} if "total_steps" in arguments else {})
    return arguments


def make(row, package="ours", lrs=(0.3, 0.2), kind="sgd"):
    """(optimizer, scheduler) of that configuration."""
    opt = optimizer(list(lrs), kind)
    return opt, getattr(row, package)(opt, **arguments_of(row, len(lrs)))


def run(opt, sched, n):
    """What n steps write."""
    seen = []
    for _ in range(n):
        sched.step()
        seen.append(numbers(opt))
    return seen


class Bad(NamedTuple):
    """A constructor call that must raise before anything is changed; `torch_says`: torch's own sentence comes first."""

    name: str
    arguments: dict[str, Any]
    error: type[Exception]
    message: str
    kind: str = "sgd"


NAN = math.nan
BAD_SCHEDULERS = [
    Bad("StepLR", {"step_size": 0}, ValueError, r"StepLR: invalid step_size: 0\. It must be a number and not be 0"),
    Bad("StepLR", {"step_size": 3, "gamma": NAN}, ValueError, r"invalid gamma: nan\. It must be a finite number"),
    Bad("StepLR", {"step_size": "3"}, TypeError, r"step_size must be a number, got '3'"),
    Bad("StepLR", {"step_size": 3, "last_epoch": 4}, KeyError, r"param 'initial_lr' is not specified in param_groups"),
    Bad("StepLR", {"step_size": 3, "last_epoch": "4"}, ValueError, r"Invalid last_epoch: '4'"),
    Bad("MultiStepLR", {"milestones": [1, NAN]}, ValueError, r"invalid milestones\[1\]: nan"),
    Bad("ConstantLR", {"factor": NAN}, ValueError, r"^Constant multiplicative factor expected to be between 0 and 1\."),
    Bad("ConstantLR", {"factor": 1.5}, ValueError, r"^Constant multiplicative factor .* got factor=1\.5"),
    Bad(
        "LinearLR", {"start_factor": 0.0}, ValueError, r"^Starting multiplicative factor expected to be greater than 0"
    ),
    Bad("LinearLR", {"end_factor": NAN}, ValueError, r"^Ending multiplicative factor .* got end_factor=nan"),
    Bad("LinearLR", {"total_iters": NAN}, ValueError, r"invalid total_iters: nan"),
    Bad("ExponentialLR", {"gamma": math.inf}, ValueError, r"invalid gamma: inf"),
    Bad("ExponentialLR", {"gamma": None}, TypeError, r"gamma must be a number, got None"),
    Bad(
        "PolynomialLR",
        {"power": -1.0},
        ValueError,
        r"invalid power: -1\.0\. It must be a finite number and be 0 or more",
    ),
    Bad("CosineAnnealingLR", {"T_max": 0}, ValueError, r"invalid T_max: 0"),
    Bad("CosineAnnealingLR", {"T_max": 5, "eta_min": NAN}, ValueError, r"invalid eta_min: nan"),
    Bad("CosineAnnealingWarmRestarts", {"T_0": 0}, ValueError, r"^Expected positive integer T_0, but got 0"),
    Bad("CosineAnnealingWarmRestarts", {"T_0": 2, "T_mult": 0.5}, ValueError, r"^Expected integer T_mult >= 1"),
    Bad("CyclicLR", {"base_lr": 0.1, "max_lr": 1, "step_size_up": 0}, ValueError, r"invalid step_size_up: 0"),
    Bad(
        "CyclicLR",
        {"base_lr": 0.1, "max_lr": 1, "mode": "square"},
        ValueError,
        r"^mode is invalid and scale_fn is None",
    ),
    Bad(
        "CyclicLR",
        {"base_lr": 0.1, "max_lr": [1]},
        ValueError,
        r"^max_lr must have the same length as optimizer\.param",
    ),
    Bad("CyclicLR", {"base_lr": 0.1, "max_lr": 1}, ValueError, r"^optimizer must support momentum or beta1", "plain"),
    Bad(
        "OneCycleLR",
        {"max_lr": 1},
        ValueError,
        r"^You must define either total_steps OR \(epochs AND steps_per_epoch\)",
    ),
    Bad("OneCycleLR", {"max_lr": 1, "total_steps": -5}, ValueError, r"^Expected positive integer total_steps"),
    Bad("OneCycleLR", {"max_lr": 1, "total_steps": 9, "div_factor": 0}, ValueError, r"invalid div_factor: 0"),
    Bad("OneCycleLR", {"max_lr": 1, "total_steps": 9, "pct_start": 1}, ValueError, r"^Expected float between 0 and 1"),
    Bad(
        "OneCycleLR",
        {"max_lr": 1, "total_steps": 9, "anneal_strategy": "x"},
        ValueError,
        r"^anneal_strategy must be one",
    ),
    Bad(
        "OneCycleLR", {"max_lr": 1, "total_steps": 9, "base_momentum": [1]}, ValueError, r"^base_momentum must have the"
    ),
    Bad("OneCycleLR", {"max_lr": 1, "total_steps": 9}, ValueError, r"^optimizer must support momentum", "plain"),
    Bad(
        "SWALR",
        {"swa_lr": 0.1, "anneal_strategy": "x"},
        ValueError,
        r"^anneal_strategy must be one of 'cos' or 'linear'",
    ),
    Bad("SWALR", {"swa_lr": 0.1, "anneal_epochs": -1}, ValueError, r"^anneal_epochs must be equal or greater than 0"),
    Bad("SWALR", {"swa_lr": [0.1]}, ValueError, r"^swa_lr must have the same length"),
    Bad("LambdaLR", {"lr_lambda": 3}, TypeError, r"^lr_lambda should be a function, but got int"),
    Bad("LambdaLR", {"lr_lambda": [abs]}, ValueError, r"^Expected 2 lr_lambdas, but got 1"),
    Bad("MultiplicativeLR", {"lr_lambda": [abs, 3]}, TypeError, r"^lr_lambda should be a function, but got int"),
    Bad("ReduceLROnPlateau", {"factor": 1.0}, ValueError, r"^Factor should be < 1\.0\."),
    Bad("ReduceLROnPlateau", {"factor": NAN}, ValueError, r"invalid factor: nan"),
    Bad("ReduceLROnPlateau", {"mode": "best"}, ValueError, r"^mode best is unknown!"),
    Bad("ReduceLROnPlateau", {"min_lr": [0.1]}, ValueError, r"^expected 2 min_lrs, got 1"),
    Bad(
        "SequentialLR",
        {"schedulers": [], "milestones": []},
        ValueError,
        r"^SequentialLR expects at least one scheduler",
    ),
    Bad("SequentialLR", {"schedulers": [3], "milestones": []}, TypeError, r"^SequentialLR at index 0 should have"),
    Bad("SequentialLR", {"schedulers": [], "milestones": 3}, TypeError, r"milestones must be a list of steps, got 3"),
]
