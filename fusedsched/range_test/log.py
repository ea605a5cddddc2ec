# SPDX-License-Identifier: Apache-2.0
"""Copies losses to the host without waiting."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedsched.runtime.async_copy import AsyncCopy


class LossLog:
    """One row of losses on the device of the first one. `record` launches one copy and never waits.

    On the CPU every loss is available at once. On a CUDA device, asynchronous copies to the host run now and then, and
    `new()` returns the losses of the copies that are complete. `rest()` waits.

    >>> log = LossLog(3)
    >>> log.record(0, torch.tensor(2.0)); log.new()
    [2.0]
    >>> log.record(1, torch.tensor(1.0)); log.rest(2)
    [1.0]
    """

    def __init__(self, steps: int, every: int = 8) -> None:
        self._steps, self._every = steps, every
        self._losses: Tensor | None = None
        self._given = self._recorded = 0
        self._copy: tuple[AsyncCopy, int] | None = None  # and the number of losses in it

    def record(self, i: int, loss: Tensor) -> None:
        if self._losses is None:
            dtype = torch.float64 if loss.dtype == torch.float64 else torch.float32
            self._losses = torch.full((self._steps,), torch.nan, dtype=dtype, device=loss.device)
        self._losses[i].copy_(loss.detach().reshape(()))
        self._recorded = i + 1

    def new(self) -> list[float]:
        """The losses that are available and were not returned before."""
        if self._losses.device.type == "cpu":
            return self._next(self._losses, self._recorded)
        if self._copy is None:
            if self._recorded - self._given >= self._every:
                self._copy = AsyncCopy(self._losses), self._recorded
            return []
        copy, count = self._copy
        if not copy.arrived():
            return []
        self._copy = None
        return self._next(copy.value(), count)

    def rest(self, count: int) -> list[float]:
        """The rest of the first `count` losses. Only this method waits for the device."""
        return self._next(self._losses.cpu(), count)

    def _next(self, losses: Tensor, count: int) -> list[float]:
        found = losses[self._given : count].tolist()
        self._given = count
        return found
