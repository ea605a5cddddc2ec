# SPDX-License-Identifier: Apache-2.0
"""What SequentialLR and ChainedScheduler share: they step as one program on a device, or member by member."""

from __future__ import annotations

from typing import Any

from torch.optim import lr_scheduler as torch_schedulers

from ..schedules.evaluate import evaluate
from . import captured, device, skips
from .branch import Branch
from .extending import clock_of
from .members import present_rates, takes_metric
from .rows import Programs
from .saving import Restored, write_lr
from .standing import Represented
from .whole import count_to, holds_others, leaves, programs, tables, track_of, turn


def decide_for(scheduler: Any) -> None:
    """Whether its members hold is for this one to decide."""
    for leaf in leaves(scheduler):
        if isinstance(leaf, Restored):
            leaf._gate = None


class Composite(Represented):
    """Mixin for what is made of members. Where its rates are on a device, it is one program and the members only
    count; else they do their own steps."""

    # apart: whether its members do their own steps, since no kernel knows the whole; said: the programs that a
    # captured graph follows.
    __slots__ = ("_apart", "_said", "_depth")

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._apart, self._said, self._depth = False, None, None
        return self

    def _metric_depth(self) -> int:
        """How deep a member lies that follows a metric: 1 for one of its own, 2 for a member's; 0: there is none.

        Looked up once for a list of members.
        """
        members = self._schedulers
        if self._depth is None or self._depth[0] is not members or self._depth[1] != len(members):
            deep = 2 if any(map(takes_metric, leaves(self))) else 0
            self._depth = members, len(members), 1 if any(map(takes_metric, members)) else deep
        return self._depth[2]

    def _step_as_one(self) -> bool:
        """The step, if a kernel does it or counts it, or if there is none."""
        if self._gate is not None and skips.holds(self):
            return True
        if captured.step(self):
            return True
        if captured.hosted(self) and self._track is None:
            return self._gate is not None and skips.holds_after_waiting(self)
        for _ in range(2):  # the second with new tables
            if self._track is not None and self._track.step(self.__dict__):
                self._stepped()
                return True
            self._drop_track()
            if not self._may_be_one():
                break
            self._track = track_of(self)
            self._apart = self._track is None
            if self._track is not None and self._gate is not None:
                self._follower = device.Driver(self)
        return self._gate is not None and skips.holds_after_waiting(self)

    def _may_be_one(self) -> bool:
        # torch's warning about the order of calls is a member's to give, in its first step.
        called = getattr(self.optimizer, "_opt_called", False)
        return called and not self._apart and device.placement_of(self.optimizer) is not None

    def _steps_counted(self) -> int:
        return clock_of(self)

    def _stepped(self) -> None:
        count_to(self, self._track.clock)

    def _drop_track(self) -> None:
        if self._track is not None:
            self._show_rates()
            self._track = None

    def _enter(self, branch: Branch, clock: int) -> None:
        self._drop_track()
        self._apart = False
        super()._enter(branch, clock)

    def _leave(self) -> None:
        self._drop_track()
        self._apart = False
        super()._leave()

    def _move_end(self, end: int) -> None:
        self._drop_track()
        super()._move_end(end)

    def _rebase(self, edited: bool = False) -> None:
        self._drop_track()
        self._apart = False
        if not self._capturing_now():
            self._track = track_of(self)

    def _has_form(self) -> bool:
        if self._apart or self._branch is not None:
            return not self._apart
        known = all(isinstance(leaf, Restored) and leaf._has_form() for leaf in leaves(self))
        return known and (self._capturing_now() or tables(self) is not None)

    def _programs(self) -> Programs | None:
        self._said = programs(self)
        return self._said

    def _move(self, clock: int) -> None:
        if self._track is None and self._branch is not None:
            self._working()._move(clock)
            return self._show()
        count_to(self, clock)
        if self._track is not None:
            self._track.move(clock)
            return
        for group, table in zip(device.groups_of(self.optimizer), self._said.tables, strict=False):
            write_lr(group, evaluate(table, clock))  # a group that was added since has none yet
        self.__dict__["_last_lr"] = present_rates(self)
        member = self
        while holds_others(member):
            sequential = isinstance(member, torch_schedulers.SequentialLR)
            member = turn(member, clock_of(member))[0] if sequential else member._schedulers[-1]
            member.__dict__["_last_lr"] = present_rates(self)

    def _loaded(self, ours: dict[str, Any]) -> None:
        self._track, self._apart = None, False
        super()._loaded(ours)
