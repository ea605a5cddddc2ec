# SPDX-License-Identifier: Apache-2.0
"""The reference evaluator: a schedule program in plain Python floats.

It is the second telling of `csrc/core/schedule.h`: same names, same fixed forms, same order of operations. Both call
the C library for `pow`, `fmod`, `log`, `log1p` and `expm1`, so on one machine the two agree bit for bit. The sine is
that of `csrc/core/sine.h`, with the same digits on every machine.
Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Numbers
from enum import IntEnum

ROW_WIDTH = 8
"""Columns of a row: begin, shape, span, start, stop, param, cycle, track."""

HALF_PI, HALF_PI_LOW, QUARTER_PI = 1.5707963267948966, 6.123233995736766e-17, 0.7853981633974483
# Coefficients of x**k, alternately of the sine and of the cosine, from the highest down to the third or fourth power.
_SINE = [sign / math.factorial(k) for k, sign in zip(range(19, 2, -2), (-1, 1) * 5, strict=False)]
_COSINE = [sign / math.factorial(k) for k, sign in zip(range(18, 3, -2), (-1, 1) * 4, strict=False)]


class Shape(IntEnum):
    """The closed forms that a row can take; `t` is local time. The numbers are those of `csrc/core/schedule.h`.

    >>> Shape.COSINE.value
    2
    """

    CONSTANT = 0  # start
    LINEAR = 1  # start to stop over span
    COSINE = 2  # half a cosine wave from start to stop over span
    POLYNOMIAL = 3  # stop + (start - stop) * (1 - t/span) ** param
    POWER = 4  # start + (stop - start) * (t/span) ** param
    EXPONENTIAL = 5  # start * param ** t
    STAIRCASE = 6  # start * param ** floor(t / span)
    TRIANGLE = 7  # start to stop over span, back until cycle; the height shrinks by param each cycle
    TRIANGLE_DECAY = 8  # as TRIANGLE; the height shrinks by param each step
    INVERSE_POWER = 9  # start * (1 + t/span) ** param
    TABLE = 10  # values[min(t, span - 1)], span values


# Python raises where the C library returns inf or nan; an evaluator lets the value show it instead.


def power(x: float, y: float) -> float:
    """`x ** y` as C's `pow` gives it: inf and nan are values, not errors.

    >>> power(2.0, 2000.0), power(0.0, -1.0)
    (inf, inf)
    """
    try:
        return math.pow(x, y)
    except OverflowError:
        return -math.inf if x < 0.0 and math.fmod(y, 2.0) != 0.0 else math.inf
    except ValueError:
        if x != 0.0:
            return math.nan
        return math.copysign(math.inf, x) if math.fmod(y, 2.0) in (1.0, -1.0) else math.inf


def one_minus_power(x: float, rest: float, y: float) -> float:
    """`1 - x ** y` with all its digits, also near x = 1. `rest` is `1 - x`; 0 <= x <= 1, y > 0.

    >>> one_minus_power(1.0, 1e-20, 2.0), one_minus_power(0.0, 1.0, 2.0)
    (2e-20, 1.0)
    """
    if x == 0.0:
        return 1.0  # log(0) is an error here; in C it is -inf, which leads to the same 1
    try:
        return -math.expm1(y * (math.log(x) if x < 0.5 else math.log1p(-rest)))
    except (OverflowError, ValueError):
        return math.nan if x < 0.0 else -math.inf


def power_mix(near: float, far: float, x: float, rest: float, y: float) -> float:
    """`near * x ** y + far * (1 - x ** y)`.

    >>> power_mix(1.0, 0.5, 0.5, 0.5, 1.0)
    0.75
    """
    return near * power(x, y) + far * one_minus_power(x, rest, y)


def sin_quarter(x: float) -> float:
    """`sin(pi/2 * x)` for `0 <= x <= 1`, from additions and multiplications alone; below 1 ulp off.

    Up to pi/4 the series of the sine, above it that of the cosine of what is left to pi/2, whose square is a sum of two
    numbers (Knuth's sum, Dekker's product).

    >>> sin_quarter(0.0), round(sin_quarter(1 / 3), 15), sin_quarter(1.0)
    (0.0, 0.5, 1.0)
    """
    angle = HALF_PI * x
    if angle < QUARTER_PI:
        z = angle * angle
        return angle + angle * (z * _series(_SINE, z))
    gap = -(angle - HALF_PI)
    b = gap + HALF_PI_LOW
    t = b - gap
    b_low = (gap - (b - t)) + (HALF_PI_LOW - t)
    z, c = b * b, b * 134217729.0
    high = c - (c - b)
    low = b - high
    z_low = (((high * high - z) + high * low + low * high) + low * low) + 2.0 * b * b_low
    s = 1.0 - 0.5 * z
    return s + (((1.0 - s) - 0.5 * z) + (z * z * _series(_COSINE, z) - 0.5 * z_low))


def _series(coefficients: Numbers[float], z: float) -> float:
    """A polynomial of z by Horner's rule."""
    value = coefficients[0]
    for coefficient in coefficients[1:]:
        value = z * value + coefficient
    return value


def half_wave(part: float, whole: float) -> float:
    """`sin(pi/2 * part/whole) ** 2`: the half-angle form of `(1 - cos(pi * part/whole)) / 2`.

    >>> half_wave(1.0, 1.0), half_wave(0.0, 5.0)
    (1.0, 0.0)
    """
    s = sin_quarter(part / whole)
    return s * s


def triangle(row: Numbers[float], t: float, scale: float) -> float:
    """The height of a triangle row at local time `t`, times `scale`."""
    _, _, span, start, stop, _, cycle, _ = row
    height = t / span if t < span else (cycle - t) / (cycle - span)
    return start + (stop - start) * height * scale


def shape_value(row: Numbers[float], values: Numbers[float], t: float, whole: float, turns: float) -> float:
    """The value of one row. `t`: local time reduced by the cycle; `whole`: before that; `turns`: cycles completed."""
    _, shape, span, start, stop, param, _, _ = row
    if shape == Shape.CONSTANT:
        return start
    if shape == Shape.LINEAR:
        return (start * (span - t) + stop * t) / span
    if shape == Shape.COSINE:
        u = t if t <= span else 2.0 * span - t  # the way back of a wave that is not cut off
        return start * half_wave(span - u, span) + stop * half_wave(u, span)
    if shape == Shape.POLYNOMIAL:
        return power_mix(start, stop, (span - t) / span, t / span, param)
    if shape == Shape.POWER:
        return power_mix(stop, start, t / span, (span - t) / span, param)
    if shape == Shape.EXPONENTIAL:
        return start * power(param, t)
    if shape == Shape.STAIRCASE:
        return start * power(param, float(math.floor(t / span)))
    if shape == Shape.TRIANGLE:
        return triangle(row, t, power(param, turns))
    if shape == Shape.TRIANGLE_DECAY:
        return triangle(row, t, power(param, whole))
    if shape == Shape.INVERSE_POWER:
        return start * power((span + t) / span, param)
    if shape == Shape.TABLE:
        return values[int(start) + int(t if t < span else span - 1.0)]
    return math.nan


def row_value(row: Numbers[float], values: Numbers[float], clock: float) -> float:
    """The value of one row at `clock`, on the row's own local time."""
    whole = clock - row[0]
    cycle = row[6]
    if cycle <= 0.0:
        return shape_value(row, values, whole, whole, 0.0)
    t = math.fmod(whole, cycle)
    return shape_value(row, values, t, whole, (whole - t) / cycle)


def evaluate_rows(rows: Numbers[Numbers[float]], values: Numbers[float], period: float, clock: float) -> float:
    """The product over tracks of the last row begun at `clock`; `rows` are sorted by (track, begin).

    >>> evaluate_rows([(0, Shape.CONSTANT, 0, 2.0, 0, 0, 0, 0), (0, Shape.LINEAR, 4, 1.0, 0.0, 0, 0, 1)], (), 0.0, 1)
    1.5
    """
    clock = float(clock)
    n = len(rows)
    if period > 0.0:
        clock = math.fmod(clock, period)
    product = 1.0
    i = 0
    while i < n:
        last_of_track = i + 1 == n or rows[i + 1][7] != rows[i][7]
        if last_of_track or rows[i + 1][0] > clock:
            product *= row_value(rows[i], values, clock)
            while i + 1 < n and rows[i + 1][7] == rows[i][7]:
                i += 1
        i += 1
    return product


def evaluate(table: Numbers[float], clock: float) -> float:
    """The value of a flat program at `clock`.

    `table` is `Program.table`: a header row, the rows, then the values of tables. The horizon in the header is not
    looked at; `Program.evaluate` does that.

    >>> header = [1, 0, -1, 0, 0, 0, 0, 0]  # one row, no period, no horizon
    >>> evaluate(header + [0, Shape.LINEAR, 4, 1.0, 0.0, 0, 0, 0], 1)
    0.75
    """
    n = int(table[0])
    rows = [table[(i + 1) * ROW_WIDTH : (i + 2) * ROW_WIDTH] for i in range(n)]
    return evaluate_rows(rows, table[(n + 1) * ROW_WIDTH :], table[1], clock)
