# SPDX-License-Identifier: Apache-2.0
"""The backends of this machine, their devices, and how to build an optimizer on one."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from fusedsched import optim
from fusedsched.runtime.backends import backends, for_device

Make = Callable[..., torch.optim.Optimizer]


def present() -> list[str]:
    """The backends of this machine.

    >>> "reference" in present()
    True
    """
    return [name for name, missing in backends().items() if missing is None]


def device_of(backend: str) -> torch.device:
    """The device of a backend's parameters. "auto", emulated and interpreted kernels use the CPU."""
    host = torch.device("cpu")
    on_host = backend in ("auto", "reference") or for_device(backend, host) is not None
    return host if on_host else torch.device("cuda")


def slow(backend: str) -> bool:
    """Whether an interpreter runs the kernels, at 50 ms per step."""
    return backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1"


def maker(backend: str) -> Make:
    """`make("AdamW", params, **options)`: an optimizer on a backend."""
    return partial(build, backend)


def build(backend: str, name: str, params: Any, **options: Any) -> torch.optim.Optimizer:
    return getattr(optim, name)(params, **{"backend": backend, **options})
