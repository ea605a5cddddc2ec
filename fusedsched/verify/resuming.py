# SPDX-License-Identifier: Apache-2.0
"""Stop, save, load into new objects, go on: to the bit as if nothing had happened. And torch's class goes on from our
state, ours from torch's."""

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
from fusedsched.verify.snapshots import Seen, everything, same
from fusedsched.verify.table import DTYPES, OPTIMIZERS, Case
from fusedsched.verify.updates import torch_twin, with_schedules

_SHAPES = ((5, 3), (70, 80), (17,), ())
_BEFORE, _AFTER = 4, 4
_ROWS = ("AdamW", "Adam-amsgrad", "SGD-momentum")


def through_a_file(state: Any) -> Any:
    """What is left of a state after saving and loading it the careful way."""
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


def _seen(optimizer: Any, params: list[Tensor]) -> Seen:
    """Everything that a checkpoint keeps. That of plain SGD is torch's, which has no place for a clock of schedules."""
    seen = everything(optimizer, params)
    if isinstance(optimizer, torch.optim.SGD) and not any(group.get("schedules") for group in optimizer.param_groups):
        del seen["clock of updates"]
    return seen


def _one_cycle(optimizer: Any) -> Any:
    return lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=12)


def compare(backend: str, case: Case) -> Verdict:
    """A run that was stopped against one that was not, beside an lr_scheduler where no schedule stands."""
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
        rival.load_state_dict(position)  # first, for the order must not matter
    other.load_state_dict(state)
    loaded = same(_seen(other, others), _seen(optimizer, params), " right after loading")
    _train(optimizer, params, range(_BEFORE, _BEFORE + _AFTER), scheduler)
    _train(other, others, range(_BEFORE, _BEFORE + _AFTER), rival)
    went_on = same(_seen(other, others), _seen(optimizer, params), " after going on")
    return worst_of([loaded, went_on])


def compare_with_torch(backend: str, row: str) -> Verdict:
    """Ours, then torch; torch, then ours; against torch throughout."""
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
    for who, seen in zip(("ours, then torch", "torch, then ours"), finals[1:], strict=True):
        for what, right in finals[0].items():
            verdicts.append(close(seen[what], right, _BEFORE + _AFTER, f"{what}, {who}"))
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
