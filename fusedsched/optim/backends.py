# SPDX-License-Identifier: Apache-2.0
"""Which backends this machine has, and which one an optimizer gets."""

from __future__ import annotations

from fusedsched import _native

NAMES = ("auto", "cpu", "cuda", "triton", "reference")


def backends() -> dict[str, str | None]:
    """The backends by name, each with the reason why it is not here; None where it is.

    >>> backends()["reference"] is None
    True
    """
    return {
        "cpu": _native.reason(),
        "cuda": "this version has no CUDA kernels yet",
        "triton": "this version has no Triton kernels yet",
        "reference": None,
    }


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
