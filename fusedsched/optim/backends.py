# SPDX-License-Identifier: Apache-2.0
"""Which backends this machine has, and which one an optimizer gets."""

from __future__ import annotations

import torch

from fusedsched import _native

NAMES = ("auto", "cpu", "cuda", "triton", "reference")


def backends() -> dict[str, str | None]:
    """The backends by name, each with the reason why it is not here; None where it is.

    >>> backends()["reference"] is None
    True
    """
    return {
        "cpu": _native.reason(),
        "cuda": _cuda_reason(),
        "triton": _triton_reason(),
        "reference": None,
    }


def _cuda_reason() -> str | None:
    module = _native.module()
    if module is None:
        return _native.reason()
    runtime = module.cuda_runtime()
    if runtime is None:
        return "fusedsched was built without CUDA: nvcc was not found then. Install it and build again"
    if runtime == "cuda" and not torch.cuda.is_available():
        return "torch finds no GPU"
    return None


def _triton_reason() -> str | None:
    return "this version has no Triton kernels yet"


def for_device(chosen: str, device: torch.device) -> str | None:
    """The backend that updates parameters on a device; None: the reference.

    >>> for_device("reference", torch.device("cpu")) is None
    True
    """
    if chosen == "auto":
        names = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}.get(device.type, ())
        return next((name for name in names if backends()[name] is None), None)
    emulated = chosen == "cuda" and _native.module().cuda_runtime() != "cuda"
    return chosen if device.type == ("cpu" if chosen == "cpu" or emulated else "cuda") else None


def check(name: str) -> str:
    """`name`, if it is "auto" or a backend of this machine.

    Raises ValueError for an unknown name and RuntimeError for one that is missing, with the reason.

    >>> check("auto")
    'auto'
    """
    if name not in NAMES:
        raise ValueError(f"Invalid backend: {name!r}. Choose one of {', '.join(map(repr, NAMES))}.")
    reason = None if name == "auto" else backends()[name]
    if reason is not None:
        present = ", ".join(repr(n) for n, why in backends().items() if why is None)
        raise RuntimeError(f'backend="{name}" is not available: {reason}. Available here: {present}.')
    return name
