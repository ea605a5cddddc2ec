# SPDX-License-Identifier: Apache-2.0
"""Boards: what a scheduler that follows a metric knows, in device memory. `csrc/core/metric.h` has the rule.

A board is one float64 tensor: what was asked for, what is known, the address of each group's rate, the window of a
running mean, and for some groups a program, in which a decision rewrites one number. With the CUDA kernels a rate that
is a float has its place in the optimizer's table of hyperparameters, where the update reads it.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedsched.runtime.addresses import unwrap

from .. import _native, triton_kernels
from ..schedules.evaluate import ROW_WIDTH, Shape, evaluate
from ..schedules.expression import Segment

ASKED, KNOWN, WATCH_WIDTH, RATE_WIDTH = 14, 10, 26, 6
N_RATES, CLOCK = 10, 11  # columns
BEGIN, START = 0, 3  # columns of a row
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # fs::DType


class Asked(NamedTuple):
    """What was asked for, in the order of fs::Watch. `comparison`: 0 to 3, min or max, relative or absolute."""

    greedy: int
    comparison: int
    factor: float
    threshold: float
    patience: float
    cooldown: float
    warmup: float
    eps: float
    window: int
    reset_start: float


class Known(NamedTuple):
    """What is known so far, in the order of fs::Watch. `sum`, `held`, `next`: of the running mean."""

    best: float
    bad: float
    good: float
    cooldown_counter: float
    warmup_counter: float
    lower_before_reset: float
    epoch: float
    sum: float = 0.0
    held: float = 0.0
    next: float = 0.0


class Bounds(NamedTuple):
    """Of one group: the least and the greatest rate, and the one that GreedyLR starts over from."""

    least: float
    most: float
    initial: float


class Turn(NamedTuple):
    """Which steps have a metric that is looked at: those between `begin` and `end`, both exclusive."""

    begin: float = -1.0
    end: float = math.inf


class Program(NamedTuple):
    """What the update of a group reads as its rate, and where the number is that a decision rewrites."""

    table: Any
    place: int


def constant(rate: float) -> Program:
    """A program of one row."""
    return Program(Segment(Shape.CONSTANT, start=rate).lower().table, ROW_WIDTH + START)


def targets_of(rates: list[Any], places: list[Tensor | None]) -> list[Any]:
    """What a decision rewrites: a tensor, the place of a number, or a number in a program."""
    found = zip(rates, places, strict=True)
    return [
        rate if isinstance(rate, (Tensor, Program)) else constant(rate) if place is None else place
        for rate, place in found
    ]


class Contents(NamedTuple):
    """What is read off a board. `rates`: of groups whose rate is a float; `last`: after the last metric."""

    known: Known
    window: list[float]
    clock: int
    rates: list[float]
    last: list[float]


class Board:
    """A board on one device. `launcher`: who runs its kernel there. `rates`: of each group a `Program`, or the tensor
    on this device that is to be rewritten. `places`: of each group the place of its rate, or None."""

    def __init__(
        self, device: torch.device, launcher: Any, rates: list[Any], places: list[Tensor | None], window: int
    ) -> None:
        self.device, self.launcher, self.shape, self.places = device, launcher, _shape(rates, window), places
        self._window_at = WATCH_WIDTH + len(rates) * RATE_WIDTH
        ends = list(accumulate(self.shape[1:], initial=self._window_at + window))
        self._programs = list(pairwise(ends))
        self.tensor = launcher.room(device, ends[-1])
        self.n_rates = len(rates)

    def fits(self, rates: list[Any], window: int) -> bool:
        return self.shape == _shape(rates, window)

    def write(
        self, asked: Asked, turn: Turn, clock: int, known: Known, window: list[float], bounds: list[Bounds],
        rates: list[Any], last: list[Any],
    ) -> None:  # fmt: skip
        """Everything at once."""
        flat = [0.0] * WATCH_WIDTH
        flat[: len(asked)], flat[N_RATES], flat[ASKED : ASKED + KNOWN] = asked, self.n_rates, known
        flat[CLOCK + 1 : ASKED] = turn
        for bound, old in zip(bounds, last, strict=True):
            flat += [0.0, 0.0, *bound, old]
        flat += window + [0.0] * (self.shape[0] - len(window))
        for rate in rates:
            flat += [] if isinstance(rate, Tensor) else rate.table
        host = torch.tensor(flat, dtype=torch.float64, device="cpu")
        integers = host.view(torch.int64)
        integers[CLOCK] = clock
        self._places = []
        for i, rate in enumerate(rates):
            self._places.append(0 if isinstance(rate, Tensor) else self._programs[i][0] + rate.place)
            target = rate if isinstance(rate, Tensor) else self.number(i)
            at = WATCH_WIDTH + i * RATE_WIDTH
            integers[at], integers[at + 1] = unwrap(target), DTYPES.index(target.dtype)
        self.launcher.write(self.tensor, host)

    def program(self, i: int) -> Tensor:
        """What the update of group i reads."""
        return self.tensor[slice(*self._programs[i])]

    def number(self, i: int) -> Tensor:
        """What a decision rewrites in it."""
        return self.tensor[self._places[i] :][:1]

    def read(self) -> Contents:
        """What is there now. Waits."""
        host = self.tensor.cpu()
        flat, clock = host.tolist(), int(host.view(torch.int64)[CLOCK])
        rates = [
            evaluate(flat[a:b], clock) if b > a and place is None else math.nan if place is None else float(place)
            for (a, b), place in zip(self._programs, self.places, strict=True)
        ]
        last = [flat[WATCH_WIDTH + (i + 1) * RATE_WIDTH - 1] for i in range(self.n_rates)]
        window = flat[self._window_at : self._window_at + self.shape[0]]
        return Contents(Known(*flat[ASKED : ASKED + KNOWN]), window, clock, rates, last)

    def observe(self, metric: Tensor) -> None:
        """One launch."""
        self.launcher.observe(self, metric)


def _shape(rates: list[Any], window: int) -> list[int]:
    """The lengths of the window and of each program."""
    return [window, *(0 if isinstance(rate, Tensor) else len(rate.table) for rate in rates)]


class Extension:
    """Kernels of the compiled extension."""

    @staticmethod
    def stream(device: torch.device) -> int:
        return torch._C._cuda_getCurrentRawStream(device.index or 0) if device.type == "cuda" else 0

    @classmethod
    def observe(cls, board: Board, metric: Tensor) -> None:
        _native.module().boards.observe(board.tensor, metric, cls.stream(board.device))

    @classmethod
    def room(cls, device: torch.device, n: int) -> Tensor:
        if cls.capturing(device):
            return _native.module().cuda_allocate(device, n)
        return torch.empty(n, dtype=torch.float64, device=device)

    @classmethod
    def write(cls, target: Tensor, host: Tensor) -> None:
        if cls.capturing(target.device):
            _native.module().cuda_write_now(target, host)
        else:
            target.copy_(host)  # in stream order: updates under way read what stood there

    @classmethod
    def capturing(cls, device: torch.device) -> bool:
        return _native.module().cuda_capturing(cls.stream(device))

    @staticmethod
    def places(optimizer: Any, device: torch.device, groups: list[Any]) -> list[Tensor | None]:
        """Where the updates read the rates that are numbers."""
        return [
            None if isinstance(group["lr"], Tensor) else optimizer._runtime.table(device).place(group, "lr")
            for group in groups
        ]

    @staticmethod
    def follow(plan: Any, i: int, board: Board) -> None:
        """Nothing: the update reads the place."""

    @staticmethod
    def accept(plan: Any, groups: list[Any], followed: list[int]) -> None:
        """The numbers that stand in the groups now are no edits."""
        plan.sync_hparams(groups)


class Triton:
    """The kernel written in Triton. Boards cannot be written while a graph is captured."""

    @staticmethod
    def observe(board: Board, metric: Tensor) -> None:
        from ..triton_kernels import metric as kernels, tuning

        with torch.cuda.device(board.device) if board.device.type == "cuda" else nullcontext():
            kernels.observe_kernel[(1,)](
                board.tensor, metric, board.n_rates, BLOCK=tuning.WATCH_BLOCK, num_warps=1, enable_fp_fusion=False
            )

    @staticmethod
    def room(device: torch.device, n: int) -> Tensor:
        return torch.empty(n, dtype=torch.float64, device=device)

    @staticmethod
    def write(target: Tensor, host: Tensor) -> None:
        if Triton.capturing(target.device):
            raise RuntimeError("Call step(metric) once outside of the graph: a capture cannot write its tables.")
        target.copy_(host)

    @staticmethod
    def capturing(device: torch.device) -> bool:
        return device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    @staticmethod
    def places(optimizer: Any, device: torch.device, groups: list[Any]) -> list[Tensor | None]:
        return [None] * len(groups)

    @staticmethod
    def follow(plan: Any, i: int, board: Board) -> None:
        plan.read_from(i, "lr", board.number(i))

    @staticmethod
    def accept(plan: Any, groups: list[Any], followed: list[int]) -> None:
        for i in followed:
            plan.read_from(i, "lr")


def launcher_for(device: torch.device) -> Any:
    """Who has kernels for a GPU; None: nobody."""
    module = _native.module()
    if device.type == "cuda" and module is not None and module.cuda_runtime() == "cuda":
        return Extension
    return Triton if device.type == "cuda" and triton_kernels.reason() is None else None


LAUNCHERS = {"cuda": Extension, "triton": Triton}
"""By the name of a plan."""
