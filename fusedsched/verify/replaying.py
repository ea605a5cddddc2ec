# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: replays equal eager steps, learning rates and counters included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fusedsched import lr_scheduler, schedules as S
from fusedsched.verify import machine
from fusedsched.verify.bounds import EVALUATOR_ULPS, Verdict, ulp, worst_of
from fusedsched.verify.check import FULL, Check, Level
from fusedsched.verify.edges import parameters, random_numbers
from fusedsched.verify.snapshots import everything, same
from fusedsched.verify.table import VISIBLE

_BACKEND = "cuda"
_SHAPES = ((50, 3), (17,), (4097,))
_EAGER, _REPLAYS, _MANY_REPLAYS = 3, 20, 1000

# name -> optimizer, options, scheduler
ROWS: dict[str, tuple[str, dict[str, Any], Callable[[Any], Any] | None]] = {
    "AdamW-native": ("AdamW", dict(lr=S.warmup_cosine(0.1, 4, 20), weight_decay=S.cosine(0.3, 0.0, steps=15)), None),
    "AdamW-OneCycleLR": ("AdamW", {}, partial(lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=2000)),
    "SGD-CosineAnnealingLR": ("SGD", {}, partial(lr_scheduler.CosineAnnealingLR, T_max=12, eta_min=0.01)),
    "SGD-native": ("SGD", dict(lr=S.one_cycle(0.1, total_steps=30), momentum=S.linear(0.5, 0.9, steps=9)), None),
}


def absent() -> str | None:
    """Why nothing can be replayed here; None if it can."""
    if _BACKEND not in machine.present():
        return "the backend cuda is missing"
    return None if torch.cuda.is_available() else "there is no GPU"


def record(call: Callable[[], None]) -> Callable[[], None]:
    """Captures the launches of `call` and returns a function that replays them."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


class _Run:
    """Parameters whose gradients keep their memory, an optimizer and a scheduler."""

    def __init__(self, row: str) -> None:
        name, options, schedule = ROWS[row]
        self.params = parameters(_SHAPES, torch.float32, machine.device_of(_BACKEND))
        self.optimizer = machine.build(_BACKEND, name, self.params, **{**VISIBLE[name], **options})
        self.scheduler = schedule(self.optimizer) if schedule else None
        for p in self.params:
            p.grad = torch.zeros_like(p)

    def fill(self, update: int) -> None:
        for i, p in enumerate(self.params):
            p.grad.copy_(random_numbers(p.shape, p.dtype, 100 * (update % 7) + i, p.device))

    def step(self) -> None:
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()

    def snapshot(self) -> tuple[dict[str, Tensor], Tensor]:
        """The tensors that must be bitwise equal, and the hyperparameters, which two evaluators compute."""
        found = everything(self.optimizer, self.params)
        names = [name for name in found if " of group " in name]
        return {k: v for k, v in found.items() if k not in names}, torch.cat([found[name] for name in names])


def compare(row: str, replays: int) -> Verdict:
    replayed, eager = _Run(row), _Run(row)
    for update in range(_EAGER):
        for run in (replayed, eager):
            run.fill(update)
            run.step()
    replay = record(replayed.step)
    for update in range(_EAGER, _EAGER + replays):
        for run, step in ((replayed, replay), (eager, eager.step)):
            run.fill(update)
            step()
    (ours, our_numbers), (theirs, numbers) = replayed.snapshot(), eager.snapshot()
    distance = float(((our_numbers - numbers).abs() / ulp(numbers, torch.float64)).max())
    shown = Verdict("hyperparameters after replays, ulp", distance, EVALUATOR_ULPS)
    return worst_of([same(ours, theirs, " after replays"), shown])


def checks(level: Level) -> Iterator[Check]:
    replays = _MANY_REPLAYS if level is FULL else _REPLAYS
    for row in ROWS if absent() is None else ():
        yield Check(f"replay/{row}/{_BACKEND}", "replay", row, _BACKEND, partial(compare, row, replays), _BACKEND)


def left_out(level: Level) -> Iterator[tuple[str, str]]:
    if absent() is not None:
        yield "replays of CUDA graphs", absent()
