# SPDX-License-Identifier: Apache-2.0
"""A branch: from where the rates are to final ones, whatever the scheduler would have done.

It is one more closed form, in the place of that of the scheduler's class: `forms.form_of` says so, and with that steps,
edits, captured graphs, copies and resuming are what they always are.
"""

from __future__ import annotations

import copy
import math
from itertools import product
from typing import Any

from fusedsched.runtime.hyperparameters import Carry, Piece

from ..schedules.compose import Sequence
from ..schedules.evaluate import Shape
from ..schedules.expression import Schedule, Segment
from ..schedules.warmups import DECAYS
from .forms import Form, form_of_class
from .joining import shared
from .rows import Programs, Row, row, value
from .saving import write_lr
from .tracks import copied, scalar, table


class Branch:
    """Group i had the rate `start[i]` at step `begin`; it has `final[i]` at step `end`, and holds it.

    `height`: what a move of the end has made of the way's height; 1 as a rule. `ratio`: the finals as parts of the
    starts, if they were given so. `earlier`: branches that this one cut short.
    """

    __slots__ = ("begin", "end", "decay", "start", "final", "height", "ratio", "earlier")

    def __init__(self, **plain: Any) -> None:
        for key in self.__slots__:
            setattr(self, key, copy.copy(plain[key]))

    def saved(self) -> dict[str, Any]:
        """Plain data: the arguments of the constructor, but that the earlier ones are such data too."""
        plain = {key: copy.copy(getattr(self, key)) for key in self.__slots__}
        return {**plain, "earlier": [branch.saved() for branch in self.earlier]}

    @classmethod
    def loaded(cls, saved: dict[str, Any]) -> Branch:
        """What `saved` wrote."""
        return cls(**{**saved, "earlier": list(map(cls.loaded, saved["earlier"]))})

    def __copy__(self) -> Branch:
        return self.loaded(self.saved())

    def settings(self) -> tuple[Any, ...]:
        """What points on its way are good for."""
        return (self.begin, self.end, self.decay, *self.final)

    def way(self, start: float, final: float) -> Row:
        """The row from one rate to the other."""
        shape, param = DECAYS[self.decay]
        return row(self.begin, shape, start, span=self.end - self.begin, stop=final, param=param)

    def piece(self, i: int) -> Piece:
        """How an edit of group i goes on where a kernel finds it: to the same end."""
        return Piece(math.inf, Carry.HOLD, self.final[i])

    def left(self, t: float) -> float:
        """How much of the way is left at step t, from 1 to 0."""
        return value([self.way(1.0, 0.0)], t) if t > self.begin else 1.0

    def top(self, start: float, final: float) -> float:
        """Where the way begins for who had the rate `start` then."""
        return start if self.height == 1.0 else final + (start - final) * self.height

    def tops(self) -> list[tuple[int, float]]:
        """The points (begin, rate) of all groups."""
        return [(self.begin, self.top(*ends)) for ends in zip(self.start, self.final, strict=False)]

    def present(self, scheduler: Any) -> list[tuple[float, float]]:
        """Where a scheduler stands."""
        return [(scheduler.last_epoch, scalar(group["lr"])) for group in scheduler.optimizer.param_groups]

    def first_begin(self) -> int:
        """The step up to which its scheduler did what its class does."""
        return (self.earlier or [self])[0].begin

    def final_of(self, i: int, start: float) -> float:
        """The final rate of group i; that of all others, if nobody gave it one."""
        where = "call scheduler.branch() again, with one for each group,"
        if i < len(self.final):
            return self.final[i]
        if self.ratio is not None:
            return start * shared("final_ratio", self.ratio, i + 1, where)
        return shared("final", self.final, i + 1, where)

    def rate(self, i: int, start: float, t: float) -> float:
        """The rate at step t of a group that had the rate `start` when it began."""
        final = self.final_of(i, start)
        rows = [self.way(self.top(start, final), final), row(self.end, Shape.CONSTANT, final)]
        return value(rows, max(t, self.begin))

    def move_end(self, now: int, end: int) -> None:
        """Goes on from the rates of now, so that it arrives at step `end`."""
        left, self.end = self.left(now), end
        self.height *= left / self.left(now)

    def admit(self, scheduler: Any) -> bool:
        """Takes in new groups, if there are any: each where it would be, had it been there from the very start."""
        groups, first = scheduler.optimizer.param_groups, len(self.start)
        if len(groups) <= first:
            return False
        branches, count = [*self.earlier, self], len(groups)
        for i, branch in product(range(first, count), branches):  # before anything is changed
            branch.final_of(i, 0.0)
        last = scheduler.__dict__["_last_lr"][:first]
        scheduler._admit_at(self.first_begin())
        for i in range(first, count):
            start = scalar(groups[i]["lr"])
            for branch, end in zip(self.earlier, (later.begin for later in branches[1:]), strict=True):
                start = branch.rate(i, start, end)
            self.final = [*self.final[:i], self.final_of(i, start), *self.final[i + 1 :]]
            self.start = [*self.start, start]
            write_lr(groups[i], self.rate(i, start, scheduler.last_epoch))
            last.append(copied(groups[i]["lr"]))
        scheduler.__dict__["_last_lr"] = last
        return True

    def holding_momentum(self, scheduler: Any, programs: Programs | None) -> Programs | None:
        """Programs for a captured graph in which the scheduler cycled a momentum: it stays what it is."""
        form = form_of_class(scheduler)
        if programs is None or form is None or form.momentum is None or not scheduler.cycle_momentum:
            return programs
        for i, group in enumerate(scheduler.optimizer.param_groups):
            now = group["betas"][0] if scheduler.use_beta1 else group["momentum"]
            programs.momenta[i] = len(programs.tables)
            programs.tables.append(table([row(0, Shape.CONSTANT, scalar(now))]))
        return programs._replace(momentum="beta1" if scheduler.use_beta1 else "momentum")

    def expression(self, before: Schedule, i: int) -> Schedule:
        """What its scheduler does to group i: `before`, then the branches."""
        for branch in (*self.earlier, self):
            start = branch.start[i] if i < len(branch.start) else before(branch.begin)
            final = branch.final_of(i, start)
            shape, param = DECAYS[branch.decay]
            top, span = branch.top(start, final), branch.end - branch.begin
            way = Segment(shape, span=span, start=top, stop=final, param=param)
            before = Sequence((before, way, final), (branch.begin, branch.end))
        return before


def _decay(s: Any, i: int, t: float, x: float) -> list[Row]:
    """An edit changes the height of the way, never its end; after that it is held."""
    branch = s._branch
    final = branch.final[i]
    if t >= branch.end:
        return [row(t, Shape.CONSTANT, x)]
    start = x if t <= branch.begin else final + (x - final) / branch.left(t)
    rows = [branch.way(start, final), row(branch.end, Shape.CONSTANT, final)]
    return rows if t >= branch.begin else [row(t, Shape.CONSTANT, x), *rows]


Branch.form = Form(_decay, lambda s, i, x: x, ())  # what changes it drops the tracks that were made of it
