# SPDX-License-Identifier: Apache-2.0
"""The optimizers. Each is a subclass of torch's class of the same name where torch has one.

Importing this package imports nothing else; torch comes in when a name is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusedsched.optim.adam import Adam as Adam, AdamW as AdamW
    from fusedsched.optim.lion import Lion as Lion
    from fusedsched.optim.sgd import SGD as SGD
    from fusedsched.optim.telemetry import Telemetry as Telemetry
    from fusedsched.runtime.backends import backends as backends

__all__ = ["SGD", "Adam", "AdamW", "Lion", "Telemetry", "backends"]

OPTIMIZERS = {"Adam": "adam", "AdamW": "adam", "Lion": "lion", "SGD": "sgd"}
"""The optimizers, and the module of this package that has each."""

_MODULES = {
    **{name: f"{__name__}.{module}" for name, module in OPTIMIZERS.items()},
    "Telemetry": f"{__name__}.telemetry",
    "backends": "fusedsched.runtime.backends",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
