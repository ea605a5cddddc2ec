# SPDX-License-Identifier: Apache-2.0
"""Compares the backends with each other, on tensors large enough for every block, vector and thread."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial

import torch
from torch import Tensor

from fusedsched.verify import machine
from fusedsched.verify.bounds import TORCH_ERRORS, Verdict, close, flat, ulp, worst_of
from fusedsched.verify.check import QUICK, Check, Level
from fusedsched.verify.edges import give, parameters
from fusedsched.verify.table import DTYPES, OPTIMIZERS
from fusedsched.verify.updates import one_thread, torch_twin, wide_twin

_SHAPES = ((100_003,), (4095,), (4097,), (33, 65), (3,), (1,))
_ROWS = ("AdamW", "Adam-amsgrad", "SGD-nesterov")
_UPDATES = 4


def _trained(make: machine.Make, row: str, dtype: str, device: torch.device | str = "cpu") -> list[Tensor]:
    params = parameters(_SHAPES, DTYPES[dtype], device)
    optimizer = make(OPTIMIZERS[row].optimizer, params, **OPTIMIZERS[row].options)
    for update in range(_UPDATES):
        give(params, update)
        optimizer.step()
    return [flat(p) for p in params]


@lru_cache(maxsize=4)
@one_thread()  # as in updates: on a busy machine, a second thread mostly waits
def _trained_on(backend: str, row: str, dtype: str) -> list[Tensor]:
    return _trained(machine.maker(backend), row, dtype, machine.device_of(backend))


@lru_cache(maxsize=4)
@one_thread()
def _allowed(row: str, dtype: str) -> list[float]:
    """The allowed error of each tensor. Two results within it differ by at most twice as much."""
    truth, torchs = _trained(wide_twin, row, dtype), _trained(torch_twin, row, dtype)
    worst = max(float((a - b).abs().max()) for a, b in zip(truth, torchs, strict=True))
    return [TORCH_ERRORS * worst + float(ulp(a, DTYPES[dtype]).max()) for a in truth]


def compare(backend: str, other: str, row: str, dtype: str) -> Verdict:
    ours = _trained(machine.maker(backend), row, dtype, machine.device_of(backend))
    theirs = _trained_on(other, row, dtype)
    names = [f"parameter {i} of shape {shape}, {backend} and {other}" for i, shape in enumerate(_SHAPES)]
    if dtype == "float64":  # there is no wider type to measure torch's error with
        return worst_of(close(a, b, _UPDATES, name) for a, b, name in zip(ours, theirs, names, strict=True))
    verdicts = []
    for a, b, allowed, name in zip(ours, theirs, _allowed(row, dtype), names, strict=True):
        error = float((a - b).abs().nan_to_num(nan=float("inf")).max())
        verdicts.append(Verdict(name, error, 2 * allowed))
    return worst_of(verdicts)


def checks(level: Level) -> Iterator[Check]:
    first, *others = [*machine.present()][::-1]  # the reference, which is always there
    for row in _ROWS:
        for dtype in ("float32", "bfloat16") if level is QUICK else tuple(DTYPES):
            for backend in others:
                run = partial(compare, backend, first, row, dtype)
                yield Check(f"agree/{row}/{dtype}/{backend}", "agreement", row, backend, run, backend)
