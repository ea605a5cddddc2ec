# SPDX-License-Identifier: Apache-2.0
"""Mixed precision: an update that a GradScaler skips changes nothing, the first one included; the update unscales
gradients."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from fusedsched import schedules as S
from fusedsched.verify import machine
from fusedsched.verify.bounds import Verdict, fact, worst_of
from fusedsched.verify.check import Check, Level
from fusedsched.verify.edges import give, parameters
from fusedsched.verify.snapshots import everything, same, untouched

_SHAPES = ((5, 3), (17,), ())
_LR = S.warmup_cosine(peak=0.1, warmup_steps=3, total_steps=9, final=0.01)
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "AdamW": ("AdamW", dict(lr=_LR, betas=(S.linear(0.5, 0.9, steps=5), 0.7))),
    "Adam-amsgrad": ("Adam", dict(lr=0.1, amsgrad=True, weight_decay=0.1)),
    "SGD-momentum": ("SGD", dict(lr=_LR, momentum=0.9, weight_decay=0.1)),
}
_SKIPS = (True, False, True, True, False, False)


def compare_skips(backend: str, row: str) -> Verdict:
    """Compares a run with skipped updates with a run without them. A skipped update must change nothing."""
    name, options = ROWS[row]
    device, runs, verdicts = machine.device_of(backend), [], []
    for skips in (_SKIPS, [skip for skip in _SKIPS if not skip]):
        params = parameters(_SHAPES, torch.float32, device)
        optimizer, kept = machine.build(backend, name, params, **options), 0
        for i, skip in enumerate(skips):
            give(params, kept)
            if skip:
                params[0].grad[0] = float("inf")
            optimizer.grad_scale, optimizer.found_inf = None, torch.tensor(float(skip), device=device)
            before = everything(optimizer, params)
            optimizer.step()
            if skip:
                verdicts.append(untouched(before, everything(optimizer, params), f" after the skipped step {i}"))
            kept += not skip
        runs.append(everything(optimizer, params))
        counted = optimizer.skipped_steps
        verdicts.append(fact(counted == sum(skips), f"skipped_steps: {counted}, not {sum(skips)}"))
    return worst_of([*verdicts, same(*runs, " of a run with skipped steps")])


def compare_scaler(backend: str, row: str) -> Verdict:
    """Compares steps of `torch.amp.GradScaler` with plain ones. A scale of 64 rounds nothing, so they are equal."""
    name, options = ROWS[row]
    device, runs = machine.device_of(backend), []
    for scaled in (True, False):
        params = parameters(_SHAPES, torch.float32, device)
        optimizer = machine.build(backend, name, params, **options)
        scaler = torch.amp.GradScaler(device.type, init_scale=64.0, growth_interval=1000)
        for update in range(5):
            give(params, update)
            broken = update in (0, 3)
            if not scaled:
                if not broken:
                    optimizer.step()
                continue
            scaler.scale(torch.zeros((), device=device))  # creates the scale tensor
            for p in params:
                p.grad.mul_(scaler.get_scale())
            if broken:
                params[0].grad[0, 0] = float("inf")
            scaler.step(optimizer)
            scaler.update()
        runs.append(everything(optimizer, params))
    return same(*runs, " of a run with a GradScaler")


def checks(level: Level) -> Iterator[Check]:
    for row in ROWS:
        for backend in machine.present():
            for kind, run in (("skip", compare_skips), ("scaler", compare_scaler)):
                case = partial(run, backend, row)
                yield Check(f"{kind}/{row}/{backend}", "amp", f"{kind} {row}", backend, case, backend)
