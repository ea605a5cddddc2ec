# SPDX-License-Identifier: Apache-2.0
"""Boards: what a scheduler that follows a metric knows, as a table in device memory. `csrc/core/plateau.h` has the rule.

A board is one float64 tensor: what was asked for, what is known, a rate for each group, the window of a running mean,
and for each group a program of one constant row, which an update reads as its learning rate.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _native, triton_kernels
from ..schedules.evaluate import ROW_WIDTH, Shape
from .rows import row
from .tracks import table

ASKED, KNOWN, WATCH_WIDTH, RATE_WIDTH = 14, 10, 26, 6
N_RATES, EPOCH = 10, ASKED + 6  # columns
START = ROW_WIDTH + 3  # where a program of one row has its value
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


class Board:
    """A board on one device. `launcher`: who runs its kernel there."""

    def __init__(self, device: torch.device, launcher: Any, n_rates: int, window: int) -> None:
        self.device, self.launcher, self.n_rates, self.window = device, launcher, n_rates, window
        self._window_at = WATCH_WIDTH + n_rates * RATE_WIDTH
        self._programs_at = self._window_at + window
        self.tensor = torch.zeros(self._programs_at + n_rates * 2 * ROW_WIDTH, dtype=torch.float64, device=device)

    def fits(self, n_rates: int, window: int) -> bool:
        return (self.n_rates, self.window) == (n_rates, window)

    def write(
        self, asked: Asked, known: Known, window: list[float], bounds: list[Bounds], rates: list[Any], last: list[Any]
    ) -> None:
        """Everything at once. `rates`: of each group a number, or the tensor on this device that is to be rewritten."""
        flat = [0.0] * WATCH_WIDTH
        flat[: len(asked)], flat[N_RATES], flat[ASKED : ASKED + KNOWN] = asked, self.n_rates, known
        for bound, old in zip(bounds, last, strict=True):
            flat += [0.0, 0.0, *bound, old]
        flat += window + [0.0] * (self.window - len(window))
        for rate in rates:
            flat += table([row(0, Shape.CONSTANT, 0.0 if isinstance(rate, Tensor) else rate)])
        host = torch.tensor(flat, dtype=torch.float64, device="cpu")
        addresses = host.view(torch.int64)
        for i, rate in enumerate(rates):
            at = WATCH_WIDTH + i * RATE_WIDTH
            place = rate if isinstance(rate, Tensor) else self.program(i)[START:]
            addresses[at], addresses[at + 1] = place.data_ptr(), DTYPES.index(place.dtype)
        self.launcher.write(self.tensor, host)

    def program(self, i: int) -> Tensor:
        """What the update of group i reads."""
        at = self._programs_at + i * 2 * ROW_WIDTH
        return self.tensor[at : at + 2 * ROW_WIDTH]

    def read(self) -> tuple[Known, list[float], list[float], list[float]]:
        """What is known, the window, the rates of groups that have floats, and those after the last metric. Waits."""
        flat = self.tensor.tolist()
        known = Known(*flat[ASKED : ASKED + KNOWN])
        rates = [flat[self._programs_at + i * 2 * ROW_WIDTH + START] for i in range(self.n_rates)]
        last = [flat[WATCH_WIDTH + (i + 1) * RATE_WIDTH - 1] for i in range(self.n_rates)]
        return known, flat[self._window_at : self._programs_at], rates, last

    def observe(self, metric: Tensor) -> None:
        """One launch."""
        self.launcher.observe(self, metric)


class Extension:
    """Kernels of the compiled extension."""

    @staticmethod
    def stream(device: torch.device) -> int:
        return torch._C._cuda_getCurrentRawStream(device.index or 0) if device.type == "cuda" else 0

    @classmethod
    def observe(cls, board: Board, metric: Tensor) -> None:
        _native.module().boards.observe(board.tensor, metric, cls.stream(board.device))

    @classmethod
    def write(cls, target: Tensor, host: Tensor) -> None:
        if not cls.capturing(target.device) and target.device.type == "cuda":
            torch.cuda.current_stream(target.device).synchronize()  # updates under way read what stood there
        _native.module().boards.write(target, host)

    @classmethod
    def capturing(cls, device: torch.device) -> bool:
        return _native.module().boards.capturing(cls.stream(device))

    @staticmethod
    def follow(plan: Any, i: int, board: Board, clock: Tensor) -> None:
        plan.follow(i, "lr", board.program(i), clock, 0.0, 0)

    @staticmethod
    def accept(plan: Any, groups: list[Any], followed: list[int]) -> None:
        """The numbers that stand in the groups now are no edits."""
        plan.sync_hparams(groups)


class Triton:
    """The kernel written in Triton. Boards cannot be written while a graph is captured."""

    @staticmethod
    def observe(board: Board, metric: Tensor) -> None:
        from ..triton_kernels import plateau

        with torch.cuda.device(board.device) if board.device.type == "cuda" else nullcontext():
            plateau.launch(board.tensor, metric, board.n_rates)

    @staticmethod
    def write(target: Tensor, host: Tensor) -> None:
        target.copy_(host)

    @staticmethod
    def capturing(device: torch.device) -> bool:
        return device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    @staticmethod
    def follow(plan: Any, i: int, board: Board, clock: Tensor) -> None:
        plan.read_from(i, "lr", board.program(i)[START:])

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
