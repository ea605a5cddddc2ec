# SPDX-License-Identifier: Apache-2.0
"""The tables that properties run over: optimizers, backends, types, geometries. A new row gets all tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import emulation
import pytest
import torch

import fusedsched
from fusedsched import _native, reference
from fusedsched.runtime.backends import backends
from fusedsched.verify.layouts import (
    COMPLEX_DTYPES as COMPLEX_DTYPES,
    DTYPES as DTYPES,
    LAYOUTS as LAYOUTS,
    REAL_DTYPES as REAL_DTYPES,
)
from fusedsched.verify.table import OPTIMIZERS as OPTIMIZERS, VISIBLE as VISIBLE
from fusedsched.verify.updates import torch_twin as torch_twin

if _native.module() is not None and backends()["cuda"] is not None:
    # No GPU here: the same kernels, run by the CPU (tests/emulation), behind the same plan.
    _native.module().emulate_cuda(str(emulation.build()))
BACKENDS = tuple(name for name, missing in backends().items() if missing is None)
DROP_INS = tuple(name for name in VISIBLE if hasattr(torch.optim, name))  # the others are no class of torch
REFERENCE_CLASSES = "reference-classes"  # fusedsched.reference, judged like a backend


def named(table: dict[str, Any]) -> list[Any]:
    """The rows of a table as parameters for pytest, with their keys as ids."""
    return [pytest.param(value, id=key) for key, value in table.items()]


def maker(backend: str) -> Callable[..., torch.optim.Optimizer]:
    if backend == REFERENCE_CLASSES:
        return lambda name, params, **options: getattr(reference, name)(params, **options)
    return partial(_build, backend)


def _build(chosen: str, name: str, params: Any, **options: Any) -> torch.optim.Optimizer:
    return getattr(fusedsched, name)(params, **{"backend": chosen, **options})
