# SPDX-License-Identifier: Apache-2.0
"""Rows of telemetry as csrc/core/telemetry.h has them."""

import torch
from torch import Tensor

HEAD, SLOTS = 3, 8  # kRowHead, kMaxSlots


def write_row(ring: Tensor, update: int, skipped: bool, slots: list[list[float]]) -> None:
    """As `next_row` and `finish_row` in csrc/core/telemetry.h. `slots`: of each group."""
    row = ring[1 + int(ring[0, 0]) % (len(ring) - 1)]
    row[:HEAD] = torch.tensor([float(update), float(skipped), float(ring[0, 1])], dtype=torch.float64)
    for g, numbers in enumerate(slots):
        row[HEAD + g * SLOTS :][: len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
    ring[0, 1] = torch.nan
    ring[0, 0] += 1.0
