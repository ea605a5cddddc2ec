# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: a run that is saved and loaded into new objects continues bitwise as if it had never stopped. torch's
class continues from our state, and ours from torch's."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fusedsched import lr_scheduler
from fusedsched.verify import machine
from fusedsched.verify.bounds import Verdict, close, worst_of
from fusedsched.verify.check import QUICK, Check, Level
from fusedsched.verify.edges import give, parameters
from fusedsched.verify.snapshots import Snapshot, everything, same
from fusedsched.verify.table import DTYPES, OPTIMIZERS, Case
from fusedsched.verify.updates import torch_twin, with_schedules

_SHAPES = ((5, 3), (70, 80), (17,), ())
_BEFORE, _AFTER = 4, 4
_ROWS = ("AdamW", "Adam-amsgrad", "SGD-momentum")


def through_a_file(state: Any) -> Any:
    """A state after `torch.save` and `torch.load(weights_only=True)`."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _train(optimizer: Any, params: list[Tensor], updates: range, scheduler: Any = None) -> None:
    for update in updates:
        give(params, update)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def _snapshot(optimizer: Any, params: list[Tensor]) -> Snapshot:
    """Everything that a checkpoint stores. A checkpoint of plain SGD is torch's and has no clock of schedules."""
    found = everything(optimizer, params)
    if isinstance(optimizer, torch.optim.SGD) and not any(group.get("schedules") for group in optimizer.param_groups):
        del found["clock of updates"]
    return found


def _one_cycle(optimizer: Any) -> Any:
    return lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=12)


def compare(backend: str, case: Case) -> Verdict:
    """Compares a resumed run with an uninterrupted one. Rows without native schedules get a OneCycleLR."""
    row, slots = case.configuration()
    device, dropped_in = machine.device_of(backend), case.schedule == "fixed"
    options = with_schedules(row, slots)
    params = parameters(_SHAPES, DTYPES[case.dtype], device)
    optimizer = machine.build(backend, row.optimizer, params, **options)
    scheduler = _one_cycle(optimizer) if dropped_in else None
    _train(optimizer, params, range(_BEFORE), scheduler)
    values, state = through_a_file([p.detach() for p in params]), through_a_file(optimizer.state_dict())
    position = through_a_file(scheduler.state_dict()) if scheduler else None

    others = [value.requires_grad_() for value in values]
    other = machine.build(backend, row.optimizer, others, **options)
    rival = _one_cycle(other) if dropped_in else None
    if rival is not None:
        rival.load_state_dict(position)  # before the optimizer: the order must not matter
    other.load_state_dict(state)
    loaded = same(_snapshot(other, others), _snapshot(optimizer, params), " right after loading")
    _train(optimizer, params, range(_BEFORE, _BEFORE + _AFTER), scheduler)
    _train(other, others, range(_BEFORE, _BEFORE + _AFTER), rival)
    continued = same(_snapshot(other, others), _snapshot(optimizer, params), " after continuing")
    return worst_of([loaded, continued])


def compare_with_torch(backend: str, row: str) -> Verdict:
    """Compares ours-then-torch and torch-then-ours with torch throughout."""
    name, options = OPTIMIZERS[row].optimizer, OPTIMIZERS[row].options
    device, ours, torchs = machine.device_of(backend), machine.maker(backend), torch_twin
    finals, verdicts = [], []
    for first, second in ((torchs, torchs), (ours, torchs), (torchs, ours)):
        params = parameters(_SHAPES, torch.float32, device)
        optimizer = first(name, params, **options)
        _train(optimizer, params, range(_BEFORE))
        others = [p.detach().clone().requires_grad_() for p in params]
        other = second(name, others, **options)
        other.load_state_dict(through_a_file(optimizer.state_dict()))
        _train(other, others, range(_BEFORE, _BEFORE + _AFTER))
        finals.append(everything(other, others))
    for order, found in zip(("ours, then torch", "torch, then ours"), finals[1:], strict=True):
        for what, right in finals[0].items():
            verdicts.append(close(found[what], right, _BEFORE + _AFTER, f"{what}, {order}"))
    return worst_of(verdicts)


def checks(level: Level) -> Iterator[Check]:
    dtypes = ("float32", "bfloat16") if level is QUICK else tuple(DTYPES)
    for row in _ROWS:
        for backend in machine.present():
            for dtype in dtypes[:1] if machine.slow(backend) else dtypes:
                for schedule in ("fixed", "all"):
                    case = Case(row, dtype, schedule)
                    run = partial(compare, backend, case)
                    yield Check(f"resume/{case.id}/{backend}", "resume", row, backend, run, backend)
            run = partial(compare_with_torch, backend, row)
            yield Check(f"resume/{row}/torch/{backend}", "resume", f"{row} and torch", backend, run, backend)
