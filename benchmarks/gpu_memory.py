# SPDX-License-Identifier: Apache-2.0
"""What the memory of a GPU gives: a copy, and a loop that reads four arrays and writes three, without arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import gpu_clock

COPY, TRIAD = "device-to-device copy", "4 reads + 3 writes"
MOST = 2**30  # bytes of one array
BLOCK = 4096  # elements of a Triton program


@dataclass(frozen=True)
class Ceiling:
    """`moved`: bytes read and written by one call of `work`."""

    work: Callable[[], object]
    moved: int

    def four_times(self) -> None:
        """So long that recording the events around it is nothing."""
        for _ in range(4):
            self.work()


def array_bytes(free: int) -> int:
    """Bytes of one array: far more than any cache, little of what is free, a power of two.

    >>> array_bytes(140 * 2**30) == MOST, array_bytes(8 * 2**30) == 2**27
    (True, True)
    """
    size = MOST
    while size > 2**20 and size * 64 > free:
        size //= 2
    return size


def copying(size: int) -> Ceiling:
    source = torch.ones(size // 4, device=gpu_clock.PLACE)
    target = torch.zeros_like(source)
    return Ceiling(lambda: target.copy_(source), 2 * source.nbytes)


def triad(size: int) -> Ceiling:
    """Raises ImportError without Triton."""
    from .triad import walk

    arrays = [torch.full((size // 4,), float(i + 1), device=gpu_clock.PLACE) for i in range(4)]
    return Ceiling(lambda: walk(*arrays, BLOCK), 7 * arrays[0].nbytes)
