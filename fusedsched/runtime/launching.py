# SPDX-License-Identifier: Apache-2.0
"""The context in which Triton kernels are launched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import torch


@cache
def refuse_interpreted_kernels() -> None:
    """Raises RuntimeError where Triton interprets the kernels: it would read addresses of a GPU as its own."""
    import triton

    from fusedsched.triton_kernels.schedule import evaluate_kernel

    if not isinstance(evaluate_kernel, triton.JITFunction):
        raise RuntimeError(
            "The Triton kernels of this process are interpreted, since TRITON_INTERPRET=1 was set when they were first "
            "used, and cannot update tensors on a GPU. Start Python without TRITON_INTERPRET."
        )


@contextmanager
def launching(device: torch.device) -> Iterator[None]:
    """Makes `device` the current one. Under the interpreter it silences NumPy's warnings about infinities and NaNs,
    which masked lanes produce."""
    with ExitStack() as stack:
        if device.type == "cuda":
            refuse_interpreted_kernels()
            stack.enter_context(torch.cuda.device(device))
        else:
            import numpy

            stack.enter_context(numpy.errstate(all="ignore"))
        yield
