# SPDX-License-Identifier: Apache-2.0
"""The decision of a metric scheduler: `csrc/core/metric.h` in Triton, same names, same arithmetic.

It has no active intervals: a SequentialLR with such a member runs with the CUDA kernels only. One program updates the
progress and writes the learning rates, side by side. The state is one float64 table; the addresses of the learning
rates and their dtypes are integers in it.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from .step import rounded
from .tuning import METRIC_BLOCK

STATE_WIDTH: tl.constexpr = tl.constexpr(26)
TARGET_WIDTH: tl.constexpr = tl.constexpr(6)
# Columns of fs::MetricState.
GREEDY: tl.constexpr = tl.constexpr(0)
COMPARISON: tl.constexpr = tl.constexpr(1)
FACTOR: tl.constexpr = tl.constexpr(2)
THRESHOLD: tl.constexpr = tl.constexpr(3)
PATIENCE: tl.constexpr = tl.constexpr(4)
COOLDOWN: tl.constexpr = tl.constexpr(5)
WARMUP: tl.constexpr = tl.constexpr(6)
EPS: tl.constexpr = tl.constexpr(7)
WINDOW: tl.constexpr = tl.constexpr(8)
RESET_START: tl.constexpr = tl.constexpr(9)
CLOCK: tl.constexpr = tl.constexpr(11)  # an integer
BEST: tl.constexpr = tl.constexpr(14)
BAD: tl.constexpr = tl.constexpr(15)
GOOD: tl.constexpr = tl.constexpr(16)
COOLDOWN_COUNTER: tl.constexpr = tl.constexpr(17)
WARMUP_COUNTER: tl.constexpr = tl.constexpr(18)
LOWER_BEFORE_RESET: tl.constexpr = tl.constexpr(19)
EPOCH: tl.constexpr = tl.constexpr(20)
SUM: tl.constexpr = tl.constexpr(21)
HELD: tl.constexpr = tl.constexpr(22)
NEXT: tl.constexpr = tl.constexpr(23)
STAY: tl.constexpr = tl.constexpr(0)
LOWER: tl.constexpr = tl.constexpr(1)
RAISE: tl.constexpr = tl.constexpr(2)
START_OVER: tl.constexpr = tl.constexpr(3)
INF: tl.constexpr = tl.constexpr(float("inf"))


@triton.jit
def running_mean(state, window, value):
    """The mean of the last metrics; the metric itself where none is asked for."""
    size = tl.load(state + WINDOW)
    if size > 0.0:
        held, following = tl.load(state + HELD), tl.load(state + NEXT)
        place = window + following.to(tl.int64)
        total = tl.load(state + SUM) + value
        total = tl.where(held < size, total, total - tl.load(place))
        held = tl.where(held < size, held + 1.0, held)
        tl.debug_barrier()  # every thread has read what is overwritten now
        tl.store(place, value)
        tl.store(state + SUM, total)
        tl.store(state + HELD, held)
        tl.store(state + NEXT, tl.where(following + 1.0 < size, following + 1.0, 0.0))
        value = total / held
    return value


@triton.jit
def is_better(state, value):
    best, threshold, comparison = tl.load(state + BEST), tl.load(state + THRESHOLD), tl.load(state + COMPARISON)
    lower = tl.where(comparison == 0.0, best * (1.0 - threshold), best - threshold)
    higher = tl.where(comparison == 2.0, best * (threshold + 1.0), best + threshold)
    return tl.where(comparison < 2.0, value < lower, value > higher)


@triton.jit
def observe(state, window, value):
    """Updates the progress by a metric. Returns the verdict."""
    value = running_mean(state, window, value)
    better = is_better(state, value)
    greedy = tl.load(state + GREEDY) != 0.0
    patience = tl.load(state + PATIENCE)
    best, bad, good = tl.load(state + BEST), tl.load(state + BAD), tl.load(state + GOOD)
    cooling, warming = tl.load(state + COOLDOWN_COUNTER), tl.load(state + WARMUP_COUNTER)
    left, epoch = tl.load(state + LOWER_BEFORE_RESET), tl.load(state + EPOCH)
    # GreedyLR ignores the metric then; ReduceLROnPlateau still updates the best.
    waits = greedy & ((cooling > 0.0) | (warming > 0.0))
    best = tl.where(better & (waits == 0), value, best)
    quiet = (cooling > 0.0) | waits
    bad = tl.where(better | quiet, 0.0, bad + 1.0)
    good = tl.where(better & greedy & (quiet == 0), good + 1.0, 0.0)
    warming = tl.where(waits & (cooling <= 0.0), warming - 1.0, warming)
    cooling = tl.where(cooling > 0.0, cooling - 1.0, cooling)
    raises = greedy & (waits == 0) & (good > patience)
    lowers = (waits == 0) & (raises == 0) & (bad > patience)
    warming = tl.where(raises, tl.load(state + WARMUP), warming)
    left = tl.where(raises, tl.load(state + RESET_START), left)
    cooling = tl.where(lowers, tl.load(state + COOLDOWN), cooling)
    tl.debug_barrier()
    tl.store(state + BEST, best)
    tl.store(state + BAD, tl.where(lowers, 0.0, bad))
    tl.store(state + GOOD, tl.where(raises, 0.0, good))
    tl.store(state + COOLDOWN_COUNTER, cooling)
    tl.store(state + WARMUP_COUNTER, warming)
    tl.store(state + LOWER_BEFORE_RESET, left)
    tl.store(state + EPOCH, epoch + 1.0)
    return tl.where(raises, RAISE, tl.where(lowers, LOWER, STAY))


@triton.jit
def number_at(address, dtype, mask):
    """What lies there, in float64. `dtype`: as fs::DType."""
    single = tl.load(address.to(tl.pointer_type(tl.float32)), mask=mask & (dtype == 0), other=0.0).to(tl.float64)
    double = tl.load(address.to(tl.pointer_type(tl.float64)), mask=mask & (dtype == 1), other=0.0)
    brain = tl.load(address.to(tl.pointer_type(tl.bfloat16)), mask=mask & (dtype == 2), other=0.0).to(tl.float32)
    half = tl.load(address.to(tl.pointer_type(tl.float16)), mask=mask & (dtype == 3), other=0.0).to(tl.float32)
    small = tl.where(dtype == 2, brain, half).to(tl.float64)
    return tl.where(dtype == 0, single, tl.where(dtype == 1, double, small))


@triton.jit
def store_number(address, dtype, value, mask):
    single = value.to(tl.float32)
    tl.store(address.to(tl.pointer_type(tl.float32)), single, mask=mask & (dtype == 0))
    tl.store(address.to(tl.pointer_type(tl.float64)), value, mask=mask & (dtype == 1))
    tl.store(address.to(tl.pointer_type(tl.bfloat16)), rounded(single, tl.bfloat16), mask=mask & (dtype == 2))
    tl.store(address.to(tl.pointer_type(tl.float16)), rounded(single, tl.float16), mask=mask & (dtype == 3))


@triton.jit
def rewrite(state, rates, n, verdict, BLOCK: tl.constexpr):
    """All rates after a verdict. Returns how many are left above their minimum."""
    factor, eps = tl.load(state + FACTOR), tl.load(state + EPS)
    above = tl.full((BLOCK,), 0, tl.int32)
    for begin in range(0, n, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        mask = at < n
        row = rates + at * TARGET_WIDTH
        integers = row.to(tl.pointer_type(tl.int64))
        address, dtype = tl.load(integers, mask=mask, other=0), tl.load(integers + 1, mask=mask, other=0)
        least, most = tl.load(row + 2, mask=mask, other=0.0), tl.load(row + 3, mask=mask, other=0.0)
        initial = tl.load(row + 4, mask=mask, other=0.0)
        old = number_at(address, dtype, mask)
        lower, higher = old * factor, old / factor
        lower = tl.where(least > lower, least, lower)
        higher = tl.where(most < higher, most, higher)
        fresh = tl.where((verdict == LOWER) & (old - lower > eps), lower, old)
        fresh = tl.where((verdict == RAISE) & (higher - old > eps), higher, fresh)
        fresh = tl.where(verdict == START_OVER, initial, fresh)
        tl.debug_barrier()
        store_number(address, dtype, fresh, mask & (fresh != old))
        tl.debug_barrier()
        last = number_at(address, dtype, mask)  # as it was rounded
        tl.store(row + 5, last, mask=mask)
        above += (mask & (last > least)).to(tl.int32)
    return tl.reduce(above, 0, plus)


@triton.jit
def plus(a, b):
    return a + b


@triton.jit(do_not_specialize=["n"])
def observe_kernel(state, metric, n, BLOCK: tl.constexpr):
    """One program: decides by a metric about n learning rates."""
    rates = state + STATE_WIDTH
    clock = state.to(tl.pointer_type(tl.int64)) + CLOCK
    steps = tl.load(clock) + 1
    tl.debug_barrier()
    tl.store(clock, steps)
    verdict = observe(state, rates + n * TARGET_WIDTH, tl.load(metric).to(tl.float64))
    above = rewrite(state, rates, n, verdict, BLOCK)
    left = tl.load(state + LOWER_BEFORE_RESET) - 1.0
    if (verdict == LOWER) & (above == 0) & (tl.load(state + GREEDY) != 0.0):
        tl.debug_barrier()
        tl.store(state + LOWER_BEFORE_RESET, left)
        if left <= 0.0:
            tl.store(state + BEST, tl.where(tl.load(state + COMPARISON) < 2.0, INF, -INF))
            tl.store(state + BAD, 0.0)
            tl.store(state + GOOD, 0.0)
            tl.store(state + WARMUP_COUNTER, 0.0)
            tl.store(state + SUM, 0.0)
            tl.store(state + HELD, 0.0)
            tl.store(state + NEXT, 0.0)
            tl.store(state + LOWER_BEFORE_RESET, tl.load(state + RESET_START))
            rewrite(state, rates, n, tl.full((), START_OVER, tl.int32), BLOCK)


def launch(state: Any, metric: Any, n: int) -> None:
    """Launches it for a table of float64."""
    observe_kernel[(1,)](state, metric, n, BLOCK=METRIC_BLOCK, num_warps=1, enable_fp_fusion=False)
