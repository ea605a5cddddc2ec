# SPDX-License-Identifier: Apache-2.0
"""The update rules in readable PyTorch: what every backend is judged by.

Nothing here is compiled and nothing here calls the code that it judges. `adam_update_` and `sgd_update_` change one
parameter and its state; `AdamW`, `Adam` and `SGD` are whole optimizers made of them, with torch's signatures, native
schedules, and `dtype=torch.float64` for a computation in a wider type than the parameters have. Optimizers that torch
does not have are each in a module of their own, whose name is the class's in lower case.
"""

from importlib import import_module
from typing import Any

from fusedsched.reference.optimizers import SGD as SGD, Adam as Adam, AdamW as AdamW
from fusedsched.reference.rules import adam_update_ as adam_update_, sgd_update_ as sgd_update_


def __getattr__(name: str) -> Any:
    try:
        return getattr(import_module(f"{__name__}.{name.lower()}"), name)
    except ModuleNotFoundError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


__all__ = ["SGD", "Adam", "AdamW", "adam_update_", "sgd_update_"]
