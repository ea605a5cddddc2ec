# SPDX-License-Identifier: Apache-2.0
"""Checks that need a large machine: tensors above 2**31 elements, and parameters on several devices."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from fusedsched.verify import machine
from fusedsched.verify.bounds import Verdict, close, fact, worst_of
from fusedsched.verify.check import FULL, Check, Level
from fusedsched.verify.edges import give, parameters
from fusedsched.verify.table import VISIBLE
from fusedsched.verify.updates import torch_twin

ELEMENTS = 2**31 + 8
_NEEDED = 5 * ELEMENTS  # bytes: a bfloat16 parameter, its gradient, and temporaries


def free_memory(device: torch.device) -> int | None:
    """Free bytes on a device; None if the system does not report them."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0]
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def too_large(backend: str) -> str | None:
    """Why tensors above 2**31 elements are not checked; None if they are."""
    if backend == "reference" or machine.slow(backend):
        return "its temporaries would take minutes and many times the memory"
    free = free_memory(machine.device_of(backend))
    if free is None:
        return "the system does not report its free memory"
    return None if free >= _NEEDED else f"it needs {_NEEDED / 2**30:.0f} GiB, and {free / 2**30:.0f} GiB are free"


def above_two_to_the_31(backend: str) -> Verdict:
    """SGD moves every element of a bfloat16 tensor by -0.5, the last ones too."""
    p = torch.zeros(ELEMENTS, dtype=torch.bfloat16, device=machine.device_of(backend)).requires_grad_()
    p.grad = torch.ones_like(p)
    machine.build(backend, "SGD", [p], lr=0.5).step()
    p.grad = None
    wrong = sum(int((part != -0.5).sum()) for part in p.detach().split(2**24))
    return Verdict(f"elements of {ELEMENTS:,} that are wrong", float(wrong), 0.0)


def _mixed_devices() -> Verdict:
    verdicts = []
    for name in ("AdamW", "SGD"):
        hosts, guests = parameters([(5, 3), (7,)], torch.float32), parameters([(4,), (9,)], torch.float32, "cuda")
        params = [hosts[0], guests[0], hosts[1], guests[1]]
        twins = [p.detach().clone().requires_grad_() for p in params]
        ours, torchs = machine.build("auto", name, params, **VISIBLE[name]), torch_twin(name, twins, **VISIBLE[name])
        for update in range(3):
            for some, optimizer in ((params, ours), (twins, torchs)):
                give(some, update)
                optimizer.step()
        pairs = enumerate(zip(params, twins, strict=True))
        verdicts += [close(p.detach(), q.detach(), 3, f"parameter {i} on {p.device}, {name}") for i, (p, q) in pairs]
        counts = {clock.tolist()[0] for clock in ours._runtime.clocks.tensors()}
        verdicts.append(fact(counts == {3}, f"the clocks of the devices read {sorted(counts)}, {name}"))
    return worst_of(verdicts)


def checks(level: Level) -> Iterator[Check]:
    if torch.cuda.is_available():
        yield Check("edge/mixed-devices/auto", "edge", "mixed devices", "auto", _mixed_devices)
    for backend in machine.present() if level is FULL else ():
        if too_large(backend) is None:
            run = partial(above_two_to_the_31, backend)
            yield Check(f"edge/above-2**31/{backend}", "edge", "above 2**31", backend, run, backend)


def left_out(level: Level) -> Iterator[tuple[str, str]]:
    if not torch.cuda.is_available():
        yield "parameters on several devices", "there is one"
    for backend in machine.present():
        reason = too_large(backend) if level is FULL else "only in --full"
        if reason is not None and backend != "reference":
            yield f"tensors above 2**31 elements, {backend}", reason
