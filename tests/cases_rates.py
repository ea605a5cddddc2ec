# SPDX-License-Identifier: Apache-2.0
"""Learning rates that a device moves: schedulers, optimizers, and devices that are none.

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
from fusedsched.optim.optimizer import FusedOptimizer

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
# Whose optimizer, and what its learning rates are: "torch" and "ours" have tensors, "number" and "SGD" are ours.
KINDS = ("torch", "ours", "number", "SGD")
EVERYWHERE = [("cuda", kind, name) for kind in KINDS for name in SCHEDULERS]
if "triton" in PLACES:
    EVERYWHERE += [("triton", "torch", FEW[0]), *(full("triton", "torch", name) for name in FEW[1:])]
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
    """An optimizer that counts as one that has stepped."""
    if kind != "torch":
        name, more = ("SGD", {"momentum": 0.9}) if kind == "SGD" else ("AdamW", {})
        made = getattr(fusedsched, name)(groups_of(lrs), backend=place, **more, **options)
    else:
        made = torch.optim.AdamW(groups_of(lrs), foreach=False, **options)
        made._fusedsched_backend = place
    made._opt_called = True
    return made


def pair(name, kind, place, dtype=F64, lrs=LRS):
    """(optimizer, scheduler)."""
    opt = optimizer(kind, place, list(lrs) if kind in ("number", "SGD") else tensors(lrs, dtype))
    return opt, (CONFIGURED if kind == "SGD" else SCHEDULERS)[name](opt)


def step(opt, sched):
    """Ours updates its parameters too."""
    if isinstance(opt, FusedOptimizer):
        opt.step()
    sched.step()


def warmed_up(opt, sched, steps=3):
    """After some eager steps, with its tables written."""
    for _ in range(steps):
        step(opt, sched)
    assert sched._driver.on_device or not isinstance(opt.param_groups[0]["lr"], torch.Tensor)
    return opt, sched


def edit(opt, i, change):
    """Writes `change` of a group's learning rate to it, as user code does."""
    group = opt.param_groups[i]
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(change(group["lr"].item()))
    else:
        group["lr"] = change(group["lr"])
        opt.sync_hparams()


def params(opt):
    return torch.cat([p.detach() for group in opt.param_groups for p in group["params"]])


def values(opt):
    return [group["lr"].item() if isinstance(group["lr"], torch.Tensor) else group["lr"] for group in opt.param_groups]


def recorded(place, call, scheduler=None):
    """A function that replays what `call` did while it was recorded. Triton cannot record: its launch is repeated."""
    if place == "cuda":
        graph = emulated().record(call)
        return lambda: emulated().replay(graph)
    return scheduler._device_schedule.advance
