# SPDX-License-Identifier: Apache-2.0
"""Who steps for a scheduler without a closed form of its own while that is in a branch."""

from __future__ import annotations

import copy
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .branch import Branch
from .closed import Origins
from .live import Live
from .scheduled import Scheduled
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


class Represented(Live):
    """Mixin: a scheduler whose rates are not its own to compute. In a branch, one with a closed form steps for it."""

    __slots__ = ("_stand_in",)

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._stand_in = None
        return self

    @property
    def _branch(self) -> Branch | None:
        return None if self._stand_in is None else self._stand_in._branch

    def _enter(self, branch: Branch, clock: int) -> None:
        self._stand_in = StandIn.begin(self.optimizer, branch, clock)
        self.__dict__["_last_lr"] = self._stand_in._last_lr

    def _leave(self) -> None:
        self._stand_in = None

    def _working(self) -> Any:
        """The stand-in, where this scheduler is: its `last_epoch` may have been set."""
        stand_in = self._stand_in
        stand_in._whole = self
        clock = self.__dict__.get("last_epoch", stand_in.last_epoch)
        if clock != stand_in.last_epoch:
            stand_in.last_epoch = clock
        return stand_in

    def _show(self) -> None:
        """Shows what the stand-in did."""
        self.__dict__["_last_lr"] = self._stand_in._last_lr
        if "last_epoch" in self.__dict__:
            self.__dict__["last_epoch"] = self._stand_in.last_epoch

    def _in_branch(self, epoch: float | None) -> bool:
        if self._stand_in is None or self._left_branch(epoch):
            return False
        stand_in = self._working()
        stand_in.step() if epoch is None else stand_in._in_branch(epoch)
        self._show()
        return True

    def _move_end(self, end: int) -> None:
        self._working()._move_end(end)

    def _saved_branch(self) -> dict[str, Any]:
        return {**super()._saved_branch(), "at": self._working().points()}

    def _loaded(self, ours: dict[str, Any]) -> None:
        super()._loaded(ours)
        self._leave()
        if "branch" in ours:
            saved = dict(ours["branch"])
            (clock, points), last = saved.pop("at"), self.__dict__["_last_lr"]
            self._enter(Branch.loaded(saved), clock)
            self._stand_in.resume(last, points)
            self._show()

    def __getstate__(self) -> Any:
        state, ours = super().__getstate__()
        return state, {**ours, "stand_in": copy.copy(self._stand_in)}

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self._stand_in = state[1].get("stand_in") if isinstance(state, tuple) else None
