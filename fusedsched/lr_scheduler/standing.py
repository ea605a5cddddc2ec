# SPDX-License-Identifier: Apache-2.0
"""Who steps for a scheduler without a closed form of its own while that is in a branch."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .branch import Branch
from .scheduled import Origins, Scheduled
from .tracks import copied


class StandIn(Scheduled, LRScheduler):
    """A scheduler that does nothing but its branch."""

    __slots__ = ("_whole",)  # whom it stands in for, as of the last call: copies have others

    @classmethod
    def begin(cls, optimizer: Optimizer, branch: Branch, clock: int) -> StandIn:
        """One that stands at a clock, at the rates of now."""
        self = cls.__new__(cls)
        rates = [copied(group["lr"]) for group in optimizer.param_groups]
        state = dict(optimizer=optimizer, last_epoch=clock, _step_count=2, _last_lr=rates, base_lrs=list(rates))
        self.__dict__.update(state)
        self._clock = clock
        self._enter(branch, clock)
        return self

    def resume(self, last_lr: list[Any], points: list[Any] | None) -> None:
        """Where it was when it was saved: `points`, from which the rates come, if it knew."""
        self._last_lr = last_lr
        if points is not None and len(points) == len(self.optimizer.param_groups):
            self._origins = Origins([(t, x) for t, x in points], self._settings())

    def points(self) -> tuple[int, list[list[float]] | None]:
        """Its clock, and what `resume` takes."""
        self._drop_track()
        return self.last_epoch, [list(point) for point in self._origins.points] if self._known() else None

    def _admit_at(self, clock: int) -> None:
        self._whole._admit_at(clock)
