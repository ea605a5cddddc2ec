# SPDX-License-Identifier: Apache-2.0
"""Schedules made of schedules: one after the other, times each other, moved in time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .expression import Schedule, Segment, Shape, as_schedule, finite, operation


@dataclass(frozen=True)
class Sequence(Schedule):
    """Parts that follow each other. Part i starts at `boundaries[i - 1]`, at its own local time 0; the last one stays.

    Arguments:
        parts: schedules or numbers (constants).
        boundaries: one fewer than parts, not decreasing, in steps of this sequence; fractions are allowed. Two equal
            ones make a phase of zero width, which is dropped.

    >>> ramp, fall = Segment(Shape.LINEAR, span=2, stop=1.0), Segment(Shape.LINEAR, span=4, start=1.0)
    >>> Sequence((ramp, fall, 0.25), (2, 5)).curve(7)
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.25]
    """

    parts: tuple[Schedule, ...]
    boundaries: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("parts", tuple([as_schedule(part, f"parts[{i}]") for i, part in enumerate(self.parts)]))
        self._set("boundaries", tuple([finite(f"boundaries[{i}]", b) for i, b in enumerate(self.boundaries)]))
        if len(self.parts) != len(self.boundaries) + 1:
            raise ValueError(
                f"Sequence got {len(self.parts)} parts and {len(self.boundaries)} boundaries. "
                "It needs one boundary fewer than parts: each says where the next part starts."
            )
        for i, (earlier, later) in enumerate(zip((0.0, *self.boundaries), self.boundaries, strict=False)):
            if later < earlier:
                raise ValueError(
                    f"boundaries[{i}] is {later}, less than {earlier} before it. Put them in order from 0."
                )
        self._adopt(self.parts)

    @property
    def duration(self) -> float | None:
        last = self.parts[-1]
        start = self.boundaries[-1] if self.boundaries else 0.0
        if last.constant_value is not None:
            return start
        return None if last.duration is None else start + last.duration


@dataclass(frozen=True)
class Product(Schedule):
    """The product of its factors, at every clock. Numbers are folded into another factor when it is lowered.

    >>> halving = Segment(Shape.STAIRCASE, span=2, start=1.0, param=0.5)
    >>> Product((halving, Segment(Shape.LINEAR, span=4, stop=4.0), 3)).curve(4)
    [0.0, 3.0, 3.0, 4.5]
    """

    factors: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        flat: list[Schedule] = []
        for i, factor in enumerate(self.factors):
            factor = as_schedule(factor, f"factors[{i}]")
            plain = isinstance(factor, Product) and factor.period == 0.0 and factor.horizon < 0.0
            flat.extend(factor.factors if plain else (factor,))
        if not flat:
            raise ValueError("Product got no factors. It needs at least one.")
        self._set("factors", tuple(flat))
        self._adopt(self.factors)

    @property
    def constant_value(self) -> float | None:
        values = [factor.constant_value for factor in self.factors]
        return None if None in values else math.prod(values)

    @property
    def duration(self) -> float | None:
        ends = [factor.duration for factor in self.factors if factor.constant_value is None]
        return None if None in ends or not ends else max(ends)


@dataclass(frozen=True)
class Shift(Schedule):
    """A schedule moved in time: its local time is the clock minus `begin`.

    A positive `begin` delays it; until then its first value holds. A negative or fractional one continues from the
    middle; only the part that a program starts with can do that (a row begins where its local time is 0).

    >>> fall = Segment(Shape.LINEAR, span=4, start=1.0, stop=0.0)
    >>> Shift(fall, -2).curve(3), Shift(fall, 1).curve(3)
    ([0.5, 0.25, 0.0], [1.0, 1.0, 0.75])
    """

    part: Schedule
    begin: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("part", as_schedule(self.part))
        self._set("begin", finite("begin", self.begin))
        self._adopt((self.part,))

    @property
    def constant_value(self) -> float | None:
        return self.part.constant_value

    @property
    def duration(self) -> float | None:
        return None if self.part.duration is None else max(0.0, self.part.duration + self.begin)


def ramp(peak: float, steps: float, warmup_from: float | None) -> Segment:
    """A warmup of `steps` updates: `peak * (t + 1) / steps`, or from `warmup_from` with the peak at `t = steps`."""
    if warmup_from is not None:
        return Segment(Shape.LINEAR, span=steps, start=warmup_from, stop=peak)
    return Segment(Shape.LINEAR, span=max(0.0, steps - 1.0), start=peak / max(1.0, steps), stop=peak)


@dataclass(frozen=True)
class Warmup(Schedule):
    """What `warmup()` returns: a factor that climbs to 1 in `steps` updates and stays.

    Before `>>` it climbs to the first value of what follows instead, which then runs on its own local time.

    >>> Warmup(4).curve(5)
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    steps: float
    warmup_from: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("steps", finite("steps", self.steps))
        if self.steps < 0.0:
            raise ValueError(f"Invalid steps: {self.steps}. A warmup takes 0 or more updates.")
        if self.warmup_from is not None:
            self._set("warmup_from", finite("warmup_from", self.warmup_from))

    def expression(self) -> Schedule:
        """The same in segments."""
        return Sequence((ramp(1.0, self.steps, self.warmup_from), 1.0), (self.steps,))

    @property
    def duration(self) -> float | None:
        return self.steps

    def __rshift__(self, other: Schedule | float) -> Schedule:
        if not isinstance(other, (Schedule, int, float)):
            return NotImplemented
        follower = as_schedule(other)
        climb = replace(ramp(follower(0), self.steps, self.warmup_from), unit=follower.unit)
        return Sequence((climb, follower), (self.steps,))


@operation("*")
def _times(schedule: Schedule, factor: Schedule) -> Schedule:
    return Product((schedule, factor))


@operation(">>")
def _before(schedule: Schedule, follower: Schedule) -> Schedule:
    return Sequence((schedule, follower), (schedule.duration,))
