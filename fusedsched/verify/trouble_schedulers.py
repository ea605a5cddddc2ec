# SPDX-License-Identifier: Apache-2.0
"""Troubles that users of torch have with lr_scheduler, each shown to be gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fusedsched import lr_scheduler as L, optim
from fusedsched.verify.bounds import SCHEDULER_ERROR, Verdict, near, worst_of
from fusedsched.verify.trouble_updates import Trouble


def _optimizer(*lrs: Any) -> torch.optim.Optimizer:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in lrs]
    optimizer = optim.SGD(groups, momentum=0.9, backend="reference")
    optimizer.step()  # without gradients; else torch warns of the order
    return optimizer


def _curve(optimizer: Any, scheduler: Any, steps: int, group: int = 0) -> list[float]:
    values = []
    for _ in range(steps):
        values.append(float(optimizer.param_groups[group]["lr"]))
        scheduler.step()
    return values


def _curve_is(ours: Sequence[float], right: Sequence[float], what: str) -> Verdict:
    pairs = enumerate(zip(ours, right, strict=True))
    return worst_of(near(a, b, f"{what}, lr at step {t}", SCHEDULER_ERROR) for t, (a, b) in pairs)


def _loaded_alone() -> Verdict:
    optimizer, fresh = _optimizer(1.0), _optimizer(1.0)
    scheduler = L.StepLR(optimizer, step_size=1, gamma=0.5)
    scheduler.step()
    L.StepLR(fresh, step_size=1, gamma=0.5).load_state_dict(scheduler.state_dict())
    return near(float(fresh.param_groups[0]["lr"]), 0.5, "lr of the group after loading the scheduler")


def _loaded_twice() -> Verdict:
    optimizer, fresh = _optimizer(1.0), _optimizer(1.0)
    scheduler, other = (L.CosineAnnealingLR(o, T_max=10) for o in (optimizer, fresh))
    for _ in range(4):
        scheduler.step()
    for _ in range(2):
        other.load_state_dict(scheduler.state_dict())
    return _curve_is(_curve(fresh, other, 6), _curve(optimizer, scheduler, 6), "loaded twice")


# name -> arguments; all groups share them, so that a late group has what it needs
_JOINED: dict[str, dict[str, Any]] = {
    "LambdaLR": dict(lr_lambda=lambda t: 1 / (1 + t)),
    "CosineAnnealingWarmRestarts": dict(T_0=5),
    "CyclicLR": dict(base_lr=0.1, max_lr=0.2, step_size_up=4),
    "OneCycleLR": dict(max_lr=0.2, total_steps=50),
    "LinearLR": dict(start_factor=0.5),
    "StepLR": dict(step_size=2),
    "ExponentialLR": dict(gamma=0.9),
    "PolynomialLR": dict(total_iters=9),
}


def _group_joins_late() -> Verdict:
    verdicts = []
    for name, arguments in _JOINED.items():
        late, whole = _optimizer(0.3), _optimizer(0.3, 0.4)
        one, other = (getattr(L, name)(o, **arguments) for o in (late, whole))
        for scheduler in (one, other):
            for _ in range(3):
                scheduler.step()
        late.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 0.4})
        one.step()  # from its first step on, the group is where it would be
        other.step()
        verdicts.append(_curve_is(_curve(late, one, 8, 1), _curve(whole, other, 8, 1), f"a group that joins {name}"))
    return worst_of(verdicts)


def _sequence_in_a_sequence() -> Verdict:
    o = _optimizer(1.0)
    inner = L.SequentialLR(o, [L.ConstantLR(o, factor=0.5, total_iters=2), L.ExponentialLR(o, gamma=0.5)], [2])
    scheduler = L.SequentialLR(o, [L.LinearLR(o, start_factor=0.25, total_iters=3), inner], [3])
    right = [0.25, 0.5, 0.75, 0.5, 0.5, 1.0, 0.5, 0.25]
    return _curve_is(_curve(o, scheduler, 8), right, "a sequence in a sequence")


def _chain_in_a_sequence() -> Verdict:
    o = _optimizer(1.0)
    chain = L.ChainedScheduler([L.ExponentialLR(o, gamma=0.5), L.ConstantLR(o, 0.5, 2)], o)
    scheduler = L.SequentialLR(o, [chain, L.LinearLR(o, start_factor=0.25, total_iters=3)], [3])
    return _curve_is(_curve(o, scheduler, 6), [0.5, 0.25, 0.25, 0.25, 0.5, 0.75], "a chain in a sequence")


def _one_cycle_in_a_sequence() -> Verdict:
    o = _optimizer(1.0)
    scheduler = L.SequentialLR(o, [L.LinearLR(o, start_factor=0.5, total_iters=2), L.OneCycleLR(o, 1.0, 10)], [2])
    return _curve_is(_curve(o, scheduler, 3), [0.5, 0.75, 0.04], "a warmup before OneCycleLR")


def _drift() -> Verdict:
    steps, verdicts = 3_000, []
    cases: dict[str, tuple[dict[str, Any], Callable[[int], float]]] = {
        "ExponentialLR": (dict(gamma=0.9999), lambda t: 0.9999**t),
        "PolynomialLR": (dict(total_iters=6_000, power=2.0), lambda t: (1 - t / 6_000) ** 2),
        "LinearLR": (dict(start_factor=0.001, total_iters=6_000), lambda t: 0.001 + 0.999 * t / 6_000),
    }
    for name, (arguments, formula) in cases.items():
        optimizer = _optimizer(torch.tensor(1.0))
        scheduler = getattr(L, name)(optimizer, **arguments)
        for _ in range(steps):
            scheduler.step()
        rate = float(optimizer.param_groups[0]["lr"])
        # one rounding to float32
        verdicts.append(near(rate, formula(steps), f"{name} on a float32 lr after {steps} steps", 2.0**-24))
    return worst_of(verdicts)


_RESUMED: dict[str, dict[str, Any]] = {
    "StepLR": dict(step_size=2, gamma=0.5),
    "MultiStepLR": dict(milestones=[2, 3], gamma=0.5),
    "LinearLR": dict(start_factor=0.25, total_iters=7),
    "ExponentialLR": dict(gamma=0.5),
    "PolynomialLR": dict(total_iters=9),
    "CosineAnnealingLR": dict(T_max=9),
    "ConstantLR": dict(factor=0.5, total_iters=6),
    "CosineAnnealingWarmRestarts": dict(T_0=6),
}


def _last_epoch() -> Verdict:
    verdicts = []
    for name, arguments in _RESUMED.items():
        whole, fresh = _optimizer(1.0), _optimizer(1.0)
        right = _curve(whole, getattr(L, name)(whole, **arguments), 10)[5:]
        fresh.param_groups[0]["initial_lr"] = 1.0
        ours = _curve(fresh, getattr(L, name)(fresh, **arguments, last_epoch=4), 5)
        verdicts.append(_curve_is(ours, right, f"{name}(last_epoch=4)"))
    return worst_of(verdicts)


def _of_schedulers(torch_does: str, run: Callable[[], Verdict]) -> Trouble:
    return Trouble(torch_does, run, per_backend=False)


TROUBLES: dict[str, Trouble] = {
    "m9-scheduler-loaded-alone": _of_schedulers(
        "load_state_dict of a scheduler leaves the lr of the groups, so that all later ones are off", _loaded_alone
    ),
    "m10-loaded-twice": _of_schedulers(
        "is right; Megatron's scheduler counts its steps twice when it is loaded twice", _loaded_twice
    ),
    "m11-group-joins-late": _of_schedulers(
        "add_param_group after the scheduler raises, or gives the group a wrong phase", _group_joins_late
    ),
    "m12-sequence-in-a-sequence": _of_schedulers("NotImplementedError at the milestone", _sequence_in_a_sequence),
    "m12-chain-in-a-sequence": _of_schedulers("starts the chain one step late", _chain_in_a_sequence),
    "m12-one-cycle-in-a-sequence": _of_schedulers(
        "OneCycleLR overwrites initial_lr, from which the warmup then starts", _one_cycle_in_a_sequence
    ),
    "m13-drift": _of_schedulers("a recursion on a float32 lr is off by 1e-3 after 100,000 steps", _drift),
    "m14-last-epoch": _of_schedulers("last_epoch=4 without a restored lr starts from the base lr", _last_epoch),
}
