# SPDX-License-Identifier: Apache-2.0
"""Samples of a schedule: the clocks, the values, and the clocks at which rows begin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..schedules.evaluate import Shape
from ..schedules.expression import Schedule

POINTS = 1000  # about one per column of pixels
MOST_MARKS = 40  # more lines would hide the curve
MOST_STEPS = 1e9  # a schedule that ends later (doubling cycles) is drawn over its first rows
_CYCLES, _STAIRS, _SPANS = 3, 5, 10  # how many to draw of an endless schedule
_FADED = 0.01  # an exponential decay is drawn down to this fraction


@dataclass(frozen=True)
class Curve:
    """One line of a picture. `marks`: where rows begin, after the first."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    marks: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """Curves that share their axes. `points`: labelled single points, (label, x, y). `log_x`, `log_y`: the scales.
    `from_zero`: the y axis starts at 0 unless that would flatten the curves."""

    title: str
    curves: Sequence[Curve]
    x_title: str = "update"
    log_x: bool = False
    log_y: bool = False
    from_zero: bool = True
    points: Sequence[tuple[str, float, float]] = field(default=())


def _end(row: tuple[float, ...]) -> float:
    """The clock to which a row is drawn."""
    begin, shape, span, _, _, param, cycle, _ = row
    if shape == Shape.COSINE and cycle == 2.0 * span:  # CosineAnnealingLR, which climbs again after its T_max
        return begin + span
    if cycle > 0.0:
        return begin + _CYCLES * cycle
    if shape == Shape.CONSTANT:
        return begin
    if shape == Shape.STAIRCASE:
        return begin + _STAIRS * span
    if shape == Shape.INVERSE_POWER:
        return begin + _SPANS * span
    if shape == Shape.EXPONENTIAL:
        return begin + (math.log(_FADED) / math.log(param) if 0.0 < param < 1.0 else 0.0)
    return begin + span


def natural_steps(schedule: Schedule) -> int:
    """The number of updates to draw: to the end of a schedule, or some cycles of an endless one.

    >>> from fusedsched import schedules as S
    >>> natural_steps(S.warmup_cosine(1.0, 10, 100)), natural_steps(S.cyclic(0.0, 1.0, up=5))
    (101, 31)
    """
    program = schedule.program
    if program.period > 0.0:
        end = _CYCLES * program.period
    else:
        factors: dict[float, list[tuple[float, ...]]] = {}
        for row in program.rows:
            factors.setdefault(row[7], []).append(row)
        ends = []
        for rows in factors.values():
            last = _end(rows[-1])
            if last > MOST_STEPS and len(rows) > _CYCLES:
                last = rows[_CYCLES + 1 if len(rows) > _CYCLES + 1 else _CYCLES][0]
            held = len(rows) > 1 and rows[-1][1] == rows[-2][1] == Shape.CONSTANT
            ends.append(last * 1.25 if held else last)  # draws some of the last, endless stair
        end = max(ends)
    if program.horizon >= 0.0:
        end = min(end, program.horizon) if end > 0.0 else program.horizon
    return int(min(max(math.ceil(end), 1), MOST_STEPS)) + 1 if end > 0.0 else 100


def _beginnings(schedule: Schedule, steps: int) -> list[float]:
    """The clocks after 0 at which a row begins or a period starts again."""
    program = schedule.program
    begins = {row[0] for row in program.rows}
    if program.period > 0.0:
        repeats = range(1, min(MOST_MARKS, math.ceil(steps / program.period)) + 1)
        begins |= {repeat * program.period + begin for repeat in repeats for begin in begins | {0.0}}
    return sorted(begin for begin in begins if 0.0 < begin < steps)


def _clocks(schedule: Schedule, steps: int, marks: list[float]) -> list[int]:
    """The integer clocks to sample: evenly spread, and on both sides of each possible jump."""
    if steps <= 2 * POINTS:
        return list(range(steps))
    clocks = {round(i * (steps - 1) / (POINTS - 1)) for i in range(POINTS)}
    corners = list(marks[:POINTS])
    for begin, shape, span, *_, cycle, _ in schedule.program.rows:
        width = cycle or (span if shape == Shape.STAIRCASE else 0.0)
        if width > 0.0 and (steps - begin) / width < POINTS / 4:
            corners += [begin + k * width for k in range(1, int((steps - begin) / width) + 1)]
    near = {math.ceil(corner) + side for corner in corners for side in (-1, 0)}
    return sorted(clock for clock in clocks | near if 0 <= clock < steps)


def sample(schedule: Schedule, steps: int | None = None, label: str = "") -> Curve:
    """The curve of a schedule over `steps` updates (None: `natural_steps`).

    Raises ValueError for less than one step, and past the horizon of a schedule with `past_end="error"`.

    >>> from fusedsched import schedules as S
    >>> curve = sample(S.join([1.0, 0.5], [3]), steps=5)
    >>> list(curve.xs), list(curve.ys), list(curve.marks)
    ([0, 1, 2, 3, 4], [1.0, 1.0, 1.0, 0.5, 0.5], [3.0])
    """
    if steps is None:
        steps = natural_steps(schedule)
    if steps < 1:
        raise ValueError(f"Invalid steps: {steps}. A picture needs at least one update.")
    marks = _beginnings(schedule, steps)
    clocks = _clocks(schedule, steps, marks)
    return Curve(label, clocks, [schedule(clock) for clock in clocks], marks if len(marks) <= MOST_MARKS else ())
