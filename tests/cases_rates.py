# SPDX-License-Identifier: Apache-2.0
"""Rates that are tensors on a device: schedulers, optimizers, and devices that are none.

Here tensors on a device are tensors on the CPU: `backend=` says whose they are, the emulated CUDA's or the interpreted
Triton's. An optimizer of torch is told by an attribute.
"""

import functools
from importlib.util import find_spec
from typing import Any

import torch
from emulation import build
from emulation.driver import Emulation

import fusedsched
from fusedsched import lr_scheduler as ours

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
DTYPES = (F32, F64, BF16, F16)
PLACES = ["cuda", *(["triton"] if find_spec("triton") is not None else [])]

LRS = (0.3, 0.2, 0.07)

# `m`: our module or torch's.
SCHEDULERS: dict[str, Any] = {
    "StepLR": lambda o, m=ours, **k: m.StepLR(o, step_size=3, gamma=0.5, **k),
    "MultiStepLR": lambda o, m=ours, **k: m.MultiStepLR(o, milestones=[4, 9, 9], gamma=0.3, **k),
    "ConstantLR": lambda o, m=ours, **k: m.ConstantLR(o, factor=0.5, total_iters=6, **k),
    "LinearLR": lambda o, m=ours, **k: m.LinearLR(o, start_factor=0.2, total_iters=9, **k),
    "LinearLR to 0": lambda o, m=ours, **k: m.LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=9, **k),
    "ExponentialLR": lambda o, m=ours, **k: m.ExponentialLR(o, gamma=0.9, **k),
    "PolynomialLR": lambda o, m=ours, **k: m.PolynomialLR(o, total_iters=11, power=2.0, **k),
    "CosineAnnealingLR": lambda o, m=ours, **k: m.CosineAnnealingLR(o, T_max=6, eta_min=0.01, **k),
    "CosineAnnealingLR of 1": lambda o, m=ours, **k: m.CosineAnnealingLR(o, T_max=1, eta_min=0.01, **k),
    "SWALR": lambda o, m=ours, **k: getattr(m, "SWALR", torch.optim.swa_utils.SWALR)(o, 0.05, 8, "cos", **k),
    "SWALR, linear": lambda o, m=ours, **k: getattr(m, "SWALR", torch.optim.swa_utils.SWALR)(o, 0.05, 8, "linear", **k),
    "CosineAnnealingWarmRestarts": lambda o, m=ours, **k: m.CosineAnnealingWarmRestarts(o, T_0=4, T_mult=2, **k),
    "CyclicLR": lambda o, m=ours, **k: m.CyclicLR(
        o, base_lr=0.01, max_lr=0.1, step_size_up=4, mode="triangular2", cycle_momentum=False, **k
    ),
    "OneCycleLR": lambda o, m=ours, **k: m.OneCycleLR(o, max_lr=0.2, total_steps=60, cycle_momentum=False, **k),
    "SequentialLR": lambda o, m=ours, **k: m.SequentialLR(
        o, [m.LinearLR(o, 0.1, total_iters=5), m.CosineAnnealingLR(o, T_max=20)], milestones=[5], **k
    ),
    "ChainedScheduler": lambda o, m=ours, **k: m.ChainedScheduler([m.ExponentialLR(o, 0.9), m.StepLR(o, 4)], **k),
}
# The interpreter takes a hundred times as long: a class of each way to carry an edit, and of each shape that is slow.
FEW = ("LinearLR to 0", "CosineAnnealingLR", "SWALR", "SequentialLR", "OneCycleLR")
EVERYWHERE = [("cuda", kind, name) for kind in ("torch", "ours") for name in SCHEDULERS]
EVERYWHERE += [("triton", "torch", name) for name in FEW if "triton" in PLACES]
LAMBDA = {"LambdaLR": lambda o, m=ours, **k: m.LambdaLR(o, lambda t: 0.9**t, **k)}


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
