# SPDX-License-Identifier: Apache-2.0
"""Optimizers and learning rate schedules for PyTorch, fused into one pass over memory.

Drop-in: `fusedsched.AdamW` for `torch.optim.AdamW`, `fusedsched.lr_scheduler` for `torch.optim.lr_scheduler`.
Native: a schedule of `fusedsched.schedules` in the place of a number (`lr=schedules.warmup_cosine(...)`).

Importing this package imports nothing else; torch comes in when a name that needs it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusedsched import lr_scheduler, optim, reference, schedules
    from fusedsched.optim import SGD, Adam, AdamW

__version__ = "0.1.0"
__all__ = ["SGD", "Adam", "AdamW", "lr_scheduler", "optim", "reference", "schedules"]

_MODULES = ("lr_scheduler", "optim", "reference", "schedules")
_OPTIMIZERS = ("AdamW", "Adam", "SGD")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _OPTIMIZERS:
        value = globals()[name] = getattr(import_module(f"{__name__}.optim"), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
