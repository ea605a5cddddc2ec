# SPDX-License-Identifier: Apache-2.0
"""The one table of drop-in schedulers: random arguments of each class, and one configuration of each kind by name."""

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


def _swa(m):
    return getattr(m, "SWALR", SWALR)


def _warmup(m, o, last):
    return m.SequentialLR(o, [m.LinearLR(o, 0.1, total_iters=4), last], milestones=[4])


# name -> a scheduler whose whole shape is seen within 40 steps. `m`: our module or torch's. `end`: where there is one.
CONFIGURED: dict[str, Callable[..., Any]] = {
    "StepLR": lambda o, m=ours, **k: m.StepLR(o, step_size=3, gamma=0.5, **k),
    "MultiStepLR": lambda o, m=ours, **k: m.MultiStepLR(o, milestones=[4, 9, 9], gamma=0.6, **k),
    "ConstantLR": lambda o, m=ours, end=6, **k: m.ConstantLR(o, factor=0.5, total_iters=end, **k),
    "LinearLR": lambda o, m=ours, end=9, **k: m.LinearLR(o, start_factor=0.2, total_iters=end, **k),
    "LinearLR to 0": lambda o, m=ours, end=9, **k: m.LinearLR(
        o, start_factor=1.0, end_factor=0.0, total_iters=end, **k
    ),
    "ExponentialLR": lambda o, m=ours, **k: m.ExponentialLR(o, gamma=0.9, **k),
    "PolynomialLR": lambda o, m=ours, end=11, **k: m.PolynomialLR(o, total_iters=end, power=2.0, **k),
    "CosineAnnealingLR": lambda o, m=ours, end=6, **k: m.CosineAnnealingLR(o, T_max=end, eta_min=0.01, **k),
    "CosineAnnealingLR of 1": lambda o, m=ours, end=1, **k: m.CosineAnnealingLR(o, T_max=end, eta_min=0.01, **k),
    "SWALR": lambda o, m=ours, end=8, **k: _swa(m)(o, swa_lr=0.05, anneal_epochs=end, **k),
    "SWALR, linear": lambda o, m=ours, end=8, **k: _swa(m)(o, 0.05, anneal_epochs=end, anneal_strategy="linear", **k),
    "CosineAnnealingWarmRestarts": lambda o, m=ours, **k: m.CosineAnnealingWarmRestarts(o, T_0=4, T_mult=2, **k),
    "CyclicLR": lambda o, m=ours, **k: m.CyclicLR(o, 0.01, 0.1, step_size_up=4, mode="triangular2", **k),
    "OneCycleLR": lambda o, m=ours, end=60, **k: m.OneCycleLR(o, max_lr=0.2, total_steps=end, **k),
    "SequentialLR": lambda o, m=ours, end=25, **k: m.SequentialLR(
        o, [m.LinearLR(o, 0.1, total_iters=5), m.CosineAnnealingLR(o, T_max=end - 5)], milestones=[5], **k
    ),
    "ChainedScheduler": lambda o, m=ours, **k: m.ChainedScheduler([m.ExponentialLR(o, 0.9), m.StepLR(o, 4)], **k),
}
CLOSED_FORM = tuple(CONFIGURED)  # they run on a device
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "LambdaLR": lambda o, m=ours, **k: m.LambdaLR(o, lambda t: 1.0 / (1.0 + 0.1 * t), **k),
    "MultiplicativeLR": lambda o, m=ours, **k: m.MultiplicativeLR(o, lambda t: 0.9, **k),
}
METRIC: dict[str, Callable[..., Any]] = {
    "ReduceLROnPlateau": lambda o, m=ours, **k: m.ReduceLROnPlateau(o, factor=0.5, patience=1, **k),
    "GreedyLR": lambda o, m=ours, **k: m.GreedyLR(o, patience=1, smooth=True, window_size=3, **k),
    "warmup, plateau": lambda o, m=ours: _warmup(m, o, m.ReduceLROnPlateau(o, patience=1)),
}
COMPOSED: dict[str, Callable[..., Any]] = {
    "SequentialLR of three": lambda o, m=ours, end=40, **k: m.SequentialLR(
        o, [m.LinearLR(o, 0.1, total_iters=5), m.StepLR(o, 4), m.CosineAnnealingLR(o, end)], milestones=[5, 15], **k
    ),
    "SequentialLR, before its last": lambda o, m=ours, end=40, **k: m.SequentialLR(
        o, [m.ExponentialLR(o, 0.9), m.PolynomialLR(o, end - 20)], milestones=[20], **k
    ),
    "SequentialLR of sequences": lambda o, m=ours, **k: m.SequentialLR(
        o, [m.ExponentialLR(o, 0.9), m.SequentialLR(o, [m.LinearLR(o, 0.1), m.StepLR(o, 2)], [3])], [4], **k
    ),
    "SequentialLR, then a chain": lambda o, m=ours, **k: m.SequentialLR(
        o, [m.LinearLR(o, 0.1, total_iters=3), CONFIGURED["ChainedScheduler"](o, m)], [3], **k
    ),
    "SequentialLR of chains": lambda o, m=ours, **k: m.SequentialLR(
        o, [m.ChainedScheduler([m.ExponentialLR(o, 0.9), m.StepLR(o, 3)]), FUNCTIONS["LambdaLR"](o, m)], [9], **k
    ),
    "ChainedScheduler with an end": lambda o, m=ours, end=40, **k: m.ChainedScheduler(
        [m.LinearLR(o, 0.5, total_iters=20), m.PolynomialLR(o, end)], **k
    ),
    "OneCycleLR, climbing": lambda o, m=ours, end=40: m.OneCycleLR(o, 0.5, total_steps=end, pct_start=0.5),
    "OneCycleLR, three phases": lambda o, m=ours, end=40: m.OneCycleLR(
        o, 0.5, total_steps=end, pct_start=0.25, three_phase=True, anneal_strategy="linear"
    ),
}
CONFIGURED |= FUNCTIONS | METRIC | COMPOSED


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
