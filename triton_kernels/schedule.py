# SPDX-License-Identifier: Apache-2.0
"""A schedule program and its evaluator: `csrc/core/schedule.h` in Triton, same names, same fixed forms, same order.

There the rows and shapes are explained. A program is a pointer to its float64 table. The clock is a block: tests and
plots ask for a whole curve at once, a step for a block of one.
"""

import triton
import triton.language as tl

from .maths import HALF_PI, INF, NAN, expm1_sum, fmod, log_sum, pow, sin, two_product, two_sum

CONSTANT: tl.constexpr = tl.constexpr(0)
LINEAR: tl.constexpr = tl.constexpr(1)
COSINE: tl.constexpr = tl.constexpr(2)
POLYNOMIAL: tl.constexpr = tl.constexpr(3)
POWER: tl.constexpr = tl.constexpr(4)
EXPONENTIAL: tl.constexpr = tl.constexpr(5)
STAIRCASE: tl.constexpr = tl.constexpr(6)
TRIANGLE: tl.constexpr = tl.constexpr(7)
TRIANGLE_DECAY: tl.constexpr = tl.constexpr(8)
INVERSE_POWER: tl.constexpr = tl.constexpr(9)
TABLE: tl.constexpr = tl.constexpr(10)
ROW_WIDTH: tl.constexpr = tl.constexpr(8)
# Columns of a row.
BEGIN: tl.constexpr = tl.constexpr(0)
SHAPE: tl.constexpr = tl.constexpr(1)
SPAN: tl.constexpr = tl.constexpr(2)
START: tl.constexpr = tl.constexpr(3)
STOP: tl.constexpr = tl.constexpr(4)
PARAM: tl.constexpr = tl.constexpr(5)
CYCLE: tl.constexpr = tl.constexpr(6)
TRACK: tl.constexpr = tl.constexpr(7)
# Columns of the header.
N_ROWS: tl.constexpr = tl.constexpr(0)
PERIOD: tl.constexpr = tl.constexpr(1)
HORIZON: tl.constexpr = tl.constexpr(2)


@triton.jit
def half_wave(part, whole):
    s = sin((part / whole) * HALF_PI)
    return s * s


@triton.jit
def one_minus_power(x, rest, y):
    low_half = x < 0.5
    high, low = two_sum(tl.full(rest.shape, 1.0, tl.float64), -rest)
    positive = x > 0.0
    high = tl.where(low_half, tl.where(positive, x, 0.25), high)
    l_high, l_low = log_sum(high, tl.where(low_half, 0.0, low))
    p, p_low = two_product(l_high, y)
    value = -expm1_sum(p, p_low + l_low * y)
    return tl.where(positive, value, tl.where(x == 0.0, 1.0, NAN))


@triton.jit
def triangle(span, start, stop, cycle, t, scale):
    rises = t < span
    height = tl.where(rises, t, cycle - t) / tl.where(rises, span, cycle - span)
    return start + (stop - start) * height * scale


@triton.jit
def power_value(shape, span, start, stop, param, cycle, t, whole, turns):
    """The shapes that hold a power; it is taken at one place, since its code is long."""
    falls = shape == POLYNOMIAL
    mixes = falls | (shape == POWER)
    part = tl.where(falls, span - t, tl.where(shape == INVERSE_POWER, span + t, t)) / span
    base = tl.where(mixes | (shape == INVERSE_POWER), part, param)
    exponent = tl.where(shape == EXPONENTIAL, t, tl.where(shape == STAIRCASE, tl.floor(part), param))
    exponent = tl.where(shape == TRIANGLE, turns, tl.where(shape == TRIANGLE_DECAY, whole, exponent))
    power = pow(base, exponent)
    value = start * power
    if (shape == TRIANGLE) | (shape == TRIANGLE_DECAY):
        value = triangle(span, start, stop, cycle, t, power)
    if mixes:
        rest = tl.where(falls, t, span - t) / span
        near, far = tl.where(falls, start, stop), tl.where(falls, stop, start)
        value = near * power + far * one_minus_power(base, rest, exponent)
    return tl.where((shape < POLYNOMIAL) | (shape > INVERSE_POWER), NAN, value)  # not a shape: the value shows it


@triton.jit
def shape_value(row, values, t, whole, turns):
    shape = tl.load(row + SHAPE).to(tl.int32)
    span = tl.load(row + SPAN)
    start = tl.load(row + START)
    stop = tl.load(row + STOP)
    param = tl.load(row + PARAM)
    cycle = tl.load(row + CYCLE)
    value = tl.full(t.shape, 0.0, tl.float64)
    if shape == CONSTANT:
        value += start
    elif shape == LINEAR:
        value = (start * (span - t) + stop * t) / span
    elif shape == COSINE:
        u = tl.where(t <= span, t, 2.0 * span - t)  # the way back of a wave that is not cut off
        value = start * half_wave(span - u, span) + stop * half_wave(u, span)
    elif shape == TABLE:
        value = tl.load(values + start.to(tl.int64) + tl.where(t < span, t, span - 1.0).to(tl.int64))
    else:
        value = power_value(shape, span, start, stop, param, cycle, t, whole, turns)
    return value


@triton.jit
def row_value(row, values, clock):
    whole = clock - tl.load(row + BEGIN)
    cycle = tl.load(row + CYCLE)
    t = whole
    turns = tl.full(whole.shape, 0.0, tl.float64)
    if cycle > 0.0:
        t = fmod(whole, cycle)
        turns = (whole - t) / cycle
    return shape_value(row, values, t, whole, turns)


@triton.jit
def either(a, b):
    return a | b


@triton.jit
def evaluate(program, clock):
    """The product over tracks of the last row begun. `clock`: a block of float64, zero or more."""
    n = tl.load(program + N_ROWS).to(tl.int32)
    period = tl.load(program + PERIOD)
    rows = program + ROW_WIDTH
    values = program + (n + 1) * ROW_WIDTH
    if period > 0.0:
        clock = fmod(clock, period)
    product = tl.full(clock.shape, 1.0, tl.float64)
    served = tl.full(clock.shape, 0, tl.int32)  # whether a row of this track was found for the clock
    for i in range(n):
        row = rows + i * ROW_WIDTH
        track = tl.load(row + TRACK)
        more = i + 1 < n
        last_of_track = tl.load(row + ROW_WIDTH + TRACK, mask=more, other=-1.0) != track
        next_begin = tl.where(last_of_track, INF, tl.load(row + ROW_WIDTH + BEGIN, mask=more, other=0.0))
        chosen = (next_begin > clock) & (served == 0)
        # Not tl.sum: it is written in Triton, and is interpreted only if Triton was imported to be.
        if tl.reduce(chosen.to(tl.int32), 0, either) != 0:
            # Clocks that other rows serve are moved to where this row is defined: a table ends.
            local = tl.where(chosen, clock, tl.load(row + BEGIN))
            product = tl.where(chosen, product * row_value(row, values, local), product)
        served = tl.where(last_of_track, 0, served | chosen.to(tl.int32))
    return product


@triton.jit
def evaluate_kernel(program, clocks, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    clock = tl.load(clocks + at, mask=mask, other=0).to(tl.float64)
    tl.store(out + at, evaluate(program, clock), mask=mask)
