# SPDX-License-Identifier: Apache-2.0
"""Lowering: from an expression to the rows that every backend evaluates. All policy is decided here.

Which part owns a boundary (the later one), what a later part hides (dropped), what a product of sequences means (one
track per factor), what holds past the end (one more constant row): evaluators know nothing of it.
"""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

from .compose import Product, Sequence, Shift, Warmup
from .evaluate import ROW_WIDTH, Shape, evaluate_rows, row_value
from .expression import READS, Schedule, Segment

if TYPE_CHECKING:
    import torch

_TRANSITIONS = (Shape.LINEAR, Shape.COSINE, Shape.POLYNOMIAL, Shape.POWER)

FAR = 2.0**40
"""The last clock value for which evaluators promise agreement; "everywhere" ends here."""


class _Row(NamedTuple):
    """A row on its way: the table's values are still its own."""

    begin: float
    shape: Shape
    span: float
    start: float
    stop: float
    param: float
    cycle: float
    values: tuple[float, ...] = ()

    def scaled(self, factor: float) -> _Row:
        values = tuple(factor * v for v in self.values)
        return self._replace(start=factor * self.start, stop=factor * self.stop, values=values)

    def at(self, clock: float) -> float:
        return row_value((*self[:7], 0.0), self.values, clock)


_ONE = _Row(0.0, Shape.CONSTANT, 0.0, 1.0, 0.0, 0.0, 0.0)


class Program:
    """A lowered schedule: a flat float64 table, as `csrc/core/schedule.h` reads it.

    `table`: `array("d")`: the header [n_rows, period, horizon, 0 ...], the rows, the values of tables.
    `rows`: the rows as tuples (begin, shape, span, start, stop, param, cycle, track).
    `values`: the values of tables. `period`, `horizon`: as in `Schedule`.

    >>> Segment(Shape.CONSTANT, start=0.5).lower().rows
    [(0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0)]
    """

    __slots__ = ("table", "rows", "values", "period", "horizon")

    def __init__(self, tracks: list[list[_Row]], period: float, horizon: float) -> None:
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


def lower(schedule: Schedule) -> Program:
    """The program of a schedule.

    Rows of one track replace each other and begin where their part begins; factors of a product get tracks of their
    own; a part that has fewer factors than another is filled up with constant rows of 1. Parts of no width and rows
    that start past the period or the horizon are left out.

    >>> fall = Segment(Shape.LINEAR, span=4, start=1.0)
    >>> print(lower(Sequence((fall, 0.5 * fall, 0), (0, 4))).describe())
    begin  shape     span  start  stop  param  cycle  track
        0  LINEAR       4    0.5     0      0      0      0
        4  CONSTANT     0      0     0      0      0      0
    """
    if not isinstance(schedule, Schedule):
        raise TypeError(f"lower() takes a schedule, got {type(schedule).__name__}. Make a number one with constant().")
    period, horizon = schedule.period or _common_period(schedule), _horizon(schedule)
    end = period or math.inf
    if horizon >= 0.0:
        end = min(end, math.nextafter(horizon, math.inf))
    tracks = _tracks(schedule, 0.0, 0.0, end)
    for rows in tracks:
        for row in rows:
            if not all(map(math.isfinite, (*row[:7], *row.values))):
                raise ValueError(f"A row of this schedule is not finite: {row}. Its numbers are too large to multiply.")
    return Program(tracks, period, horizon)


def _common_period(schedule: Schedule) -> float:
    """A product whose factors all start again together starts again as a whole."""
    if not isinstance(schedule, Product):
        return 0.0
    periods = {factor.period for factor in schedule.factors if factor.constant_value is None}
    return periods.pop() if len(periods) == 1 else 0.0


def _horizon(node: Schedule) -> float:
    """The last clock that is defined, given that the node starts at 0; -1 for no end."""
    ends = [node.horizon]
    if isinstance(node, Shift):
        inner = _horizon(node.part)
        ends.append(max(0.0, inner + node.begin) if inner >= 0.0 else -1.0)
    elif isinstance(node, Product):
        ends.extend(_horizon(factor) for factor in node.factors)
    elif isinstance(node, Sequence):
        for part, begin, end in zip(node.parts, (0.0, *node.boundaries), (*node.boundaries, math.inf), strict=True):
            inner = _horizon(part)
            if inner >= 0.0 and begin + inner + 1.0 < end:
                ends.append(begin + inner)
    return min((end for end in ends if end >= 0.0), default=-1.0)


def _tracks(node: Schedule, origin: float, lo: float, hi: float) -> list[list[_Row]]:
    """The tracks that give `node` on [lo, hi), its local time being `clock - origin`. The first row of each begins at
    `lo`, or before it when the node is already running then."""
    if node.period > 0.0 and hi > origin + node.period:
        return _cycled(node, origin)
    return _tracks_once(node, origin, lo, hi)


def _tracks_once(node: Schedule, origin: float, lo: float, hi: float) -> list[list[_Row]]:
    if isinstance(node, Segment):
        return [_segment_rows(node, origin, lo, hi)]
    if isinstance(node, Shift):
        return _tracks(node.part, origin + node.begin, lo, hi)
    if isinstance(node, Warmup):
        return _tracks(node.expression(), origin, lo, hi)
    if isinstance(node, Product):
        return _product_tracks([_tracks(factor, origin, lo, hi) for factor in node.factors])
    if isinstance(node, Sequence):
        return _sequence_tracks(node, origin, lo, hi)
    raise TypeError(f"{type(node).__name__} cannot be lowered. Build it of Segment, Sequence, Product and Shift.")


def _segment_rows(node: Segment, origin: float, lo: float, hi: float) -> list[_Row]:
    param = node.param if "param" in READS[node.shape] else 0.0
    row = _Row(origin, node.shape, node.span, node.start, node.stop, param, node.cycle, node.values)
    if node.shape in _TRANSITIONS and node.span == 0.0:
        row = _ONE._replace(begin=origin, start=node.stop)  # a way of no length has arrived
    if row.shape == Shape.CONSTANT:
        return [row._replace(begin=lo, cycle=0.0)]
    if origin > lo:
        waiting = _ONE._replace(begin=lo, start=row.at(origin))
        return [waiting, row] if origin < hi else [waiting]
    return [row]


def _cycled(node: Schedule, origin: float) -> list[list[_Row]]:
    """A part that starts again and again inside a larger whole: possible where one row does it all."""
    tracks = _tracks_once(node, origin, origin, origin + node.period)
    for rows in tracks:
        if len(rows) > 1 or rows[0].cycle > 0.0 or rows[0].begin != origin:
            raise ValueError(
                "past_end='cycle' of a schedule of several rows can only stand outermost: rows cannot repeat inside "
                "a larger schedule. Give past_end='cycle' to the whole, or join() the repetitions."
            )
    return [[rows[0]._replace(cycle=node.period if rows[0].shape != Shape.CONSTANT else 0.0)] for rows in tracks]


def _product_tracks(factors: list[list[list[_Row]]]) -> list[list[_Row]]:
    """Every factor keeps its tracks; what is constant throughout is folded into the first that is not."""
    constants = [f for f in factors if len(f) == 1 and len(f[0]) == 1 and f[0][0].shape == Shape.CONSTANT]
    others = [f for f in factors if f not in constants]
    coefficient = math.prod(f[0][0].start for f in constants)
    if not others:
        return [[constants[0][0][0]._replace(start=coefficient)]]
    tracks = [rows for factor in others for rows in factor]
    if coefficient != 1.0:
        tracks[0] = [row.scaled(coefficient) for row in tracks[0]]
    return tracks


def _sequence_tracks(node: Sequence, origin: float, lo: float, hi: float) -> list[list[_Row]]:
    starts = [origin, *(origin + b for b in node.boundaries)]
    placed: list[tuple[float, list[list[_Row]]]] = []
    for i, part in enumerate(node.parts):
        start = lo if i == 0 else max(lo, starts[i])
        end = min(hi, starts[i + 1]) if i + 1 < len(starts) else hi
        if start < end:
            placed.append((start, _tracks(part, starts[i], start, end)))
    n_tracks = max(len(tracks) for _, tracks in placed)
    joined: list[list[_Row]] = [[] for _ in range(n_tracks)]
    for start, tracks in placed:
        filler = [_ONE._replace(begin=start)]
        for rows, own in zip(joined, tracks + [filler] * (n_tracks - len(tracks)), strict=True):
            if rows and own[0].begin < start:
                raise ValueError(
                    "A Shift with a negative begin can only stand first in a Sequence: a row begins where its local "
                    "time is 0. Write the rest of the segment as a segment of its own."
                )
            same = rows and own[0].shape == Shape.CONSTANT == rows[-1].shape and own[0].start == rows[-1].start
            rows.extend(own[1:] if same else own)
    return joined
