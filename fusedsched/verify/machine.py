# SPDX-License-Identifier: Apache-2.0
"""What there is on this machine: backends, where each has its parameters, and how an optimizer on one is built."""

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
    """Where a backend has its parameters: "auto" has them here, and so have emulated and interpreted kernels."""
    host = torch.device("cpu")
    on_host = backend in ("auto", "reference") or for_device(backend, host) is not None
    return host if on_host else torch.device("cuda")


def slow(backend: str) -> bool:
    """Whether an interpreter runs the kernels: 50 ms to a step, so that less of everything has to do."""
    return backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1"


def maker(backend: str) -> Make:
    """`make("AdamW", params, **options)`: an optimizer on a backend."""
    return partial(build, backend)


def build(backend: str, name: str, params: Any, **options: Any) -> torch.optim.Optimizer:
    return getattr(optim, name)(params, **{"backend": backend, **options})
