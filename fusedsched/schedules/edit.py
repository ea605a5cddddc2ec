# SPDX-License-Identifier: Apache-2.0
"""What a write to a scheduled number does to the steps after it.

A schedule says what a rate is without edits. A user who writes another value, another scheduler of the same optimizer,
a loaded rate and a changed setting all have the same effect: from then on the distance of the rate from a pivot is
scaled. An `Edit` holds the scale, an `EditRule` says what the scheduler's class makes of a write. Twins:
`csrc/core/edit.h` and `triton_kernels/edit.py`. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple


class EditKind(IntEnum):
    """What a class makes of a write; the numbers are those of `csrc/core/edit.h`."""

    DISCARD = 0  # the next step overwrites it
    SCALE_OR_KEEP = 1  # it scales the distance from the pivot; where the schedule is at the pivot, it is added
    SCALE_OR_DROP = 2  # as SCALE_OR_KEEP, but where the schedule is at the pivot, it is dropped
    WAVE = 3  # it scales the wave until the next low point; at a low point it is added to the height of the new wave
    HOLD = 4  # it stays, to the bit


class EditRule(NamedTuple):
    """How edits are continued at clocks below `end`.

    `low`, `period`: of a WAVE, one of its low points and the distance between two. `gain_per_unit`: how much a wave
    grows for each unit that was added at its low point.
    """

    kind: EditKind
    pivot: float = 0.0
    end: float = math.inf
    low: float = 0.0
    period: float = 0.0
    gain_per_unit: float = 0.0


DISCARD = (EditRule(EditKind.DISCARD),)
"""The rules of a number whose edits are over at the next step."""


class Edit(NamedTuple):
    """A rate of `pivot + gain * (value - pivot) + shift` in place of `value`, at clocks below `until`."""

    gain: float = 1.0
    shift: float = 0.0
    until: float = math.inf


NO_EDIT = Edit()


def rule_at(rules: Iterable[EditRule], clock: float) -> EditRule:
    """The rule that holds at a clock; the last one has no end.

    >>> rule_at([EditRule(EditKind.DISCARD, end=3.0), EditRule(EditKind.SCALE_OR_KEEP)], 3).kind.name
    'SCALE_OR_KEEP'
    """
    return next(rule for rule in rules if clock < rule.end)


def apply(edit: Edit, rule: EditRule, clock: float, value: float) -> float:
    """The rate at a clock where the schedule has `value`.

    >>> apply(Edit(gain=0.5), EditRule(EditKind.SCALE_OR_KEEP, pivot=1.0), 7, 3.0)
    2.0
    """
    if clock >= edit.until or (edit.gain == 1.0 and edit.shift == 0.0):
        return value
    return rule.pivot + edit.gain * (value - rule.pivot) + edit.shift


def edited(edit: Edit, rule: EditRule, clock: float, value: float, found: float) -> Edit:
    """The edit after somebody wrote `found` at a clock where the schedule has `value`. `edit`: the one before.

    >>> edited(NO_EDIT, EditRule(EditKind.SCALE_OR_KEEP), 5, 0.4, 0.1).gain
    0.25
    """
    above, height = found - rule.pivot, value - rule.pivot
    if rule.kind == EditKind.DISCARD:
        return edit
    until = end_of_edit(rule, clock)
    if rule.kind == EditKind.HOLD:
        return Edit(0.0, above, until)
    if is_low_point(rule, clock):
        return Edit(1.0 + above * rule.gain_per_unit, 0.0, until)
    if height != 0.0:
        return Edit(above / height, 0.0, until)
    gain = edit.gain if clock < edit.until else 1.0  # an edit that is over scales nothing
    return Edit(gain, above, until) if rule.kind == EditKind.SCALE_OR_KEEP else edit


def is_low_point(rule: EditRule, clock: float) -> bool:
    """Whether a wave begins at this clock."""
    return rule.kind == EditKind.WAVE and _passed(rule, clock) == 0.0


def end_of_edit(rule: EditRule, clock: float) -> float:
    """The clock at which an edit that is made now is over."""
    if rule.kind != EditKind.WAVE:
        return rule.end
    return min(rule.end, clock - _passed(rule, clock) + rule.period)


def _passed(rule: EditRule, clock: float) -> float:
    """Steps since the last low point of a wave. Its numbers are whole: the remainder is exact."""
    since = clock - rule.low
    return since - math.floor(since / rule.period) * rule.period
