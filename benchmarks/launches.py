# SPDX-License-Identifier: Apache-2.0
"""Launches, waits and kernel times of a step, from a trace of torch.profiler."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

# Calls of the CUDA runtime or driver in which the host waits for the GPU. A copy that is not asynchronous waits too.
WAITS = ("StreamSynchronize", "DeviceSynchronize", "EventSynchronize", "CtxSynchronize")
WAITING_COPIES = ("cudaMemcpy", "cudaMemset2D", "cuMemcpyDtoH", "cuMemcpyHtoD")
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
ON_HOST = ("cuda_runtime", "cuda_driver")


def counts(events: Iterable[dict[str, Any]], steps: int) -> dict[str, float]:
    """Per step: `launches` (kernels), `copies` (copies and fills), `syncs` (waits of the host), `kernel_seconds`.

    `events`: "traceEvents" of a Chrome trace, in which durations are microseconds.

    >>> kernel = {"ph": "X", "cat": "kernel", "name": "update", "dur": 7.0}
    >>> wait = {"ph": "X", "cat": "cuda_runtime", "name": "cudaStreamSynchronize", "dur": 1.0}
    >>> counts([kernel, kernel, wait], steps=2)
    {'launches': 1.0, 'copies': 0.0, 'syncs': 0.5, 'kernel_seconds': 7e-06}
    """
    whole = [event for event in events if event.get("ph") == "X"]
    device = [event for event in whole if event.get("cat") in ON_DEVICE]
    kernels = [event for event in device if event["cat"] == "kernel"]
    host = [event["name"] for event in whole if event.get("cat") in ON_HOST]
    waits = [name for name in host if name.endswith(WAITS) or name in WAITING_COPIES]
    return {
        "launches": len(kernels) / steps,
        "copies": (len(device) - len(kernels)) / steps,
        "syncs": len(waits) / steps,
        "kernel_seconds": 1e-6 * sum(float(event["dur"]) for event in device) / steps,
    }


def profiled(step: Callable[[], object], steps: int = 5) -> dict[str, float]:
    """`counts` of a few steps. The wait at the end is not in them."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    for count in (1, steps):  # the first recording of a process may miss its first kernels
        with torch.profiler.profile(activities=activities) as recorded:
            for _ in range(count):
                step()
            with torch.profiler.record_function("end of the steps"):
                pass
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    return counts(before_the_end(events), steps)


def before_the_end(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the host's calls after the mark that `profiled` sets.

    >>> mark = {"ph": "X", "cat": "user_annotation", "name": "end of the steps", "ts": 5.0, "dur": 1.0}
    >>> early, late = ({"ph": "X", "cat": "cuda_runtime", "name": "cudaDeviceSynchronize", "ts": t} for t in (4.0, 7.0))
    >>> before_the_end([early, mark, late]) == [early, mark]
    True
    """
    marks = [event["ts"] for event in events if event.get("name") == "end of the steps" and event.get("ph") == "X"]
    if not marks:
        return events
    end = min(marks)
    return [event for event in events if event.get("cat") not in ON_HOST or event.get("ts", 0.0) <= end]
