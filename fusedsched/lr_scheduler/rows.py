# SPDX-License-Identifier: Apache-2.0
"""A row of a schedule program, and the questions asked before one is written."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, NamedTuple

from ..schedules.evaluate import Shape, evaluate_rows

Row = tuple[float, ...]

HORIZON = 2  # where a program's header says up to which clock it is defined


class Programs(NamedTuple):
    """What a scheduler does from its clock on: tables; for each group the index of its table, and of its momentum's
    (-1: none); the slot that is cycled, "momentum" or "beta1"."""

    tables: list[Any]
    rates: list[int]
    momenta: list[int]
    momentum: str


def row(begin: float, shape: Shape, start: float, *, span=0.0, stop=0.0, param=0.0, cycle=0.0) -> Row:
    """One row of the only track."""
    return tuple(float(column) for column in (begin, shape, span, start, stop, param, cycle, 0.0))


def value(rows: list[Row], clock: float) -> float:
    """The value of rows at a clock.

    >>> value([row(0, Shape.LINEAR, 1.0, span=4)], 1)
    0.75
    """
    return evaluate_rows(rows, (), 0.0, clock)


def whole(number: Any, least: int) -> int | None:
    """The number as an integer; closed forms that count steps need one. None if it is none, or below `least`.

    >>> whole(3.0, 1), whole(2.5, 1), whole(0, 1)
    (3, None, None)
    """
    return int(number) if plain(number) and number == int(number) and number >= least else None


def plain(*numbers: Any) -> bool:
    """Whether all are plain finite numbers, not tensors or anything else whose arithmetic is its own."""
    return all(isinstance(n, (int, float, Integral)) and math.isfinite(n) for n in numbers)
