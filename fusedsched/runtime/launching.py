# SPDX-License-Identifier: Apache-2.0
"""The context in which Triton kernels are launched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def launching(device: torch.device) -> Iterator[None]:
    """Makes `device` the current one. Under the interpreter it silences NumPy's warnings about infinities and NaNs,
    which masked lanes produce."""
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        else:
            import numpy

            stack.enter_context(numpy.errstate(all="ignore"))
        yield
