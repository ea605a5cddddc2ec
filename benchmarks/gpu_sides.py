# SPDX-License-Identifier: Apache-2.0
"""The contestants on a GPU. torch's optimizers work on the very arrays that ours works on: they fit then, and no one
has the better place in memory. That they compute the same is seen beforehand, on small arrays of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from fusedsched import schedules

from .cases import OPTIMIZERS, Case, shrunk
from .lists import llama3_8b_within, numel
from .peers import OURS, PEERS, Peer, load
from .sides import WARM_STEPS, grouped, tolerance_of

CONSTANT = "fusedsched, constant lr"
ROOM = 1.5  # times the footprint: some implementations take temporaries as large as the parameters
LOW = ("bfloat16", "float16")
HORIZON = 10_000_000


@dataclass
class GpuSide:
    """`step`: an update; `whole`: an update and what its learning rate needs."""

    optimizer: Any
    step: Callable[[], Any]
    whole: Callable[[], Any]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Arrays:
    """Parameters with their gradients set. The same numbers for the same seed."""

    params: list[Tensor]

    def __init__(self, case: Case, device: str) -> None:
        generator = torch.Generator(device).manual_seed(0)
        options = dict(generator=generator, device=device, dtype=getattr(torch, case.dtype))
        self.params = [torch.randn(shape, **options).requires_grad_() for shape in case.shapes]
        for i, p in enumerate(self.params):
            p.grad = None if i in case.idle else torch.randn(p.shape, **options)


def fitted(case: Case, free: int) -> Case | None:
    """The case, smaller if it does not fit into so many bytes; None where it cannot be made smaller.

    >>> from .cases import GPU_CASES
    >>> small = fitted(GPU_CASES["llama3-8b-bf16"], 24 * 2**30)
    >>> len(small.shapes), small.title
    (291, 'Llama 3 8B, widths / 2, 291 tensors')
    """
    if case.footprint * ROOM <= free:
        return case
    per_parameter = case.footprint // numel(case.shapes)
    most = int(free / ROOM) // per_parameter
    if case.name.startswith("llama3-8b"):
        divisor, shapes = llama3_8b_within(most)
        title = f"Llama 3 8B, widths / {divisor}, 291 tensors"
        return replace(case, shapes=shapes, title=title) if numel(shapes) <= most else None
    if len(case.shapes) == 1 and most >= 10**6:
        count = most // 10**6 * 10**6
        return replace(case, shapes=((count,),), title=f"1 x {count // 10**6}M")
    return None


def build(case: Case, name: str, arrays: Arrays, shared: Any = None) -> GpuSide:
    """A contestant after a few steps. `shared`: our optimizer, whose moments torch's optimizers take for theirs.

    Raises what the library raises.
    """
    peer = PEERS[OURS] if name == CONSTANT else PEERS[name]
    ours = peer.distribution == "fusedsched"
    groups = grouped(arrays.params, case.groups)
    if ours and name != CONSTANT:
        for group in groups:
            group["lr"] = schedules.warmup_cosine(peak=group["lr"], warmup_steps=1000, total_steps=HORIZON)
    elif peer.tensor_lr:
        groups = [{**group, "lr": torch.tensor(group["lr"], device=arrays.params[0].device)} for group in groups]
    module = load(OURS if name == CONSTANT else name)
    begin = perf_counter()
    optimizer = peer.make(module, groups, case)
    facts: dict[str, Any] = {"version": peer.version, "construction": perf_counter() - begin}
    if shared is not None and peer.distribution in ("torch", "fusedsched"):
        share_moments(case, arrays, shared, optimizer, peer)
    scheduler = None if ours else torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=HORIZON)
    step = torch.compile(lambda: optimizer.step()) if peer.compiled else optimizer.step
    whole = step if scheduler is None else _one_after_the_other(step, scheduler.step)
    begin = perf_counter()
    for _ in range(WARM_STEPS):
        whole()
    if arrays.params[0].is_cuda:
        torch.cuda.synchronize()
    if peer.compiled:
        facts["compile_seconds"] = perf_counter() - begin
    return GpuSide(optimizer, step, whole, facts)


def _one_after_the_other(step: Callable[[], Any], schedule: Callable[[], Any]) -> Callable[[], None]:
    def whole() -> None:
        step()
        schedule()

    return whole


def share_moments(case: Case, arrays: Arrays, ours: Any, theirs: Any, peer: Peer) -> None:
    """Gives `theirs` the moments of `ours` and counts of its own, where torch would have put them."""
    on_device = bool(theirs.defaults.get("capturable") or theirs.defaults.get("fused"))
    for p in arrays.params:
        if p.grad is None:
            continue
        state = {name: value for name, value in ours.state[p].items() if name != "step"}
        if OPTIMIZERS[case.optimizer][0] != "SGD":
            device = p.device if on_device or peer.distribution == "fusedsched" else "cpu"
            state["step"] = torch.tensor(float(WARM_STEPS), dtype=torch.float32, device=device)
        theirs.state[p] = state


def disagreement(case: Case, name: str, device: str) -> str | None:
    """Why a contestant is none: it does not compute what we do, on small arrays. None where it does."""
    if name != CONSTANT and not PEERS[name].exact:
        return None
    small = shrunk(case)
    ours, theirs = Arrays(small, device), Arrays(small, device)
    build(small, CONSTANT, ours)
    side = build(small, name, theirs)
    if PEERS.get(name, PEERS[OURS]).distribution == "fusedsched" and name != CONSTANT:
        return None  # a schedule of its own: other learning rates, on purpose
    del side
    for i, (p, q) in enumerate(zip(ours.params, theirs.params, strict=True)):
        if not torch.allclose(p, q, **tolerance_of(case)):
            return f"computes something else: parameter {i} differs"
    # 16-bit parameters hardly move: that the formula is the same is seen in float32.
    return disagreement(replace(case, dtype="float32"), name, device) if case.dtype in LOW else None
