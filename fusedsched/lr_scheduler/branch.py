# SPDX-License-Identifier: Apache-2.0
"""A branch: from where the rates are now to final ones, whatever the scheduler would have done.

It is a closed form like those of `forms.py`. While it lasts it stands in for its owner, a scheduler of any class, which
counts the steps and shows the rates.
"""

from __future__ import annotations

import copy
from itertools import product
from types import SimpleNamespace
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


def _left(s: Any, t: float) -> float:
    """How much of the way is left, from 1 to 0."""
    return value([_way(s, 1.0, 0.0)], t) if t > s.begin else 1.0


def _decay(s: Any, i: int, t: float, x: float) -> list[Row]:
    """An edit changes the height of the way, never its end."""
    if t >= s.end:
        return [row(t, Shape.CONSTANT, x)]
    final = s.final[i]
    start = x if t <= s.begin else final + (x - final) / _left(s, t)
    rows = [_way(s, start, final), row(s.end, Shape.CONSTANT, final)]
    return rows if t >= s.begin else [row(t, Shape.CONSTANT, x), *rows]


def _top(plan: Any, start: float, final: float) -> float:
    """Where the way begins for who had the rate `start` then."""
    return start if plan.height == 1.0 else final + (start - final) * plan.height


def _final(plan: Any, i: int, start: float) -> float:
    """The final rate of a group; that of all others, if nobody gave it one."""
    where = "call scheduler.branch() again, with one for each group,"
    if i < len(plan.final):
        return plan.final[i]
    if plan.ratio is not None:
        return start * shared("final_ratio", plan.ratio, i + 1, where)
    return shared("final", plan.final, i + 1, where)


def _rate(plan: Any, i: int, start: float, t: float) -> float:
    """The rate at step t of a group that had the rate `start` when the branch began."""
    final = _final(plan, i, start)
    rows = [_way(plan, _top(plan, start, final), final), row(plan.end, Shape.CONSTANT, final)]
    return value(rows, max(t, plan.begin))


FORM = Form(_decay, lambda s, i, x: x, ("begin", "end", "decay"), ("final",))


class Branch(ClosedForm):
    """Group i had the rate `start[i]` at step `begin`; it has `final[i]` at step `end`, and holds it.

    `height`: what a move of the end has made of the way's height; 1 as a rule. `ratio`: the finals as parts of the
    starts, if they were given so. `earlier`: the plans of branches that this one cut short.
    """

    __slots__ = ("__dict__", "_track", "_origins", "_clock")

    _counts_steps = False
    KEYS = ("begin", "end", "decay", "start", "final", "height", "ratio")

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
        points = [(self.begin, _top(self, *ends)) for ends in zip(self.start, self.final, strict=False)]
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
        left = _left(self, self.last_epoch)
        self.end, self._origins = end, None
        self.height *= left / _left(self, self.last_epoch)

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
        for plan in self._plans():
            start = plan.start[i] if i < len(plan.start) else before(plan.begin)
            final = _final(plan, i, start)
            shape, param = DECAYS[plan.decay]
            way = Segment(shape, span=plan.end - plan.begin, start=_top(plan, start, final), stop=final, param=param)
            before = Sequence((before, way, final), (plan.begin, plan.end))
        return before

    def _plans(self) -> list[Any]:
        return [SimpleNamespace(**plain) for plain in (*self.earlier, self.plain())]

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
        self.admit(owner)
        self.last_epoch = owner.__dict__.get("last_epoch", self.last_epoch)

    def admit(self, owner: Any) -> None:
        """Takes in new groups: each where it would have been now, had it been there from the owner's start."""
        groups, first = self.optimizer.param_groups, len(self.start)
        if len(groups) <= first:
            return
        count = len(groups)
        *earlier, _ = plans = self._plans()
        for i, plan in product(range(first, count), plans):  # before anything is changed
            _final(plan, i, 0.0)
        self._drop_track()
        points = list(self._origins.points) if self._known() else None
        owner._admit_at(self.first_begin())
        for i in range(first, count):
            start = scalar(groups[i]["lr"])
            for plan, end in zip(earlier, (plan.begin for plan in plans[1:]), strict=True):
                start = _rate(plan, i, start, end)
            self.final = [*self.final[:i], _final(self, i, start), *self.final[i + 1 :]]
            self.start = [*self.start, start]
            write_lr(groups[i], _rate(self, i, start, self.last_epoch))
            self._last_lr = [*self._last_lr, copied(groups[i]["lr"])]
            if points is not None:
                points.append((self.begin, _top(self, start, self.final[i])))
        self._origins = None if points is None else Origins(points, self._settings())

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
