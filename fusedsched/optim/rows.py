# SPDX-License-Identifier: Apache-2.0
"""Rows of telemetry as csrc/core/telemetry.h has them."""

import torch
from torch import Tensor

from fusedsched._layouts import MAX_HYPERPARAMETERS, TELEMETRY_HEAD


def write_row(ring: Tensor, update: int, skipped: bool, groups: list[list[float]]) -> None:
    """As `next_row` and `finish_row` in csrc/core/telemetry.h. `groups`: the numbers of each."""
    row, head = ring[1 + int(ring[0, 0]) % (len(ring) - 1)], len(TELEMETRY_HEAD)
    row[:head] = torch.tensor([float(update), float(skipped), float(ring[0, 1])], dtype=torch.float64)
    for g, numbers in enumerate(groups):
        row[head + g * MAX_HYPERPARAMETERS :][: len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
    ring[0, 1] = torch.nan
    ring[0, 0] += 1.0
