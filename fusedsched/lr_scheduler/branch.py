# SPDX-License-Identifier: Apache-2.0
"""A branch: from where the rates are now to final ones, whatever the scheduler would have done.

It is a closed form like those of `forms.py`. While it lasts it stands in for its owner, a scheduler of any class, which
counts the steps and shows the rates.
"""

from __future__ import annotations

import copy
from typing import Any

from ..schedules.compose import Sequence
from ..schedules.evaluate import Shape
from ..schedules.expression import Schedule, Segment
from ..schedules.warmups import DECAYS
from .captured import Programs
from .closed import ClosedForm, Origins
from .forms import Form, form_of
from .joining import shared
from .rows import Row, row, value
from .saving import write_lr
from .tracks import copied, scalar, table


def _way(s: Any, start: float, final: float) -> Row:
    shape, param = DECAYS[s.decay]
    return row(s.begin, shape, start, span=s.end - s.begin, stop=final, param=param)


def _start(s: Any, i: int, t: float, x: float) -> float:
    """Where a branch began that is at x now: an edit changes its height, never its end."""
    if t <= s.begin:
        return x
    return s.final[i] + (x - s.final[i]) / value([_way(s, 1.0, 0.0)], t)


def _decay(s: Any, i: int, t: float, x: float) -> list[Row]:
    if t >= s.end:
        return [row(t, Shape.CONSTANT, x)]
    rows = [_way(s, _start(s, i, t, x), s.final[i]), row(s.end, Shape.CONSTANT, s.final[i])]
    return rows if t >= s.begin else [row(t, Shape.CONSTANT, x), *rows]


def _final(plain: dict[str, Any], i: int, start: float) -> float:
    """The final rate of a group that nobody gave one."""
    where = "call scheduler.branch() again, with one for each group,"
    if plain["ratio"] is not None:
        return start * shared("final_ratio", plain["ratio"], i + 1, where)
    return shared("final", plain["final"], i + 1, where)


FORM = Form(_decay, lambda s, i, x: x, ("begin", "end", "decay"), ("final",))


class Branch(ClosedForm):
    """Where group i has the rate `start[i]` at step `begin`, it has `final[i]` at step `end`, and holds it.

    `ratio`: the finals as parts of the starts, if they were given so. `earlier`: branches that this one cut short.
    """

    __slots__ = ("__dict__", "_track", "_origins", "_clock")

    _counts_steps = False
    KEYS = ("begin", "end", "decay", "start", "final", "ratio")

    def __init__(self, optimizer: Any, clock: int, last_lr: list[Any], earlier: list[Any], **plain: Any) -> None:
        self.optimizer, self.last_epoch, self._last_lr, self.earlier = optimizer, clock, last_lr, earlier
        self.__dict__.update(plain)
        self._track, self._origins, self._clock = None, None, clock

    def _form(self) -> Form:
        return FORM

    def _mark(self) -> None:
        """Goes on from what the groups have now."""
        self._origins, self._clock = None, self.last_epoch
        if type(self.last_epoch) is int:
            self._origins = Origins(self._present(), self._settings())

    def step(self, owner: Any) -> None:
        """One step of its owner."""
        self._follow(owner)
        if self._track is None or not self._track.step(self.__dict__):
            self._drop_track()
            if not (self._known() and self._untouched()):
                self._mark()
            self._track = self._build_track()
            if self._track is None:  # its clock has a fraction, since step(epoch)
                self._write(self.last_epoch + 1, self.last_epoch + 1, self._present())
            else:
                self._track.step(self.__dict__)
        self._show(owner)

    def seek(self, owner: Any, time: float, clock: float) -> None:
        """To an absolute time, at or after `begin`; edits are forgotten. Its owner's `last_epoch` is then `clock`."""
        self._follow(owner)
        self._drop_track()
        points = [(self.begin, x) for x in self.start]
        self._write(time, clock, points)
        self._origins = Origins(points, self._settings()) if type(clock) is int else None
        self._show(owner)

    def move(self, owner: Any, clock: int) -> None:
        """To a clock that was reached inside a captured graph, without an edit on the way."""
        self._drop_track()
        self.last_epoch = self._clock = clock
        self._build_track().write(self.__dict__)
        self._show(owner)

    def end_at(self, owner: Any, end: int) -> None:
        """Goes on from the present rates, so that it arrives at step `end`."""
        self._follow(owner)
        self._drop_track()
        self.end, self._origins = end, None
        self.start = [_start(self, i, *point) for i, point in enumerate(self._present())]

    def programs(self, owner: Any) -> Programs:
        """Programs from where it stands, for a captured graph. A momentum that the owner cycled stays what it is."""
        self._follow(owner)
        self._drop_track()
        programs, form = self._from_here(), form_of(owner)
        if form is None or form.momentum is None or not owner.cycle_momentum:
            return programs
        slot = "beta1" if owner.use_beta1 else "momentum"
        for i, group in enumerate(self.optimizer.param_groups):
            now = group["betas"][0] if owner.use_beta1 else group["momentum"]
            programs.momenta[i] = len(programs.tables)
            programs.tables.append(table([row(0, Shape.CONSTANT, scalar(now))]))
        return programs._replace(momentum=slot)

    def expression(self, before: Schedule, i: int) -> Schedule:
        """What its owner does to group i: `before`, then the branches."""
        for plain in (*self.earlier, self.plain()):
            start = plain["start"][i] if i < len(plain["start"]) else before(plain["begin"])
            final = plain["final"][i] if i < len(plain["final"]) else _final(plain, i, start)
            shape, param = DECAYS[plain["decay"]]
            span = plain["end"] - plain["begin"]
            way = Segment(shape, span=span, start=start, stop=final, param=param)
            before = Sequence((before, way, final), (plain["begin"], plain["end"]))
        return before

    def first_begin(self) -> int:
        """The step up to which its owner did what its class does."""
        return (self.earlier or [self.plain()])[0]["begin"]

    def plain(self) -> dict[str, Any]:
        """Its plan, as plain data of its own."""
        return {key: copy.copy(self.__dict__[key]) for key in self.KEYS}

    def saved(self) -> dict[str, Any]:
        """Plain data, from which a branch of the same numbers goes on bit by bit."""
        self._drop_track()
        origins = [list(point) for point in self._origins.points] if self._known() else None
        return {**self.plain(), "earlier": [*self.earlier], "clock": self.last_epoch, "origins": origins}

    @classmethod
    def resumed(cls, optimizer: Any, last_lr: list[Any], saved: dict[str, Any]) -> Branch:
        plan = {key: copy.copy(saved[key]) for key in cls.KEYS}
        branch = cls(optimizer, saved["clock"], last_lr, [*saved["earlier"]], **plan)
        points = saved["origins"]
        if points is not None and len(points) == len(optimizer.param_groups):
            branch._origins = Origins([(t, x) for t, x in points], branch._settings())
        return branch

    def _present(self) -> list[tuple[float, float]]:
        return [(self.last_epoch, scalar(group["lr"])) for group in self.optimizer.param_groups]

    def _follow(self, owner: Any) -> None:
        """Takes in what happened to its owner: new groups, a `last_epoch` that was set."""
        groups = self.optimizer.param_groups
        if len(groups) > len(self.start):
            self._join(owner, groups)
        self.last_epoch = owner.__dict__.get("last_epoch", self.last_epoch)

    def _join(self, owner: Any, groups: list[dict[str, Any]]) -> None:
        """New groups: where they would have been at `begin`, had they been there from the start, and on from there."""
        first, count = len(self.start), len(groups)
        for i in range(len(self.final), count):  # before anything is changed
            _final(self.plain(), i, 0.0)
        self._drop_track()
        points = list(self._origins.points) if self._known() else None
        owner._admit_at(self.begin)
        starts = [scalar(group["lr"]) for group in groups[first:]]
        self.start = [*self.start, *starts]
        for i, start in enumerate(starts, first):
            if i >= len(self.final):
                self.final = [*self.final, _final(self.plain(), i, start)]
            if self.last_epoch > self.begin:
                write_lr(groups[i], value(_decay(self, i, self.begin, start), self.last_epoch))
            self._last_lr = [*self._last_lr, copied(groups[i]["lr"])]
        joined = [(self.begin, start) for start in starts]
        self._origins = None if points is None else Origins([*points, *joined], self._settings())

    def _write(self, time: float, clock: float, points: list[tuple[float, float]]) -> None:
        """The rates of `time`, coming from `points`."""
        groups = self.optimizer.param_groups
        for i, (group, point) in enumerate(zip(groups, points, strict=True)):
            write_lr(group, value(_decay(self, i, *point), time))
        self._last_lr = [copied(group["lr"]) for group in groups]
        self.last_epoch = self._clock = clock

    def _show(self, owner: Any) -> None:
        state = owner.__dict__
        state["_last_lr"] = self._last_lr
        if "last_epoch" in state:
            state["last_epoch"] = self.last_epoch

    def __getstate__(self) -> tuple[dict[str, Any], Any]:
        self._drop_track()
        return self.__dict__.copy(), self._origins.points if self._known() else None

    def __setstate__(self, state: Any) -> None:
        plain, points = state
        self.__dict__.update(plain)
        self._track, self._clock = None, self.last_epoch
        self._origins = None if points is None else Origins(points, self._settings())
