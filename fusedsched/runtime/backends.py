# SPDX-License-Identifier: Apache-2.0
"""Which backends this machine has, and which one an optimizer gets."""

from __future__ import annotations

import os

import torch

from fusedsched import _native, triton_kernels

NAMES = ("auto", "cpu", "cuda", "triton", "reference")


def backends() -> dict[str, str | None]:
    """The backends by name, each with the reason why it is not here; None where it is.

    >>> backends()["reference"] is None
    True
    """
    return {name: why() for name, why in _REASONS.items()}


def _cuda_reason() -> str | None:
    module = _native.module()
    if module is None:
        return _native.reason()
    runtime = module.cuda_runtime()
    if runtime is None:
        why = "torch is a CPU build, nvcc was not found, or FUSEDSCHED_CUDA=0 was set"
        return f"fusedsched was built without CUDA: {why}. Build it with nvcc and FUSEDSCHED_CUDA=1"
    if runtime == "cuda" and not torch.cuda.is_available():
        return "torch finds no GPU"
    return None


# Functions, since looking for Triton imports it.
_REASONS = {
    "cpu": _native.reason,
    "cuda": _cuda_reason,
    "triton": triton_kernels.reason,
    "reference": lambda: None,
}


def for_device(chosen: str, device: torch.device) -> str | None:
    """The backend that updates parameters on a device; None: the reference.

    >>> for_device("reference", torch.device("cpu")) is None
    True
    """
    if chosen == "auto":
        names = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}.get(device.type, ())
        return next((name for name in names if _REASONS[name]() is None), None)
    emulated = {
        "cuda": lambda: _native.module().cuda_runtime() != "cuda",
        "triton": lambda: os.environ.get("TRITON_INTERPRET") == "1",
    }
    on_host = chosen == "cpu" or (chosen in emulated and emulated[chosen]())
    return chosen if device.type == ("cpu" if on_host else "cuda") else None


def check(name: str) -> str:
    """`name`, if it is "auto" or a backend of this machine.

    Raises ValueError for an unknown name and RuntimeError for one that is missing, with the reason.

    >>> check("auto")
    'auto'
    """
    if name not in NAMES:
        raise ValueError(f"Invalid backend: {name!r}. Choose one of {', '.join(map(repr, NAMES))}.")
    reason = None if name == "auto" else _REASONS[name]()
    if reason is not None:
        present = ", ".join(repr(n) for n, why in backends().items() if why is None)
        raise RuntimeError(f'backend="{name}" is not available: {reason}. Available here: {present}.')
    return name
