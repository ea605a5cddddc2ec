# SPDX-License-Identifier: Apache-2.0
"""How long things take on a GPU, by its own clock, and how long the host is busy with them.

Device time: a CUDA graph of several steps is replayed between two events. The GPU is kept busy before the first event,
so that the host has handed over everything before the clock starts; otherwise the time of handing over is measured.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from time import perf_counter

import torch

from .measure import Contestant

PLACE = "cuda"  # torch's word for the GPU; tests without one put another there
STEPS_IN_GRAPH = 10
COVER_CYCLES = 10_000_000  # about five milliseconds: longer than the host takes to launch a graph
FLUSHED_BYTES = 2**28  # written between replays, several times the L2 cache of any GPU there is


def capture(step: Callable[[], object], count: int) -> torch.cuda.CUDAGraph:
    """A graph of so many steps. Raises what `step` or the capture raises."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as CUDA's rules want it: everything has run once on a stream of this kind
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            step()
    torch.cuda.synchronize()
    return graph


def between_events(
    name: str, work: Callable[[], object], count: int = 1, flush: torch.Tensor | None = None
) -> Contestant:
    """Seconds that one of the `count` parts of `work` takes on the GPU. `flush`: written before, to empty the L2."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def run(calls: int) -> float:
        milliseconds = 0.0
        for _ in range(calls):
            torch.cuda._sleep(COVER_CYCLES)
            if flush is not None:
                flush.add_(1)
            begin.record()
            work()
            end.record()
            end.synchronize()
            milliseconds += begin.elapsed_time(end)
        return 1e-3 * milliseconds / (calls * count)

    return Contestant(name, run)


def eager(name: str, step: Callable[[], object]) -> Contestant:
    """Wall time of a step in a plain loop: the host's or the GPU's, whichever is longer."""

    def run(calls: int) -> float:
        torch.cuda.synchronize()
        begin = perf_counter()
        for _ in range(calls):
            step()
        torch.cuda.synchronize()
        return (perf_counter() - begin) / calls

    return Contestant(name, run)


def on_host(name: str, step: Callable[[], object]) -> Contestant:
    """How long the host is busy with a step while the GPU has nothing else to do, so that no queue is full."""

    def run(calls: int) -> float:
        seconds = 0.0
        for _ in range(calls):
            torch.cuda.synchronize()
            begin = perf_counter()
            step()
            seconds += perf_counter() - begin
        torch.cuda.synchronize()
        return seconds / calls

    return Contestant(name, run)


def clocks() -> str:
    """The GPU's clocks and driver as nvidia-smi tells them. They are looked at, never set."""
    query = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,driver_version", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "clocks unknown"
    return clocks_text(done.stdout) if done.returncode == 0 else "clocks unknown"


def clocks_text(line: str) -> str:
    """One line of nvidia-smi.

    >>> clocks_text("1980 MHz, 3201 MHz, 580.159.04\\n")
    'SM 1980 MHz, memory 3201 MHz, driver 580.159.04'
    """
    fields = [field.strip() for field in line.strip().split(",")]
    return "SM {}, memory {}, driver {}".format(*fields) if len(fields) == 3 else "clocks unknown"
