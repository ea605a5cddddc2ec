# SPDX-License-Identifier: Apache-2.0
"""Lowering: from an expression to the rows that every backend evaluates. All policy is decided here.

Which part owns a boundary (the later one), what a later part hides (dropped), what a product of sequences means (one
track per factor), what holds past the end (one more constant row): evaluators know nothing of it.
"""

from __future__ import annotations

import math

from .compose import Product, Sequence, Shift, Warmup
from .evaluate import Shape
from .expression import READS, Schedule, Segment, operation
from .program import ONE, Program, Row

_TRANSITIONS = (Shape.LINEAR, Shape.COSINE, Shape.POLYNOMIAL, Shape.POWER)


@operation("lower")
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


def _tracks(node: Schedule, origin: float, lo: float, hi: float) -> list[list[Row]]:
    """The tracks that give `node` on [lo, hi), its local time being `clock - origin`. The first row of each begins at
    `lo`, or before it when the node is already running then."""
    if node.period > 0.0 and hi > origin + node.period:
        return _cycled(node, origin)
    return _tracks_once(node, origin, lo, hi)


def _tracks_once(node: Schedule, origin: float, lo: float, hi: float) -> list[list[Row]]:
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


def _segment_rows(node: Segment, origin: float, lo: float, hi: float) -> list[Row]:
    param = node.param if "param" in READS[node.shape] else 0.0
    row = Row(origin, node.shape, node.span, node.start, node.stop, param, node.cycle, node.values)
    if node.shape in _TRANSITIONS and node.span == 0.0:
        row = ONE._replace(begin=origin, start=node.stop)  # a way of no length has arrived
    if row.shape == Shape.COSINE and row.cycle == 0.0 and hi > origin + 2.0 * row.span:
        row = row._replace(cycle=2.0 * row.span)  # a wave that nothing ends goes on
    if row.shape == Shape.CONSTANT:
        return [row._replace(begin=lo, cycle=0.0)]
    if origin > lo:
        waiting = ONE._replace(begin=lo, start=row.at(origin))
        return [waiting, row] if origin < hi else [waiting]
    return [row]


def _cycled(node: Schedule, origin: float) -> list[list[Row]]:
    """A part that starts again and again inside a larger whole: possible where one row does it all."""
    tracks = _tracks_once(node, origin, origin, origin + node.period)
    for rows in tracks:
        if len(rows) > 1 or rows[0].cycle > 0.0 or rows[0].begin != origin:
            raise ValueError(
                "past_end='cycle' of a schedule of several rows can only stand outermost: rows cannot repeat inside "
                "a larger schedule. Give past_end='cycle' to the whole, or join() the repetitions."
            )
    return [[rows[0]._replace(cycle=node.period if rows[0].shape != Shape.CONSTANT else 0.0)] for rows in tracks]


def _product_tracks(factors: list[list[list[Row]]]) -> list[list[Row]]:
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


def _sequence_tracks(node: Sequence, origin: float, lo: float, hi: float) -> list[list[Row]]:
    starts = [origin, *(origin + b for b in node.boundaries)]
    placed: list[tuple[float, list[list[Row]]]] = []
    for i, part in enumerate(node.parts):
        start = lo if i == 0 else max(lo, starts[i])
        end = min(hi, starts[i + 1]) if i + 1 < len(starts) else hi
        if start < end:
            placed.append((start, _tracks(part, starts[i], start, end)))
    n_tracks = max(len(tracks) for _, tracks in placed)
    joined: list[list[Row]] = [[] for _ in range(n_tracks)]
    for start, tracks in placed:
        filler = [ONE._replace(begin=start)]
        for rows, own in zip(joined, tracks + [filler] * (n_tracks - len(tracks)), strict=True):
            if rows and own[0].begin < start:
                raise ValueError(
                    "A Shift with a negative begin can only stand first in a Sequence: a row begins where its local "
                    "time is 0. Write the rest of the segment as a segment of its own."
                )
            same = rows and own[0].shape == Shape.CONSTANT == rows[-1].shape and own[0].start == rows[-1].start
            rows.extend(own[1:] if same else own)
    return joined
