# SPDX-License-Identifier: Apache-2.0
"""Programs: the rows that every backend evaluates. `lowering.py` makes them from expressions."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

from .evaluate import ROW_WIDTH, Shape, evaluate_rows, row_value

if TYPE_CHECKING:
    import torch

FAR = 2.0**40
"""The last clock value for which evaluators promise agreement; "everywhere" ends here."""


class Row(NamedTuple):
    """A row on its way: the table's values are still its own."""

    begin: float
    shape: Shape
    span: float
    start: float
    stop: float
    param: float
    cycle: float
    values: tuple[float, ...] = ()

    def scaled(self, factor: float) -> Row:
        values = tuple(factor * v for v in self.values)
        return self._replace(start=factor * self.start, stop=factor * self.stop, values=values)

    def at(self, clock: float) -> float:
        return row_value((*self[:7], 0.0), self.values, clock)


ONE = Row(0.0, Shape.CONSTANT, 0.0, 1.0, 0.0, 0.0, 0.0)


class Program:
    """A lowered schedule: a flat float64 table, as `csrc/core/schedule.h` reads it.

    `table`: `array("d")`: the header [n_rows, period, horizon, 0 ...], the rows, the values of tables.
    `rows`: the rows as tuples (begin, shape, span, start, stop, param, cycle, track).
    `values`: the values of tables. `period`, `horizon`: as in `Schedule`.

    >>> from fusedsched.schedules import Segment
    >>> Segment(Shape.CONSTANT, start=0.5).lower().rows
    [(0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0)]
    """

    __slots__ = ("table", "rows", "values", "period", "horizon")

    def __init__(self, tracks: list[list[Row]], period: float, horizon: float) -> None:
        self.period, self.horizon = period, horizon
        self.rows: list[tuple[float, ...]] = []
        values: list[float] = []
        for track, rows in enumerate(tracks):
            for row in rows:
                start = row.start
                if row.shape == Shape.TABLE:
                    start = float(len(values))
                    values.extend(row.values)
                columns = (row.begin, row.shape, row.span, start, row.stop, row.param, row.cycle, track)
                self.rows.append(tuple(map(float, columns)))
        self.values = array("d", values)
        header = (len(self.rows), period, horizon) + (0.0,) * (ROW_WIDTH - 3)
        self.table = array("d", header)
        for row in self.rows:
            self.table.extend(row)
        self.table.extend(self.values)

    def evaluate(self, clock: float) -> float:
        """The value at `clock`.

        >>> from fusedsched.schedules import Segment
        >>> Segment(Shape.LINEAR, span=4, start=1.0, stop=0.0).lower().evaluate(3)
        0.25
        """
        if not 0.0 <= clock < math.inf:
            raise ValueError(f"Invalid clock: {clock}. It counts steps from 0.")
        if 0.0 <= self.horizon < clock:
            raise ValueError(
                f"This schedule is defined for t = 0 .. {self.horizon:g} (past_end='error'), got t = {clock}. "
                "Declare more steps, or hold the last value with past_end='hold'."
            )
        return evaluate_rows(self.rows, self.values, self.period, clock)

    def curve(self, n: int) -> list[float]:
        """The values at t = 0 .. n-1."""
        return [self.evaluate(t) for t in range(n)]

    def describe(self) -> str:
        """The rows as a table for a person; `Schedule.lower` shows one."""
        lines = [("begin", "shape", "span", "start", "stop", "param", "cycle", "track")]
        for begin, shape, *rest in self.rows:
            lines.append((f"{begin:g}", Shape(int(shape)).name, *(f"{column:g}" for column in rest)))
        widths = [max(len(line[i]) for line in lines) for i in range(ROW_WIDTH)]
        text = []
        for line in lines:
            cells = [c.ljust(w) if i == 1 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
            text.append("  ".join(cells).rstrip())
        if self.period > 0.0:
            text.append(f"starts again every {self.period:g} steps")
        if self.horizon >= 0.0:
            text.append(f"defined for t = 0 .. {self.horizon:g}")
        return "\n".join(text)

    def to(self, device: Any) -> torch.Tensor:
        """The table as a float64 tensor on `device`: one small copy, to be kept for the life of the schedule."""
        import torch

        return torch.tensor(self.table, dtype=torch.float64).to(device)

    def bounds(self) -> tuple[float, float]:
        """The lowest and highest value over all clocks where the program is defined (to 2**40); nan if it is nan there.

        Exact for one track; for several it is what the tracks' own bounds allow.

        >>> from fusedsched.schedules import Segment
        >>> Segment(Shape.LINEAR, span=4, start=1.0, stop=0.0, horizon=4).lower().bounds()
        (0.0, 1.0)
        """
        end = self.horizon if self.horizon >= 0.0 else FAR
        if self.period > 0.0:
            end = min(end, math.ceil(self.period) - 1.0)
        low = high = 1.0
        track: list[float] = []
        for i, row in enumerate(self.rows):
            follower = self.rows[i + 1] if i + 1 < len(self.rows) else None
            last_of_track = follower is None or follower[7] != row[7]
            last = end if last_of_track else min(end, math.ceil(follower[0]) - 1.0)
            track.extend(row_value(row, self.values, clock) for clock in _extremes(row, last))
            if row[1] == Shape.TABLE:
                track.extend(self.values[int(row[3]) : int(row[3] + min(row[2], last - row[0] + 1.0))])
            if last_of_track:
                corners = [a * b for a in (low, high) for b in (min(track), max(track))]
                broken = any(math.isnan(v) for v in (*track, *corners))
                low, high = (math.nan, math.nan) if broken else (min(corners), max(corners))
                track = []
        return low, high


def _extremes(row: tuple[float, ...], last: float) -> set[float]:
    """The whole clocks up to `last` among which a row takes its lowest and highest value: every shape is monotone
    between these."""
    begin, span, cycle = row[0], row[2], row[6]
    first = max(0.0, math.ceil(begin))
    turns = [0.0]
    if cycle > 0.0:
        turns += [math.floor((last - begin) / cycle) - 1.0, math.floor((last - begin) / cycle)]
    corners = [begin + turn * cycle + t for turn in turns for t in (0.0, span, 2.0 * span, cycle)]
    near = {float(math.floor(c) + d) for c in corners for d in (-1, 0, 1)}
    return {c for c in near | {first, last} if first <= c <= last}
