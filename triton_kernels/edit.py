# SPDX-License-Identifier: Apache-2.0
"""What a write to a scheduled number does to the steps after it: the twin of `csrc/core/edit.h`, same names."""

from __future__ import annotations

import triton
import triton.language as tl

from .maths import fmod

RULE_WIDTH: tl.constexpr = tl.constexpr(6)
# Columns of an edit rule.
END: tl.constexpr = tl.constexpr(0)
KIND: tl.constexpr = tl.constexpr(1)
PIVOT: tl.constexpr = tl.constexpr(2)
LOW: tl.constexpr = tl.constexpr(3)
PERIOD: tl.constexpr = tl.constexpr(4)
GAIN_PER_UNIT: tl.constexpr = tl.constexpr(5)
# Kinds of rules.
DISCARD: tl.constexpr = tl.constexpr(0)
SCALE_OR_KEEP: tl.constexpr = tl.constexpr(1)
WAVE: tl.constexpr = tl.constexpr(3)
HOLD: tl.constexpr = tl.constexpr(4)


@triton.jit
def rule_at(rule, clock):
    """The rule at a clock; the last one ends at infinity."""
    while tl.load(rule + END) <= clock:
        rule += RULE_WIDTH
    return rule


@triton.jit
def edited(rule, clock, value, found, gain, shift, until):
    """gain, shift, until after a write of `found` at a clock where the schedule has `value`."""
    kind, pivot = tl.load(rule + KIND), tl.load(rule + PIVOT)
    above, height = found - pivot, value - pivot
    end = clock * 0.0 + tl.load(rule + END)
    scaled, flat = above / tl.where(height == 0.0, 1.0, height), height == 0.0
    if kind == WAVE:
        period = tl.load(rule + PERIOD)
        passed = fmod(clock - tl.load(rule + LOW), period)
        end = tl.minimum(clock - passed + period, end)
        scaled = tl.where(passed == 0.0, 1.0 + above * tl.load(rule + GAIN_PER_UNIT), scaled)
        flat = flat & (passed != 0.0)
    if kind == HOLD:
        scaled, flat = above * 0.0, height != height
    if kind != DISCARD:
        over = tl.where(until <= clock, kind, DISCARD) == SCALE_OR_KEEP  # an edit that is over scales nothing
        gain = tl.where(flat, tl.where(over, 1.0, gain), scaled)
        held = tl.where(kind == HOLD, above, 0.0)
        shift = tl.where(flat, tl.where(kind == SCALE_OR_KEEP, above, shift), held)
        until = tl.where(tl.where(flat, kind, SCALE_OR_KEEP) == SCALE_OR_KEEP, end, until)
    return gain, shift, until
