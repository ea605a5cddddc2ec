# SPDX-License-Identifier: Apache-2.0
"""The tables that laws run over: optimizers, backends, types, geometries. A new row gets all tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import emulation
import pytest
import torch
from torch import Tensor

import fusedsched
from fusedsched import _native, reference
from fusedsched.optim import backends
from fusedsched.verify.table import OPTIMIZERS as OPTIMIZERS
from fusedsched.verify.updates import torch_twin as torch_twin

if _native.module() is not None and backends()["cuda"] is not None:
    # No GPU here: the same kernels, run by the CPU (tests/emulation), behind the same plan.
    _native.module().emulate_cuda(str(emulation.build()))
BACKENDS = tuple(name for name, missing in backends().items() if missing is None)
REFERENCE_CLASSES = "reference-classes"  # fusedsched.reference, judged like a backend

REAL_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
COMPLEX_DTYPES = (torch.complex64, torch.complex128)
DTYPES = (*REAL_DTYPES, *COMPLEX_DTYPES)

# Numbers that show: with the defaults a swapped line hides under any tolerance.
VISIBLE: dict[str, dict[str, Any]] = {
    "AdamW": dict(lr=0.1, weight_decay=0.5, eps=1e-2, betas=(0.6, 0.7)),
    "Adam": dict(lr=0.1, weight_decay=0.5, eps=1e-2, betas=(0.6, 0.7)),
    "SGD": dict(lr=0.1, weight_decay=0.5, momentum=0.6, nesterov=True),
}


def named(table: dict[str, Any]) -> list[Any]:
    """The rows of a table as parameters for pytest, with their keys as ids."""
    return [pytest.param(value, id=key) for key, value in table.items()]


def maker(backend: str) -> Callable[..., torch.optim.Optimizer]:
    if backend == REFERENCE_CLASSES:
        return lambda name, params, **options: getattr(reference, name)(params, **options)
    return partial(_build, backend)


def _build(chosen: str, name: str, params: Any, **options: Any) -> torch.optim.Optimizer:
    return getattr(fusedsched, name)(params, **{"backend": chosen, **options})


# Geometries: a parameter and its gradient with given values, laid out in every way that PyTorch allows.


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
    room = torch.full((*x.shape[:-1], 3 * x.shape[-1]), 7.0, dtype=x.dtype)
    view = room[..., 1::3]
    return view.copy_(x)


def _shifted(x: Tensor) -> Tensor:
    # One element past an aligned address.
    room = torch.full((x.numel() + 1,), 7.0, dtype=x.dtype)
    return room[1:].view(x.shape).copy_(x)


def _expanded(x: Tensor) -> Tensor:
    # Equal to x only if the rows of x are equal: the law draws its gradients through this function.
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
        (5, 9), _dense, lambda x: torch.ones((), dtype=x.dtype).expand(5, 9)
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
