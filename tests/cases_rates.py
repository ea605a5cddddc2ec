# SPDX-License-Identifier: Apache-2.0
"""Rates that are tensors on a device: schedulers, optimizers, and devices that are none.

Here tensors on a device are tensors on the CPU: `backend=` says whose they are, the emulated CUDA's or the interpreted
Triton's. An optimizer of torch is told by an attribute.
"""

import functools
from importlib.util import find_spec
from typing import Any

import torch
from cases_lr_schedulers import CLOSED_FORM, CONFIGURED
from emulation import build
from emulation.driver import Emulation
from tiers import full

import fusedsched
from fusedsched import lr_scheduler as ours

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
DTYPES = (F32, F64, BF16, F16)
PLACES = ["cuda", *(["triton"] if find_spec("triton") is not None else [])]

LRS = (0.3, 0.2, 0.07)


def _device(name):
    """A rate alone: a momentum that cycles has to be a tensor too."""
    options = {"cycle_momentum": False} if name in ("CyclicLR", "OneCycleLR") else {}
    return lambda o, m=ours, **k: CONFIGURED[name](o, m, **options, **k)


SCHEDULERS: dict[str, Any] = {name: _device(name) for name in CLOSED_FORM}
# The interpreter takes a hundred times as long: a class of each way to carry an edit, and of each shape that is slow.
FEW = ("SequentialLR", "LinearLR to 0", "CosineAnnealingLR", "SWALR", "OneCycleLR")
EVERYWHERE = [("cuda", kind, name) for kind in ("torch", "ours") for name in SCHEDULERS]
ON_TORCH = [("cuda", name) for name in SCHEDULERS]
if "triton" in PLACES:
    EVERYWHERE += [("triton", "torch", FEW[0]), *(full("triton", "torch", name) for name in FEW[1:])]
    ON_TORCH += [("triton", FEW[0]), *(full("triton", name) for name in FEW[1:])]
LAMBDA = {"LambdaLR": CONFIGURED["LambdaLR"]}


@functools.cache
def emulated() -> Emulation:
    return Emulation(build())


def groups_of(lrs):
    """One group of one parameter for each rate, with a gradient that stays in place."""
    groups = []
    for lr in lrs:
        p = torch.nn.Parameter(torch.ones(3))
        p.grad = torch.full((3,), 0.25)
        groups.append({"params": [p], "lr": lr})
    return groups


def tensors(lrs, dtype=F64):
    return [torch.tensor(lr, dtype=dtype) for lr in lrs]


def optimizer(kind, place, lrs, **options):
    """`kind`: "torch", or "ours". It counts as one that has stepped."""
    if kind == "ours":
        made = fusedsched.AdamW(groups_of(lrs), backend=place, **options)
    else:
        made = torch.optim.AdamW(groups_of(lrs), foreach=False, **options)
        made._fusedsched_backend = place
    made._opt_called = True
    return made


def pair(name, kind, place, dtype=F64, lrs=LRS):
    """(optimizer, scheduler) of tensors on a device."""
    opt = optimizer(kind, place, tensors(lrs, dtype))
    return opt, SCHEDULERS[name](opt)


def settled(opt, sched, steps=3):
    """After some eager steps, with its tables written."""
    for _ in range(steps):
        sched.step()
    assert sched._driver.on_device
    return opt, sched


def values(opt):
    return [group["lr"].item() if isinstance(group["lr"], torch.Tensor) else group["lr"] for group in opt.param_groups]


def recorded(place, call, scheduler=None):
    """A function that replays what `call` did while it was recorded. Triton cannot record: its launch is repeated."""
    if place == "cuda":
        graph = emulated().record(call)
        return lambda: emulated().replay(graph)
    return scheduler._device_schedule.advance
