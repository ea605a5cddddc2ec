# SPDX-License-Identifier: Apache-2.0
"""One step of a scheduler that writes tensors: `csrc/cuda/schedule.cu` in Triton, same names, same order.

One program of one warp takes the rates one after the other: every thread of a program computes every number anyway, and
one warp has read the counter before it is advanced.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from .maths import fmod
from .schedule import HORIZON, evaluate
from .step import rounded

RATE_WIDTH: tl.constexpr = tl.constexpr(8)
PIECE_WIDTH: tl.constexpr = tl.constexpr(8)
# Columns of a rate, and of a piece.
PROGRAM: tl.constexpr = tl.constexpr(0)
TENSOR: tl.constexpr = tl.constexpr(1)
PIECES: tl.constexpr = tl.constexpr(2)
DTYPE: tl.constexpr = tl.constexpr(3)
WRITTEN: tl.constexpr = tl.constexpr(4)
GAIN: tl.constexpr = tl.constexpr(5)
SHIFT: tl.constexpr = tl.constexpr(6)
UNTIL: tl.constexpr = tl.constexpr(7)
END: tl.constexpr = tl.constexpr(0)
CARRY: tl.constexpr = tl.constexpr(1)
PIVOT: tl.constexpr = tl.constexpr(2)
LOW: tl.constexpr = tl.constexpr(3)
TURN: tl.constexpr = tl.constexpr(4)
KICK: tl.constexpr = tl.constexpr(5)
# How an edit is carried.
HOLD: tl.constexpr = tl.constexpr(1)
DROP: tl.constexpr = tl.constexpr(2)
WAVE: tl.constexpr = tl.constexpr(3)


@triton.jit
def number_at(address, dtype):
    """A block of one: what a tensor holds."""
    lane = tl.arange(0, 1)
    number = tl.full((1,), 0.0, tl.float64)
    if dtype == 0:
        number = tl.load(address.to(tl.pointer_type(tl.float32)) + lane).to(tl.float64)
    elif dtype == 1:
        number = tl.load(address.to(tl.pointer_type(tl.float64)) + lane)
    elif dtype == 2:
        number = tl.load(address.to(tl.pointer_type(tl.bfloat16)) + lane).to(tl.float32).to(tl.float64)
    else:
        number = tl.load(address.to(tl.pointer_type(tl.float16)) + lane).to(tl.float64)
    return number


@triton.jit
def store_number(address, dtype, value):
    """Stores a number as the tensor keeps it."""
    lane = tl.arange(0, 1)
    if dtype == 0:
        tl.store(address.to(tl.pointer_type(tl.float32)) + lane, value.to(tl.float32))
    elif dtype == 1:
        tl.store(address.to(tl.pointer_type(tl.float64)) + lane, value)
    elif dtype == 2:
        tl.store(address.to(tl.pointer_type(tl.bfloat16)) + lane, rounded(value, tl.bfloat16))
    else:
        tl.store(address.to(tl.pointer_type(tl.float16)) + lane, value.to(tl.float32).to(tl.float16))


@triton.jit
def piece_at(piece, clock):
    """The piece that a clock lies in; the last one ends at infinity."""
    while tl.load(piece + END) <= clock:
        piece += PIECE_WIDTH
    return piece


@triton.jit
def is_past(program, clock):
    horizon = tl.load(program + HORIZON)
    return tl.where(horizon >= 0.0, clock, -1.0) > horizon


@triton.jit
def program_value(program, clock):
    """Past its horizon a program keeps its last value."""
    return evaluate(program, tl.where(is_past(program, clock), tl.load(program + HORIZON), clock))


@triton.jit
def carry_edit(piece, clock, value, found, gain, shift, until):
    """gain, shift, until after an edit: `found` stands where the program has `value`."""
    carry = tl.load(piece + CARRY)
    pivot, end = tl.load(piece + PIVOT), tl.load(piece + END)
    above, height = found - pivot, value - pivot
    scaled = above / tl.where(height == 0.0, 1.0, height)
    if carry == WAVE:
        turn = tl.load(piece + TURN)
        passed = fmod(clock - tl.load(piece + LOW), turn)
        gain = tl.where(passed == 0.0, 1.0 + above * tl.load(piece + KICK), scaled)
        until = tl.minimum(clock - passed + turn, end)
    elif carry != 0.0:
        flat = height == 0.0
        gain = tl.where(flat, gain, scaled)
        shift = tl.where(flat, tl.where(carry == HOLD, above, shift), 0.0)
        until = tl.where(tl.where(flat, carry, HOLD) == DROP, until, end)
    return gain, shift, until


@triton.jit
def step_rate(row, clock, past_horizon):
    lane = tl.arange(0, 1)
    program = tl.load(row + PROGRAM).to(tl.pointer_type(tl.float64))
    address, dtype = tl.load(row + TENSOR), tl.load(row + DTYPE)
    pieces = tl.load(row + PIECES).to(tl.pointer_type(tl.float64))
    numbers = row.to(tl.pointer_type(tl.float64), bitcast=True)
    written, gain = tl.load(numbers + WRITTEN + lane), tl.load(numbers + GAIN + lane)
    shift, until = tl.load(numbers + SHIFT + lane), tl.load(numbers + UNTIL + lane)
    found = number_at(address, dtype)
    edited = tl.reduce(((written == written) & (found != written)).to(tl.int32), 0, _either)
    now = tl.full((1,), 0.0, tl.float64)
    value, pivot = now, now
    # At the clock of the edit, then at the next one: in a loop, since the evaluator's code is long.
    for later in range(1 - edited, 2):
        now = (clock + later + lane).to(tl.float64)
        piece = piece_at(pieces, (clock + later).to(tl.float64))
        value = program_value(program, now)
        pivot = now * 0.0 + tl.load(piece + PIVOT)
        if later == 0:
            gain, shift, until = carry_edit(piece, now, value, found, gain, shift, until)
    over = now >= until
    gain, shift = tl.where(over, 1.0, gain), tl.where(over, 0.0, shift)
    value = tl.where((gain != 1.0) | (shift != 0.0), pivot + gain * (value - pivot) + shift, value)
    tl.store(past_horizon + lane, lane + 1, mask=is_past(program, now))
    tl.debug_barrier()  # every thread has read what is overwritten now
    store_number(address, dtype, value)
    tl.debug_barrier()
    tl.store(numbers + WRITTEN + lane, number_at(address, dtype))
    tl.store(numbers + GAIN + lane, gain)
    tl.store(numbers + SHIFT + lane, shift)
    tl.store(numbers + UNTIL + lane, until)


@triton.jit
def _either(a, b):
    return a | b


@triton.jit(do_not_specialize=["n_rates", "past_horizon"])
def rates_kernel(rates, clock, updates, past_horizon, n_rates, CONDITIONAL: tl.constexpr):
    """One step, from *clock to *clock + 1. CONDITIONAL: none if *updates is still what it was, which is clock[1]."""
    before = tl.load(clock)
    moved = True
    if CONDITIONAL:
        count = tl.load(updates)
        moved = count != tl.load(clock + 1)
    tl.debug_barrier()
    if moved:
        for i in range(n_rates):
            step_rate(rates + i * RATE_WIDTH, before, past_horizon)
        tl.store(clock, before + 1)
        if CONDITIONAL:
            tl.store(clock + 1, count)


def launch(rates: Any, clock: Any, updates: Any, past_horizon: Any) -> None:
    """Launches it for a table of int64 with RATE_WIDTH columns. `updates`: int64, or None."""
    conditional = updates is not None
    rates_kernel[(1,)](
        rates, clock, updates if conditional else clock, past_horizon, rates.shape[0], CONDITIONAL=conditional,
        num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip
