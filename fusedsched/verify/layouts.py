# SPDX-License-Identifier: Apache-2.0
"""Memory layouts of a parameter and its gradient: every kind that PyTorch allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

REAL_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
COMPLEX_DTYPES = (torch.complex64, torch.complex128)
DTYPES = (*REAL_DTYPES, *COMPLEX_DTYPES)

SENTINEL = 7.0  # fills the gaps, which must not be written


class Layout(NamedTuple):
    """`param(x)`, `grad(x)` return tensors equal to x, in the layout. `shape`: of x. `of`: the types that have it."""

    shape: tuple[int, ...]
    param: Callable[[Tensor], Tensor]
    grad: Callable[[Tensor], Tensor]
    of: tuple[torch.dtype, ...] = DTYPES


def _dense(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _reversed_strides(x: Tensor) -> Tensor:
    order = tuple(reversed(range(x.dim())))
    return x.permute(order).clone(memory_format=torch.contiguous_format).permute(order)


def _channels_last(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.channels_last)


def _with_gaps(x: Tensor) -> Tensor:
    storage = torch.full((*x.shape[:-1], 3 * x.shape[-1]), SENTINEL, dtype=x.dtype, device=x.device)
    view = storage[..., 1::3]
    return view.copy_(x)


def _shifted(x: Tensor) -> Tensor:
    # One element past an aligned address.
    storage = torch.full((x.numel() + 1,), SENTINEL, dtype=x.dtype, device=x.device)
    return storage[1:].view(x.shape).copy_(x)


def _expanded(x: Tensor) -> Tensor:
    # Equal to x only if all rows of x are equal; checks pass their gradients through this function.
    return x[:1].clone().expand(x.shape)


def _conjugate_view(x: Tensor) -> Tensor:
    return x.conj().resolve_conj().clone().conj()


def _negative_view(x: Tensor) -> Tensor:
    # The imaginary part of a lazy conjugate is a view with the negative bit.
    pair = torch.complex(torch.zeros_like(x), -x)
    return pair.conj().imag


LAYOUTS: dict[str, Layout] = {
    "dense": Layout((6, 35), _dense, _dense),
    "transposed gradient": Layout((6, 35), _dense, _reversed_strides),
    "transposed parameter": Layout((6, 35), _reversed_strides, _dense),
    "both transposed": Layout((6, 35), _reversed_strides, _reversed_strides),
    "three dimensions reversed": Layout((3, 5, 7), _reversed_strides, _dense),
    "channels-last parameter": Layout((2, 3, 5, 4), _channels_last, _dense),
    "channels-last gradient": Layout((2, 3, 5, 4), _dense, _channels_last),
    "both channels-last": Layout((2, 3, 5, 4), _channels_last, _channels_last),
    "parameter with gaps": Layout((5, 9), _with_gaps, _dense),
    "gradient with gaps": Layout((5, 9), _dense, _with_gaps),
    "both with gaps": Layout((5, 9), _with_gaps, _with_gaps),
    "shifted parameter": Layout((67,), _shifted, _dense),
    "shifted gradient": Layout((67,), _dense, _shifted),
    "expanded gradient": Layout((6, 35), _dense, _expanded),
    "gradient of ones expanded from a scalar": Layout(
        (5, 9), _dense, lambda x: torch.ones((), dtype=x.dtype, device=x.device).expand(5, 9)
    ),
    "negative view": Layout((5, 9), _dense, _negative_view, of=(torch.float32, torch.float64)),
    "scalar": Layout((), _dense, _dense),
    "one element": Layout((1,), _dense, _dense),
    "ones among the sizes": Layout((1, 9, 1), _reversed_strides, _dense),
    "empty": Layout((0,), _dense, _dense),
    "empty in two dimensions": Layout((3, 0), _dense, _dense),
    "conjugated gradient": Layout((5, 9), _dense, _conjugate_view, of=COMPLEX_DTYPES),
    "conjugated transposed gradient": Layout(
        (5, 9), _dense, lambda x: _conjugate_view(_reversed_strides(x)), of=COMPLEX_DTYPES
    ),
    "complex with gaps": Layout((5, 9), _with_gaps, _with_gaps, of=COMPLEX_DTYPES),
}
