# SPDX-License-Identifier: Apache-2.0
"""What is written where the edit rule is HOLD stays to the bit, until the rule ends; a metric's decisions do."""

from array import array

import pytest
import torch
from interpreted import interpreter  # noqa: F401
from plateau_rule import emulated

from fusedsched.runtime.device_schedule import DeviceSchedule, Target
from fusedsched.runtime.hyperparameters import Placement
from fusedsched.schedules import constant
from fusedsched.schedules.edit import Edit, EditKind, EditRule, apply, edited

RULES = (EditRule(EditKind.HOLD, end=5.0), EditRule(EditKind.DISCARD))
WRITTEN = 0.7 / 3


def test_a_held_edit_on_the_host():
    edit = edited(Edit(gain=0.5), RULES[0], 2.0, 0.3, WRITTEN)
    assert [apply(edit, RULES[0], clock, 0.3) for clock in (2, 3, 4)] == [WRITTEN] * 3
    assert apply(edit, RULES[1], 5, 0.3) == 0.3


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_a_held_edit_on_a_device(backend):
    if backend == "cuda":
        emulated()
    number = torch.tensor(0.3, dtype=torch.float64)
    schedule = DeviceSchedule(Placement(backend, torch.device("cpu")), 1)
    schedule.write([Target(number, array("d", constant(0.3).lower().table), RULES, value=0.3)], 0)
    seen = []
    for clock in range(1, 7):
        if clock in (2, 3):
            number.fill_(WRITTEN * clock)
        schedule.advance()
        seen.append(number.item())
    assert seen == [0.3, 2 * WRITTEN, 3 * WRITTEN, 3 * WRITTEN, 0.3, 0.3]
