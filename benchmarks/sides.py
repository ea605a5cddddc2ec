# SPDX-License-Identifier: Apache-2.0
"""The contestants: an optimizer with a scheduler and parameters of its own, and the loops that are timed."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import fusedsched
from benchmarks.cases import Case

WARM_STEPS = 3  # zeros are faster than numbers, and state is made in the first step
Timed = Callable[[int], float]

LIBRARIES: dict[str, tuple[Any, dict[str, bool]]] = {
    "fusedsched": (fusedsched, {}),
    "torch fused": (torch.optim, {"fused": True}),
    "torch foreach": (torch.optim, {"foreach": True}),
}


@dataclass
class Side:
    """`grads`: kept alive here, so that no timed call has to free them."""

    params: list[Tensor]
    grads: list[Tensor]
    optimizer: torch.optim.Optimizer
    scheduler: Any

    def give_gradients(self) -> None:
        for p, grad in zip(self.params, self.grads, strict=True):
            p.grad = grad


def build(case: Case, library: str) -> Side:
    """AdamW and CosineAnnealingLR after a few steps. The same seed for each library: the same numbers."""
    package, options = LIBRARIES[library]
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, case.dtype)
    params = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in case.shapes]
    grads = [torch.randn(shape, generator=generator).to(dtype) for shape in case.shapes]
    size = -(-len(params) // case.groups)
    groups = [{"params": params[i : i + size], "lr": 1e-4 * (1 + i % 7)} for i in range(0, len(params), size)]
    optimizer = package.AdamW(groups, **options)
    scheduler = package.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10_000_000)
    side = Side(params, grads, optimizer, scheduler)
    side.give_gradients()
    for _ in range(WARM_STEPS):
        optimizer.step()
        scheduler.step()
    return side


def check_agreement(case: Case, sides: dict[str, Side]) -> None:
    """Whoever is compared has to compute the same. Raises RuntimeError where the parameters differ."""
    tolerance = dict(rtol=2e-2, atol=2e-3) if case.dtype == "bfloat16" else dict(rtol=1e-4, atol=1e-6)
    ours = sides["fusedsched"]
    for name, side in sides.items():
        for i, (p, q) in enumerate(zip(ours.params, side.params, strict=True)):
            if not torch.allclose(p, q, **tolerance):
                raise RuntimeError(f"{case.name}: parameter {i} of fusedsched and of {name} differ: nothing to time.")


def check_finite(case: Case, sides: dict[str, Side]) -> None:
    """Raises RuntimeError if a race ended in numbers that are no numbers: their speed means nothing."""
    for name, side in sides.items():
        if not all(bool(p.isfinite().all()) for p in side.params):
            raise RuntimeError(f"{case.name}: the parameters of {name} are not finite after the race.")


def stepping(side: Side) -> Timed:
    """`opt.step(); sched.step()`."""

    def run(calls: int) -> float:
        step, schedule = side.optimizer.step, side.scheduler.step
        begin = perf_counter()
        for _ in range(calls):
            step()
            schedule()
        return (perf_counter() - begin) / calls

    return run


def zeroing(side: Side, set_to_none: bool) -> Timed:
    """`opt.zero_grad()` alone. What it takes away is put back between the calls, off the clock."""

    def run(calls: int) -> float:
        zero_grad, seconds = side.optimizer.zero_grad, 0.0
        for _ in range(calls):
            side.give_gradients()
            begin = perf_counter()
            zero_grad(set_to_none=set_to_none)
            seconds += perf_counter() - begin
        side.give_gradients()
        return seconds / calls

    return run


def training(side: Side) -> Timed:
    """The whole loop: zero_grad, a forward pass of one operation per parameter, backward, step, schedule."""
    inputs = torch.randn(side.params[0].shape, generator=torch.Generator().manual_seed(1))

    def run(calls: int) -> float:
        optimizer, scheduler = side.optimizer, side.scheduler
        begin = perf_counter()
        for _ in range(calls):
            optimizer.zero_grad()
            hidden = inputs
            for p in side.params:
                hidden = torch.addcmul(hidden, p, inputs)
            hidden.square().mean().backward()
            optimizer.step()
            scheduler.step()
        return (perf_counter() - begin) / calls

    return run


def calling(function: Callable[[], None]) -> Timed:
    """Any function."""

    def run(calls: int) -> float:
        begin = perf_counter()
        for _ in range(calls):
            function()
        return (perf_counter() - begin) / calls

    return run
