# SPDX-License-Identifier: Apache-2.0
"""Flags that kernels set and the host reads without waiting: int32 in memory of the host that a GPU can write."""

from __future__ import annotations

import torch
from torch import Tensor

from fusedsched.runtime.clocks import unwatched

_PAGE = 1024
_pages: list[Tensor] = []  # never freed; the last one has room
_used = _PAGE


def new_flags(n: int, device: torch.device) -> Tensor:
    """`n` flags for kernels on a device, all 0.

    Memory for a GPU is never handed out twice: a kernel that is still under way when its plan is dropped may set a flag
    afterwards, and torch's allocator does not know that it writes there.

    >>> new_flags(2, torch.device("cpu"))
    tensor([0, 0], dtype=torch.int32)
    """
    global _used
    with unwatched():
        if device.type != "cuda":
            return torch.zeros(n, dtype=torch.int32, device="cpu")
        if _used + n > _PAGE:
            _pages.append(torch.zeros(max(_PAGE, n), dtype=torch.int32, device="cpu", pin_memory=True))
            _used = 0
        _used += n
        return _pages[-1][_used - n : _used]
