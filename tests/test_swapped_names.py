# SPDX-License-Identifier: Apache-2.0
"""Programs that are swapped without a change: `torch.optim.lr_scheduler.StepLR = fusedsched.lr_scheduler.StepLR`."""

import os
import subprocess
import sys
import warnings

import pytest
from cases_lr_schedulers import SCHEDULERS, arguments_of, optimizer

SWAP = """
import torch
from torch.optim import lr_scheduler as public, swa_utils
import fusedsched

def swap():
    for module, names in ((fusedsched, ("Adam", "AdamW", "SGD")), (fusedsched.lr_scheduler, public.__all__)):
        for name in names:
            setattr(torch.optim if module is fusedsched else public, name, getattr(module, name))
    swa_utils.SWALR = fusedsched.lr_scheduler.SWALR

def run():
    made = []
    for name in sorted({*public.__all__, "SWALR"} - {"LRScheduler", "SequentialLR", "ChainedScheduler"}):
        for differentiable in (False, True):
            p = torch.ones(3, requires_grad=True)
            q = p if not differentiable else p * 1.0
            opt = torch.optim.SGD([q], lr=0.5, momentum=0.9, differentiable=differentiable)
            arguments = ARGUMENTS[name]
            sched = (swa_utils if name == "SWALR" else public).__dict__[name](opt, **arguments)
            sequence = public.SequentialLR(opt, [public.ConstantLR(opt), public.ExponentialLR(opt, 0.5)], [2])
            for t in range(6):
                q.grad = torch.full((3,), 0.25)
                opt.step()
                sched.step(*((1.0,) if isinstance(sched, public.ReduceLROnPlateau) else ()))
                sequence.step()
                made.append((round(float(opt.param_groups[0]["lr"]), 12), [round(float(x), 6) for x in q]))
    for kind in (torch.optim.Adam, torch.optim.AdamW):
        p = torch.ones(3, requires_grad=True)
        opt = kind([p], lr=0.5)
        for t in range(3):
            p.grad = torch.full((3,), 0.25)
            opt.step()
        made.append([round(float(x), 6) for x in p])
    return made

ARGUMENTS = dict(
    StepLR=dict(step_size=2), MultiStepLR=dict(milestones=[1, 3]), ConstantLR={}, LinearLR={},
    ExponentialLR=dict(gamma=0.5), PolynomialLR={}, CosineAnnealingLR=dict(T_max=4),
    CosineAnnealingWarmRestarts=dict(T_0=2), CyclicLR=dict(base_lr=0.1, max_lr=0.5), SWALR=dict(swa_lr=0.1),
    OneCycleLR=dict(max_lr=0.5, total_steps=9), ReduceLROnPlateau=dict(patience=1),
    LambdaLR=dict(lr_lambda=lambda t: 1 / (1 + t)), MultiplicativeLR=dict(lr_lambda=lambda t: 0.5),
)
"""
ORDERS = {
    "before the first use": "swap(); found = run()",
    "after it": "fusedsched.lr_scheduler.StepLR(fusedsched.AdamW([torch.ones(1)]), 2); swap(); found = run()",
    "twice": "swap(); swap(); found = run()",
    "with the reference": "swap(); fusedsched.reference.AdamW([torch.ones(1)]); found = run()",
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_program_with_swapped_names(order):
    """It computes what torch's classes compute."""
    code = f"{SWAP}\nexpected = run()\n{ORDERS[order]}\nassert len(found) == len(expected)\n"
    code += "for i, (a, b) in enumerate(zip(found, expected)):\n    assert a == b, (i, a, b)\n"
    code += "assert torch.optim.AdamW is fusedsched.AdamW\n"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("row", SCHEDULERS, ids=lambda row: row.name)
@pytest.mark.parametrize("resumed", [False, True], ids=["new", "last_epoch=3"])
@pytest.mark.parametrize("called", [False, True], ids=["wrong order", "right order"])
def test_the_warning_about_the_order_of_calls(row, resumed, called):
    """As torch's class, at the first step of a scheduler, whether it resumes or not, and at no other."""
    counts = []
    for kind in (row.theirs, row.ours):
        opt = optimizer([0.3, 0.2])
        opt._opt_called = called
        for group in opt.param_groups if resumed else ():
            group.update(
                initial_lr=group["lr"], max_lr=0.9, min_lr=0.01, swa_lr=0.1, max_momentum=0.9, base_momentum=0.8
            )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sched = kind(opt, **arguments_of(row), **({"last_epoch": 3} if resumed else {}))
            for _ in range(3):
                sched.step()
                opt._opt_called = True
                counts.append(sum("before `optimizer.step()`" in str(warning.message) for warning in caught))
    assert counts[:3] == counts[3:]
