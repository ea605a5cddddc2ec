# SPDX-License-Identifier: Apache-2.0
"""One step of a drop-in scheduler: `csrc/cuda/schedule.cu` in Triton, same names, same order.

A program of one warp takes one target, or every so many where there are more than programs: every thread of a program
computes every number anyway. The last program that is done knows that all have read the counter, and advances it.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from .edit import PIVOT, edited, rule_at
from .schedule import HORIZON, evaluate
from .step import rounded
from .tuning import INTERPRETED_PROGRAMS, SCHEDULE_PROGRAMS

TARGET_WIDTH: tl.constexpr = tl.constexpr(8)
# Columns of a target.
PROGRAM: tl.constexpr = tl.constexpr(0)
TENSOR: tl.constexpr = tl.constexpr(1)
RULES: tl.constexpr = tl.constexpr(2)
DTYPE: tl.constexpr = tl.constexpr(3)
WRITTEN: tl.constexpr = tl.constexpr(4)
GAIN: tl.constexpr = tl.constexpr(5)
SHIFT: tl.constexpr = tl.constexpr(6)
UNTIL: tl.constexpr = tl.constexpr(7)


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
def is_past(program, clock):
    horizon = tl.load(program + HORIZON)
    return tl.where(horizon >= 0.0, clock, -1.0) > horizon


@triton.jit
def program_value(program, clock):
    """Past its horizon a program keeps its last value."""
    return evaluate(program, tl.where(is_past(program, clock), tl.load(program + HORIZON), clock))


@triton.jit
def step_target(row, clock, past_horizon):
    lane = tl.arange(0, 1)
    program = tl.load(row + PROGRAM).to(tl.pointer_type(tl.float64))
    address, dtype = tl.load(row + TENSOR), tl.load(row + DTYPE)
    rules = tl.load(row + RULES).to(tl.pointer_type(tl.float64))
    numbers = row.to(tl.pointer_type(tl.float64), bitcast=True)
    written, gain = tl.load(numbers + WRITTEN + lane), tl.load(numbers + GAIN + lane)
    shift, until = tl.load(numbers + SHIFT + lane), tl.load(numbers + UNTIL + lane)
    found = number_at(address, dtype)
    is_edited = tl.reduce(((written == written) & (found != written)).to(tl.int32), 0, _either)
    now = tl.full((1,), 0.0, tl.float64)
    value, pivot = now, now
    # At the clock of the edit, then at the next one: in a loop, since the evaluator's code is long.
    for later in range(1 - is_edited, 2):
        now = (clock + later + lane).to(tl.float64)
        rule = rule_at(rules, (clock + later).to(tl.float64))
        value = program_value(program, now)
        pivot = now * 0.0 + tl.load(rule + PIVOT)
        if later == 0:
            gain, shift, until = edited(rule, now, value, found, gain, shift, until)
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


@triton.jit(do_not_specialize=["n_targets", "past_horizon"])
def schedule_kernel(targets, clock, updates, past_horizon, n_targets, CONDITIONAL: tl.constexpr):
    """One step, from *clock to *clock + 1. CONDITIONAL: none if *updates is still what it was, which is clock[1].

    clock[2] counts the programs that are done; it is 0 between launches.
    """
    before = tl.load(clock)
    moved = True
    if CONDITIONAL:
        count = tl.load(updates)
        moved = count != tl.load(clock + 1)
    if moved:
        for i in range(tl.program_id(0), n_targets, tl.num_programs(0)):
            step_target(targets + i * TARGET_WIDTH, before, past_horizon)
    tl.debug_barrier()
    if tl.atomic_add(clock + 2, 1) == tl.num_programs(0) - 1:
        tl.store(clock + 2, 0)
        if moved:
            tl.store(clock, before + 1)
            if CONDITIONAL:
                tl.store(clock + 1, count)


def launch(targets: Any, clock: Any, updates: Any, past_horizon: Any) -> None:
    """Launches it for a table of int64 with TARGET_WIDTH columns. `clock`: 3 of int64. `updates`: int64, or None."""
    conditional = updates is not None
    most = INTERPRETED_PROGRAMS if clock.device.type == "cpu" else SCHEDULE_PROGRAMS
    schedule_kernel[(min(targets.shape[0], most),)](
        targets, clock, updates if conditional else clock, past_horizon, targets.shape[0], CONDITIONAL=conditional,
        num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip
