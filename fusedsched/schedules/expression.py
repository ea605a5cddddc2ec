# SPDX-License-Identifier: Apache-2.0
"""What a schedule is: an immutable expression; here what all have in common, and the leaf. See also `compose.py`.

An expression says nothing about devices or optimizers. `lower()` turns it into a program (see `lowering.py`), and every
value, here too, comes from that program: there is one meaning, the rows'. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fusedsched.schedules.json import read, to_plain

from .evaluate import Shape
from .program import Program

if TYPE_CHECKING:
    from ..plotting import Picture

# The columns that each shape reads besides `start`. Others go back to their default: equal schedules compare equal.
READS = {
    Shape.CONSTANT: (),
    Shape.LINEAR: ("span", "stop"),
    Shape.COSINE: ("span", "stop"),
    Shape.POLYNOMIAL: ("span", "stop", "param"),
    Shape.POWER: ("span", "stop", "param"),
    Shape.EXPONENTIAL: ("param",),
    Shape.STAIRCASE: ("span", "param"),
    Shape.TRIANGLE: ("span", "stop", "param"),
    Shape.TRIANGLE_DECAY: ("span", "stop", "param"),
    Shape.INVERSE_POWER: ("span", "param"),
    Shape.TABLE: ("span",),
}
_KINDS: dict[str, type[Schedule]] = {}  # by class name, for from_json; filled as the classes are made
_OPERATIONS: dict[str, Callable[..., Any]] = {}  # "lower", "*", ">>"; filled by the modules that build on this one

# Shapes that have a last step, after which a following part may take over.
FINITE = (Shape.LINEAR, Shape.COSINE, Shape.POLYNOMIAL, Shape.POWER, Shape.TABLE)


def operation(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the function is this operation of every schedule."""
    return lambda function: _OPERATIONS.setdefault(name, function)


def finite(what: str, value: Any) -> float:
    """`value` as a float, or a ValueError that names `what`.

    >>> finite("peak", 2)
    2.0
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{what} must be a number, got {value!r}. Give a Python number.") from None
    if not math.isfinite(number):
        raise ValueError(f"Invalid {what}: {value!r}. It must be a finite number.")
    return number + 0.0  # -0.0 becomes 0.0, so that equal schedules have equal hashes


def as_schedule(value: Schedule | float, what: str = "part") -> Schedule:
    """A schedule as it is, a number as a constant one."""
    if isinstance(value, Schedule):
        return value
    return Segment(Shape.CONSTANT, start=finite(what, value))


def _shape(shape: Any) -> Shape:
    try:
        return Shape[shape] if isinstance(shape, str) else Shape(shape)
    except (KeyError, ValueError):
        names = ", ".join(s.name for s in Shape)
        raise ValueError(f"Unknown shape: {shape!r}. It must be one of {names}.") from None


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The value of one hyperparameter as a function of the clock. Immutable and hashable; calling it evaluates it.

    Keyword arguments of every schedule:
        period: the clock is taken modulo this (`past_end="cycle"`); 0 means never.
        horizon: the last clock value that is defined (`past_end="error"`); -1 means all.
        unit: what the clock counts, "update", "sample" or "token". It travels with the schedule; the owner of the
            clock reads it.

    `a * b` multiplies (numbers too); `a >> b` runs `b` where `a` ends, on its own local time.

    >>> ramp = Segment(Shape.LINEAR, span=4, start=0.0, stop=2.0)
    >>> ramp(1), (3 * ramp)(1), ramp.curve(3)
    (0.5, 1.5, [0.0, 0.5, 1.0])
    """

    period: float = 0.0
    horizon: float = -1.0
    unit: str = "update"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _KINDS[cls.__name__] = cls

    def __post_init__(self) -> None:
        for name, value in (("period", self.period), ("horizon", self.horizon)):
            if type(value) is not float or not math.isfinite(value):
                self._set(name, finite(name, value))
        if self.period < 0.0:
            raise ValueError(f"Invalid period: {self.period}. It must be positive, or 0 for never.")
        if self.unit not in ("update", "sample", "token"):
            raise ValueError(f"Invalid unit: {self.unit!r}. It must be 'update', 'sample' or 'token'.")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # normalising our own fields is part of building a frozen object

    def _adopt(self, parts: tuple[Schedule, ...]) -> None:
        """Takes over the unit of the parts; constants have none."""
        units = {part.unit for part in parts if part.constant_value is None}
        if len(units) > 1:
            raise ValueError(f"The parts count different units: {sorted(units)}. Give all the same unit=.")
        if units and self.unit == "update":
            self._set("unit", units.pop())

    @cached_property
    def program(self) -> Program:
        """The lowered rows; made once."""
        return _OPERATIONS["lower"](self)

    def lower(self) -> Program:
        """The program of this schedule: rows that every backend evaluates.

        >>> print(Segment(Shape.LINEAR, span=10, start=0.5, stop=0.0).lower().describe())
        begin  shape   span  start  stop  param  cycle  track
            0  LINEAR    10    0.5     0      0      0      0
        """
        return self.program

    def __call__(self, t: float) -> float:
        """The value at clock `t` (the index of the update, 0 first)."""
        return self.program.evaluate(t)

    def curve(self, n: int) -> list[float]:
        """The values at t = 0 .. n-1."""
        return self.program.curve(n)

    def describe(self) -> str:
        """The rows as a table for a person."""
        return self.program.describe()

    def plot(self, steps: int | None = None, *, log: bool = False, title: str = "lr") -> Picture:
        """A picture: `print` it, `save("lr.svg")` it, or leave it to a notebook. See `fusedsched.plotting.Picture`.

        `steps`: how many updates (None: all of it). `log`: a logarithmic scale.
        """
        from ..plotting import of_schedules  # plotting imports this module

        return of_schedules([(title, [("", self)])], steps, log)

    def _repr_html_(self) -> str:
        return self.plot(title="value")._repr_html_()

    def check(self, what: str) -> Schedule:
        """Itself, or a ValueError naming `what` if the schedule is negative or not finite where it is defined.

        An optimizer calls this where it would check a number.

        >>> Segment(Shape.LINEAR, span=10, start=1.0, stop=0.0).check("lr")
        Traceback (most recent call last):
            ...
        ValueError: Invalid lr: the schedule falls to -1.09951e+11 within t = 0 .. 2**40. It must stay at or above 0: \
let a constant follow, or end it sooner.
        """
        low, high = self.program.bounds()
        if 0.0 <= low and math.isfinite(high):
            return self
        where = f"t = 0 .. {self.program.horizon:g}" if self.program.horizon >= 0 else "t = 0 .. 2**40"
        if math.isfinite(low) and math.isfinite(high):
            fault = f"falls to {low:g} within {where}. It must stay at or above 0"
        else:
            fault = f"is not finite everywhere within {where}. It must be a finite number"
        raise ValueError(f"Invalid {what}: the schedule {fault}: let a constant follow, or end it sooner.")

    @property
    def constant_value(self) -> float | None:
        """The value, if it is the same at every clock; else None."""
        return None

    @property
    def duration(self) -> float | None:
        """Steps until the last change, where `>>` puts the next part; None if it never ends."""
        return None

    def __mul__(self, other: Schedule | float) -> Schedule:
        if not isinstance(other, (Schedule, int, float)):
            return NotImplemented
        return _OPERATIONS["*"](self, as_schedule(other, "factor"))

    __rmul__ = __mul__

    def __rshift__(self, other: Schedule | float) -> Schedule:
        if not isinstance(other, (Schedule, int, float)):
            return NotImplemented
        follower = as_schedule(other)
        if self.duration is None or self.period > 0.0:
            raise ValueError(f"{type(self).__name__} never ends, so nothing can follow it with >>. Use join().")
        return _OPERATIONS[">>"](self, follower)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `json.dumps` takes and `from_json` reads back; fields at their default are left out.

        >>> Segment(Shape.CONSTANT, start=0.5).to_json()
        {'schedule': 'Segment', 'shape': 'CONSTANT', 'start': 0.5}
        """
        return to_plain(self)

    @staticmethod
    def from_json(data: dict[str, Any] | str) -> Schedule:
        """The schedule that `to_json` wrote (a dict, or its `json.dumps`). Raises ValueError for anything else.

        >>> s = 2.0 * Segment(Shape.EXPONENTIAL, start=1.0, param=0.5)
        >>> Schedule.from_json(json.dumps(s.to_json())) == s
        True
        """
        return read(data, _KINDS)

    @cached_property
    def fingerprint(self) -> str:
        """A hex hash of `to_json()`: the same in every process, unlike `hash()`.

        >>> len(Segment(Shape.CONSTANT, start=0.5).fingerprint)
        64
        """
        text = json.dumps(self.to_json(), sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # without what is cached


@dataclass(frozen=True)
class Segment(Schedule):
    """One shape with its numbers. Runs on beyond `span` by its formula; let a constant follow to hold.

    Arguments: see `Shape` for what each shape reads. `cycle`: local time is taken modulo this, 0 means never.
    `values`: the numbers of a TABLE, one per step; the last one holds.

    >>> Segment(Shape.EXPONENTIAL, start=8.0, param=0.5).curve(4)
    [8.0, 4.0, 2.0, 1.0]
    >>> Segment(Shape.TABLE, values=(3, 1, 2)).curve(4)
    [3.0, 1.0, 2.0, 2.0]
    """

    shape: Shape
    span: float = 0.0
    start: float = 0.0
    stop: float = 0.0
    param: float = 1.0
    cycle: float = 0.0
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        shape = _shape(self.shape)
        name = shape.name
        if self.shape is not shape:
            self._set("shape", shape)
        if self.values != ():
            self._set("values", tuple(finite(f"values[{i}] of {name}", v) for i, v in enumerate(self.values)))
        if (shape == Shape.TABLE) != bool(self.values):
            raise ValueError(f"{name} got {len(self.values)} values. A TABLE needs one or more, others take none.")
        if shape == Shape.TABLE:
            self._set("span", float(len(self.values)))
            self._set("start", 0.0)
        for number in ("span", "start", "stop", "param", "cycle"):
            value = getattr(self, number)
            if number in ("span", "stop", "param") and number not in READS[shape]:
                self._set(number, getattr(Segment, number))
            elif type(value) is not float or not math.isfinite(value):
                self._set(number, finite(f"{number} of {name}", value))
        if self.span < 0.0 or self.cycle < 0.0:
            raise ValueError(f"{name} got span={self.span}, cycle={self.cycle}. Neither may be negative.")
        if shape in (Shape.STAIRCASE, Shape.INVERSE_POWER) and self.span == 0.0:
            raise ValueError(f"{name} got span=0. It must be positive: a stair or a time scale has a width.")
        if shape in (Shape.TRIANGLE, Shape.TRIANGLE_DECAY) and not (0.0 < self.cycle and self.span <= self.cycle):
            raise ValueError(f"{name} got span={self.span}, cycle={self.cycle}. It needs 0 <= span <= cycle > 0.")
        if shape in (Shape.POLYNOMIAL, Shape.POWER) and self.param <= 0.0:
            raise ValueError(f"{name} got param={self.param}. The power must be positive.")

    @property
    def constant_value(self) -> float | None:
        return self.start if self.shape == Shape.CONSTANT else None

    @property
    def duration(self) -> float | None:
        return self.span if self.shape in FINITE and self.cycle == 0.0 else None
