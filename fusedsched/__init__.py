# SPDX-License-Identifier: Apache-2.0
"""Optimizers and learning rate schedules for PyTorch, fused into one pass over memory.

Drop-in: `fusedsched.AdamW` for `torch.optim.AdamW`, `fusedsched.lr_scheduler` for `torch.optim.lr_scheduler`.
Native: a schedule of `fusedsched.schedules` in the place of a number (`lr=schedules.warmup_cosine(...)`).

Importing this package does not import torch: that happens when a name that needs it is first used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fusedsched.optim import OPTIMIZERS

if TYPE_CHECKING:
    from fusedsched import lr_scheduler, optim, reference, schedules
    from fusedsched.monitor import Monitor
    from fusedsched.optim import *  # noqa: F403
    from fusedsched.range_test import lr_range_test

# A source tree has the Triton kernels next to this folder; an installed package contains them (see pyproject.toml).
_INSIDE, _BESIDE = __path__[0], os.path.dirname(__path__[0])  # noqa: F405
if not os.path.isdir(f"{_INSIDE}/triton_kernels") and os.path.isdir(f"{_BESIDE}/triton_kernels"):
    __path__.append(_BESIDE)  # noqa: F405

__version__ = "0.1.0"
__all__ = [*OPTIMIZERS, "Monitor", "lr_range_test", "lr_scheduler", "optim", "reference", "schedules"]

_MODULES = ("lr_scheduler", "optim", "reference", "schedules")
# name -> the module that it comes from
_NAMES = {**dict.fromkeys(OPTIMIZERS, "optim"), "lr_range_test": "range_test", "Monitor": "monitor"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _NAMES:
        value = globals()[name] = getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
