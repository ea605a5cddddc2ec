# SPDX-License-Identifier: Apache-2.0
"""Where the state that kernels read lies in memory.

Small tensors share one storage: a step over thousands of them is bound by the number of cache lines that it reads, and
one storage is one object to check instead of thousands. A large 16-bit one on the CPU begins at the page offset of its
parameter: where the four arrays that are walked side by side lie at different offsets, a store is mistaken for one to
the address of a later load (the processor compares the lowest 12 bits first), and a step takes up to a tenth longer.
Wider types wait for memory anyway.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fusedsched.runtime.addresses import unwrap

_LINE = 64  # bytes
_PAGE = 4096
_SMALL = 16 * 1024  # bytes


def zeros_for(params: list[Tensor], counts: list[int]) -> list[list[Tensor]]:
    """For each parameter `counts[i]` tensors of zeros, with its shape, dtype and strides (dense ones if it has gaps).

    >>> p = torch.ones(2, 3).t()
    >>> [(z.shape, z.stride(), z.sum().item()) for z in zeros_for([p], [2])[0]]
    [(torch.Size([3, 2]), (1, 3), 0.0), (torch.Size([3, 2]), (1, 3), 0.0)]
    """
    lengths: dict[tuple[torch.dtype, torch.device], int] = {}
    for p, count in zip(params, counts, strict=True):
        if _bytes(p) <= _SMALL:
            lengths[p.dtype, p.device] = lengths.get((p.dtype, p.device), 0) + count * _padded(p)
    shared = {
        (dtype, device): torch.zeros(n, dtype=dtype, device=device).untyped_storage()
        for (dtype, device), n in lengths.items()
    }
    used = dict.fromkeys(shared, 0)
    placed = []
    for p, count in zip(params, counts, strict=True):
        tensors = []
        for _ in range(count):
            if _bytes(p) > _SMALL:
                tensors.append(_at_offset_of(p))
            else:
                key = p.dtype, p.device
                tensors.append(_view(shared[key], used[key], p))
                used[key] += _padded(p)
        placed.append(tensors)
    return placed


def _bytes(p: Tensor) -> int:
    return p.numel() * p.element_size()


def _padded(p: Tensor) -> int:
    """Elements up to the next cache line, so that no two threads write to one."""
    return -(-_bytes(p) // _LINE) * _LINE // p.element_size()


def _at_offset_of(p: Tensor) -> Tensor:
    """Zeros like p, in a storage of their own, at p's place within a page."""
    if p.device.type != "cpu" or p.element_size() > 2:
        return torch.zeros_like(p, memory_format=torch.preserve_format, requires_grad=False)
    size = p.element_size()
    room = torch.zeros(p.numel() + _PAGE // size, dtype=p.dtype, device="cpu")
    return _view(room.untyped_storage(), (unwrap(p) - unwrap(room)) % _PAGE // size, p)


def _view(storage: torch.UntypedStorage, offset: int, p: Tensor) -> Tensor:
    """Not a view to autograd: each has a version counter of its own."""
    strides = p.stride() if p.is_contiguous() else torch.empty_like(p, device="meta").stride()
    return torch.empty(0, dtype=p.dtype, device=p.device).set_(storage, offset, p.size(), strides)
