# SPDX-License-Identifier: Apache-2.0
"""Where the time of a launch goes on a GPU: lists that isolate one term of the step kernel each.

    python -m benchmarks.gpu_terms terms.json

Device microseconds per step of a graph of ten steps, and of one step after 256 MB were written ("cold"); host
microseconds of `opt.step()`. `benchmarks/gpu_model.py` has the estimates that stand beside them.
"""

from __future__ import annotations

import gc
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch

import fusedsched
from fusedsched import files, schedules as S

from . import gpu, machine

FLUSHED = 2**28  # bytes
COPIED = 2**30
ROUNDS, COLD_ROUNDS, HOST_ROUNDS = 15, 9, 100


class Term(NamedTuple):
    """A list of equal parameters, and the term that it shows."""

    what: str
    tensors: int
    size: int
    groups: int = 1
    scheduled: bool = False
    dtype: torch.dtype = torch.float32


TERMS = {
    "1 x 16": Term("launch, prologue and tail of one array", 1, 16),
    "1 x 16, scheduled": Term("one evaluation more", 1, 16, scheduled=True),
    "396 x 16": Term("the prologue of a full grid", 396, 16),
    "2000 x 16": Term("counting of many arrays", 2000, 16),
    "3300 x 16": Term("the same, with full arguments", 3300, 16),
    "465 x 16 in 28 groups, scheduled": Term("28 evaluations", 465, 16, 28, True),
    "465 x 16 in 465 groups": Term("hyperparameters of many groups", 465, 16, 465),
    "465 x 16 in 465 groups, scheduled": Term("465 evaluations", 465, 16, 465, True),
    "2000 x 1024": Term("small tensors of a whole model", 2000, 1024, scheduled=True),
    "64 x 400,000": Term("a list that fills the GPU", 64, 400_000, scheduled=True),
    "1 x 256M": Term("bandwidth, float32", 1, 2**28, scheduled=True),
    "1 x 512M, bfloat16": Term("bandwidth, bfloat16", 1, 2**29, scheduled=True, dtype=torch.bfloat16),
}


def optimizer_of(term: Term, backend: str) -> fusedsched.AdamW:
    """An AdamW that has made its first steps."""
    lr = S.warmup_cosine(1e-3, 100, 10_000_000) if term.scheduled else 1e-3
    params = [torch.zeros(term.size, device=gpu.PLACE, dtype=term.dtype).requires_grad_() for _ in range(term.tensors)]
    for p in params:
        p.grad = torch.full_like(p, 1e-3)
    groups = [{"params": params[i :: term.groups]} for i in range(term.groups)]
    optimizer = fusedsched.AdamW(groups, lr=lr, backend=backend)
    for _ in range(3):
        optimizer.step()
    return optimizer


def device_microseconds(step: Callable[[], object], count: int, rounds: int, before: Callable[[], object]) -> float:
    """The median time on the GPU of one of `count` steps in a graph. `before` runs ahead of each replay."""
    replay = gpu.capture(step, count).replay
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(rounds):
        torch.cuda._sleep(gpu.COVER_CYCLES)
        before()
        begin.record()
        replay()
        end.record()
        end.synchronize()
        times.append(1e3 * begin.elapsed_time(end) / count)
    return statistics.median(times)


def host_microseconds(step: Callable[[], object]) -> float:
    """The median time of a call while the GPU has nothing to do."""
    times = []
    for _ in range(HOST_ROUNDS):
        torch.cuda.synchronize()
        begin = perf_counter()
        step()
        times.append(1e6 * (perf_counter() - begin))
    return statistics.median(times)


def measured(term: Term, backend: str, flush: torch.Tensor) -> dict[str, float]:
    step = optimizer_of(term, backend).step
    moved = term.tensors * term.size * 7 * torch.empty((), dtype=term.dtype).element_size()
    warm = device_microseconds(step, gpu.STEPS_IN_GRAPH, ROUNDS, lambda: None)
    cold = device_microseconds(step, 1, COLD_ROUNDS, lambda: flush.add_(1))
    return {"us": warm, "cold_us": cold, "host_us": host_microseconds(step), "terabytes_per_second": moved / warm / 1e6}


def copy_bandwidth() -> float:
    """Bytes read and written per second by a copy on the device, in TB/s."""
    source = torch.ones(COPIED // 4, device=gpu.PLACE)
    target = torch.empty_like(source)
    return 2 * source.nbytes / device_microseconds(lambda: target.copy_(source), 4, ROUNDS, lambda: None) / 1e6


def main(path: str, backend: str = "cuda") -> int:
    """Measures all terms; one that fails is written with its error, and the others go on."""
    results: dict[str, Any] = {"machine": machine.facts(), "backend": backend, "copy_terabytes_per_second": None}
    results["terms"], failed = {}, 0
    results["copy_terabytes_per_second"] = copy_bandwidth()
    flush = torch.zeros(FLUSHED // 4, dtype=torch.int32, device=gpu.PLACE)
    for name, term in TERMS.items():
        try:
            row: dict[str, Any] = {"what": term.what, **measured(term, backend, flush)}
        except Exception as error:
            row, failed = {"what": term.what, "error": f"{type(error).__name__}: {error}"[:300]}, failed + 1
        results["terms"][name] = row
        print(name, row, flush=True)
        gc.collect()
        files.write_json(Path(path), results)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
