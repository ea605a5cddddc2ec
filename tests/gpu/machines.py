# SPDX-License-Identifier: Apache-2.0
"""Where the tests of this folder run: on a GPU, or, as a dry run of the tests themselves, on the emulation in tests/.

Nothing here imports kernels of Triton, which would be interpreted in a process that asked for the interpreter.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.autograd import DeviceType

from fusedsched.runtime.backends import backends


@contextmanager
def errors_at_waits() -> Iterator[None]:
    """In the block, torch raises at each of its calls that wait for the GPU.

    torch warns that the mode is a prototype, and delivers that after it has set the mode; where warnings are errors, it
    would stay set for all later tests.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("default")


class Gpu:
    """The present GPU."""

    device = torch.device("cuda")
    real = True

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def record(self, call: Callable[[], object]) -> Callable[[], None]:
        """Captures `call` in a CUDA graph; returns the function that replays it."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph.replay

    def launches(self, call: Callable[[], object]) -> list[str]:
        """The names of the kernels that `call` launches."""
        found: list[str] = []
        for _ in range(2):  # the first recording of a process may miss its first kernels
            torch.cuda.synchronize()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch 2.11 warns in each first profile
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                    call()
                    torch.cuda.synchronize()
                events = [e for e in profile.events() if e.device_type == DeviceType.CUDA]
            # "Optimizer." marks torch's hook on the GPU's line.
            found = [e.name for e in events if not e.name.startswith(("Optimizer.", "Memcpy", "Memset"))]
        return found

    never_waits = staticmethod(errors_at_waits)


class Emulated:
    """The CUDA kernels on the host, behind the same plan. It cannot run torch's kernels inside a graph."""

    device = torch.device("cpu")
    real = False

    def __init__(self):
        from emulation import build
        from emulation.driver import Emulation

        self.emulation = Emulation(build())

    def synchronize(self) -> None:
        pass

    def record(self, call: Callable[[], object]) -> Callable[[], None]:
        graph = self.emulation.record(call)
        return functools.partial(self.emulation.replay, graph)

    def launches(self, call: Callable[[], object]) -> list[str]:
        before = self.emulation.launches()
        call()
        return ["emulated"] * (self.emulation.launches() - before)

    @contextmanager
    def never_waits(self) -> Iterator[None]:
        yield


Machine = Gpu | Emulated


@functools.cache
def machine() -> Machine | None:
    """The GPU; without one the emulation; None where the extension is missing too."""
    if torch.cuda.is_available():
        return Gpu()
    return Emulated() if backends()["cuda"] is None else None


def names() -> list[str]:
    """The backends to test: those that have a kernel for this machine."""
    found = machine()
    if found is None:
        return []
    return [name for name in ("cuda", "triton") if backends()[name] is None] if found.real else ["cuda"]


def refuse_interpreted_kernels() -> None:
    """Fails where this process would hand device addresses to Triton's interpreter."""
    step = sys.modules.get("fusedsched.triton_kernels.step")
    if torch.cuda.is_available() and step is not None and step.INTERPRETED.value:
        pytest.exit("Triton's kernels were imported for the interpreter; run tests/gpu alone, without TRITON_INTERPRET")
