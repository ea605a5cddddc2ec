# SPDX-License-Identifier: Apache-2.0
"""The sides of a race: each has its own parameters, optimizer and scheduler. And the loops that are timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import fusedsched

from .cases import Case
from .memory import Peak
from .peers import COMPILED_TENSORS, OURS, PEERS, first_line, load

HORIZON = 10_000_000  # steps of the schedule
WARM_STEPS = 3  # zeros would be faster than numbers, and the first step creates the state
Timed = Callable[[int], float]


@dataclass
class Side:
    """`grads`: kept alive, so that no timed call frees them. `facts`: seconds and bytes of the first steps."""

    params: list[Tensor]
    grads: list[Tensor | None]
    optimizer: torch.optim.Optimizer
    scheduler: Any
    step: Callable[[], Any]
    facts: dict[str, Any] = field(default_factory=dict)

    def give_gradients(self) -> None:
        for p, grad in zip(self.params, self.grads, strict=True):
            p.grad = grad


def grouped(params: Sequence[Tensor], count: int) -> list[dict[str, Any]]:
    """Parameter groups of one size, with learning rates that differ."""
    size = -(-len(params) // count)
    return [{"params": params[i : i + size], "lr": 1e-4 * (1 + i % 7)} for i in range(0, len(params), size)]


class _NoScheduler:
    """Takes the place of a scheduler where the optimizer owns a native schedule."""

    def step(self) -> None:
        pass


def build(case: Case, name: str, device: str = "cpu", native: bool = False) -> Side:
    """An optimizer and CosineAnnealingLR after a few steps. Each library gets the same numbers.

    `native`: a native schedule of the optimizer instead.
    """
    peer, module = PEERS[name], load(name)
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, case.dtype)
    params = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in case.shapes]
    grads = [torch.randn(shape, generator=generator).to(device, dtype) for shape in case.shapes]
    grads = [None if i in case.idle else grad for i, grad in enumerate(grads)]
    groups = grouped(params, case.groups)
    if native:
        groups = [{**group, "lr": fusedsched.schedules.cosine(group["lr"], 0.0, HORIZON)} for group in groups]
    elif peer.tensor_lr:
        groups = [{**group, "lr": torch.tensor(group["lr"], device=device)} for group in groups]
    begin = perf_counter()
    optimizer = peer.make(module, groups, case)
    facts = {"version": peer.version, "construction": perf_counter() - begin}
    schedulers = fusedsched.lr_scheduler if module is fusedsched else torch.optim.lr_scheduler
    scheduler = _NoScheduler() if native else schedulers.CosineAnnealingLR(optimizer, T_max=HORIZON)
    step = torch.compile(lambda: optimizer.step()) if peer.compiled else optimizer.step
    side = Side(params, grads, optimizer, scheduler, step, facts)
    side.give_gradients()
    with Peak() as peak:
        begin = perf_counter()
        step()
        _wait(device)
        facts["first_step"] = perf_counter() - begin
    facts["peak_bytes"] = peak.bytes if device == "cpu" else None
    scheduler.step()
    begin = perf_counter()
    for _ in range(WARM_STEPS - 1):
        step()
        scheduler.step()
    _wait(device)
    if peer.compiled:  # a second graph is compiled once there is state
        facts["compile_seconds"] = facts["first_step"] + perf_counter() - begin
    return side


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def assemble(
    case: Case, names: Sequence[str], compiled_tensors: int = COMPILED_TENSORS, device: str = "cpu"
) -> tuple[dict[str, Side], dict[str, str]]:
    """All sides that can be built and agree with ours, and the reasons of the others.

    Raises what our side and torch's raise: without them there is nothing to compare.
    """
    sides: dict[str, Side] = {}
    skipped: dict[str, str] = {}
    for name in names:
        reason = PEERS[name].reason(case, torch.device(device).type, compiled_tensors)
        if reason is not None:
            skipped[name] = reason
            continue
        needed = PEERS[name].distribution in ("fusedsched", "torch") and not PEERS[name].compiled
        try:
            side = build(case, name, device)
            if PEERS[name].exact and sides:
                check_agreement(case, {OURS: sides[OURS], name: side})
            sides[name] = side
        except Exception as error:
            if needed and not _known_fault(case, name):
                raise
            skipped[name] = first_line(error)
    return sides, skipped


def _known_fault(case: Case, name: str) -> bool:
    """`SGD(fused=True)` of torch 2.13.0 leaves most 16-bit parameters unchanged on CPUs: listed, not fatal."""
    return name == "torch fused" and case.optimizer == "sgd" and case.dtype in ("bfloat16", "float16")


def tolerance_of(case: Case) -> dict[str, float]:
    """The tolerance between parameters after WARM_STEPS. In float32 it is a few roundings, less than a missing weight
    decay; 16-bit numbers do not resolve such small learning rates."""
    low = case.dtype in ("bfloat16", "float16")
    return dict(rtol=2e-2, atol=2e-3) if low else dict(rtol=2e-6, atol=1e-6)


def check_agreement(case: Case, sides: dict[str, Side]) -> None:
    """Raises RuntimeError if the parameters of two sides differ: only equal computations are compared."""
    ours, tolerance = sides[OURS], tolerance_of(case)
    for name, side in sides.items():
        for i, (p, q) in enumerate(zip(ours.params, side.params, strict=True)):
            if not torch.allclose(p, q, **tolerance):
                raise RuntimeError(f"{case.name}: parameter {i} of fusedsched and of {name} differ: nothing to time.")


def check_finite(case: Case, sides: dict[str, Side]) -> None:
    """Raises RuntimeError if parameters are not finite after a race: its times mean nothing."""
    for name, side in sides.items():
        if not all(bool(p.isfinite().all()) for p in side.params):
            raise RuntimeError(f"{case.name}: the parameters of {name} are not finite after the race.")


def host_only(case: Case) -> Case:
    """The same numbers of tensors and groups with one element each, so that a step takes only the host's time."""
    return replace(case, shapes=((1,),) * len(case.shapes), threads=1)


def stepping(side: Side) -> Timed:
    """`opt.step(); sched.step()`."""

    def run(calls: int) -> float:
        step, schedule = side.step, side.scheduler.step
        begin = perf_counter()
        for _ in range(calls):
            step()
            schedule()
        return (perf_counter() - begin) / calls

    return run


def zeroing(side: Side, set_to_none: bool) -> Timed:
    """`opt.zero_grad()` alone. Gradients are restored between the calls, untimed."""

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


def calling(function: Callable[[], Any]) -> Timed:
    """Any function."""

    def run(calls: int) -> float:
        begin = perf_counter()
        for _ in range(calls):
            function()
        return (perf_counter() - begin) / calls

    return run
