# SPDX-License-Identifier: Apache-2.0
"""Compares each evaluator of schedules with the Python one, and the drop-in schedulers with the installed torch."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from fusedsched import _native, torch_originals
from fusedsched.verify import machine
from fusedsched.verify.bounds import EVALUATOR_ULPS, SCHEDULER_ERROR, Verdict
from fusedsched.verify.check import QUICK, Check, Level
from fusedsched.verify.table import NAMED

LARGEST_CLOCK = 2**40


def evaluators() -> dict[str, Callable[[Any, list[float]], list[float]]]:
    """The evaluators on this machine, by name: `evaluate(schedule, clocks) -> values`."""
    found = {"Python": lambda schedule, clocks: [schedule(clock) for clock in clocks]}
    module = _native.module()
    if module is not None:
        found["C++"] = lambda schedule, clocks: module.evaluate(schedule.program.table, clocks)
    return found | {backend: partial(_displayed, backend) for backend in machine.present()}


def _displayed(backend: str, schedule: Any, clocks: list[float]) -> list[float]:
    """The values that an optimizer displays for the next update, with its clock set to each of these."""
    p = torch.zeros(1, device=machine.device_of(backend)).requires_grad_()
    optimizer = machine.build(backend, "SGD", [p], lr=schedule)
    values = []
    for clock in clocks:
        optimizer._runtime.clocks.set([int(clock), 0, 0, 0])
        optimizer._runtime.ready().advance(0, 0)  # writes the displayed value
        values.append(float(optimizer.param_groups[0]["lr"]))
    return values


def _clocks(schedule: Any, randoms: int) -> list[float]:
    edges = {0.0, 1.0, 2.0**31, float(LARGEST_CLOCK)}
    for row in schedule.program.rows:
        edges |= {row[0], row[0] + row[2], row[0] + row[6]}
    near = {edge + offset for edge in edges for offset in (-1.0, 0.0, 1.0) if 0.0 <= edge + offset <= LARGEST_CLOCK}
    draw = random.Random(len(near))
    return sorted(near) + [float(draw.randrange(2 ** draw.randrange(1, 41))) for _ in range(randoms)]


def compare_evaluators(name: str, schedule: str, randoms: int = 200) -> Verdict:
    """The largest distance between an evaluator and the Python one, in ulp of float64; allowed: 4 per factor."""
    return judge_evaluator(name, NAMED[schedule](), randoms)


def judge_evaluator(name: str, expression: Any, randoms: int) -> Verdict:
    clocks = _clocks(expression, randoms)
    if name not in ("Python", "C++"):
        clocks = sorted({float(int(clock)) for clock in clocks})  # a counter holds integers
    all_evaluators = evaluators()
    mine, theirs = all_evaluators["Python"](expression, clocks), all_evaluators[name](expression, clocks)
    factors = 1 + int(max(row[7] for row in expression.program.rows))
    errors = [abs(a - b) / math.ulp(a) if math.isfinite(a) else math.inf for a, b in zip(mine, theirs, strict=True)]
    worst = errors.index(max(errors))
    what = f"{name} evaluator at clock {clocks[worst]:.0f}, ulp"
    return Verdict(what, errors[worst], EVALUATOR_ULPS * factors)


# The classes of torch.optim.lr_scheduler, with arguments that change the rate within a hundred steps.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "LambdaLR": ("LambdaLR", dict(lr_lambda=lambda t: 1.0 / (1 + t))),
    "MultiplicativeLR": ("MultiplicativeLR", dict(lr_lambda=lambda t: 0.99 + 0.01 * (t % 2))),
    "StepLR": ("StepLR", dict(step_size=7, gamma=0.9)),
    "MultiStepLR": ("MultiStepLR", dict(milestones=[3, 10, 10, 50], gamma=0.5)),
    "ConstantLR": ("ConstantLR", dict(factor=0.4, total_iters=6)),
    "LinearLR": ("LinearLR", dict(start_factor=0.2, total_iters=40)),
    "ExponentialLR": ("ExponentialLR", dict(gamma=0.99)),
    "PolynomialLR": ("PolynomialLR", dict(total_iters=60, power=1.7)),
    "CosineAnnealingLR": ("CosineAnnealingLR", dict(T_max=37, eta_min=0.01)),
    "CosineAnnealingWarmRestarts": ("CosineAnnealingWarmRestarts", dict(T_0=9, T_mult=2, eta_min=0.01)),
    "CyclicLR": ("CyclicLR", dict(base_lr=0.01, max_lr=0.3, step_size_up=13, mode="triangular2")),
    "CyclicLR-exp_range": (
        "CyclicLR",
        dict(base_lr=0.01, max_lr=0.3, step_size_up=5, step_size_down=8, mode="exp_range", gamma=0.99),
    ),
    "OneCycleLR": ("OneCycleLR", dict(max_lr=0.3, total_steps=20_000)),
    "OneCycleLR-three_phase": ("OneCycleLR", dict(max_lr=0.3, total_steps=20_000, three_phase=True)),
}
_TWO_GROUPS = (0.1, 0.025)


def _curve(module: Any, name: str, steps: int) -> list[list[float]]:
    class_name, arguments = SCHEDULERS[name]
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in _TWO_GROUPS]
    optimizer = torch_originals.SGD(groups, momentum=0.9)
    scheduler = getattr(module, class_name)(optimizer, **arguments)
    optimizer.step()  # without gradients: torch would warn about the order of calls
    curve = []
    for _ in range(steps):
        curve.append([x for group in optimizer.param_groups for x in (float(group["lr"]), group["momentum"])])
        scheduler.step()
    return curve


def compare_scheduler(name: str, steps: int) -> Verdict:
    """The largest error of lr and momentum against torch's class, relative to the largest value of torch's curve."""
    from fusedsched import lr_scheduler

    ours, torchs = _curve(lr_scheduler, name, steps), _curve(torch_originals.schedulers, name, steps)
    scale = max(max(row) for row in torchs)
    pairs = ((a, b) for mine, theirs in zip(ours, torchs, strict=True) for a, b in zip(mine, theirs, strict=True))
    worst = max(abs(a - b) if math.isfinite(a) else math.inf for a, b in pairs)
    return Verdict(f"lr over {steps} steps", worst / scale, SCHEDULER_ERROR)


def checks(level: Level) -> Iterator[Check]:
    for name in evaluators():
        backend = name if name in machine.present() else None
        for schedule in NAMED if name != "Python" else ():
            randoms = 200 if backend is None else 5 if level is QUICK or machine.slow(name) else 50
            run = partial(compare_evaluators, name, schedule, randoms)
            yield Check(f"schedules/{schedule}/{name}", "schedules", "schedules", name, run, backend)
    for name in SCHEDULERS:
        run = partial(compare_scheduler, name, level.scheduler_steps)
        yield Check(f"lr_scheduler/{name}", "schedules", "lr_scheduler", "torch", run)
