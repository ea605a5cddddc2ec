# SPDX-License-Identifier: Apache-2.0
"""What the tests of this folder build: parameters, gradients that stay where they are, trained pairs to compare."""

from __future__ import annotations

import torch
from cases import VISIBLE
from cases_lr_schedulers import CLOSED_FORM, CONFIGURED
from machines import machine

import fusedsched

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SCHEDULERS = {name: CONFIGURED[name] for name in CLOSED_FORM}
SHAPES = ((5, 3), (17,), (4097,))
EAGER = 3


def build(backend, name, params, **options):
    return getattr(fusedsched, name)(params, **{**VISIBLE[name], "backend": backend, **options})


def parameters(*shapes, dtype=torch.float32, device=None, seed=5):
    generator = torch.Generator().manual_seed(seed)
    device = machine().device if device is None else device
    return [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]


def fill(params, update, scale=1.0):
    """Gradients that stay where they are."""
    generator = torch.Generator().manual_seed(100 + update)
    for p in params:
        if p.grad is None:
            p.grad = torch.empty_like(p)
        p.grad.copy_(torch.randn(p.shape, generator=generator) * scale)


class Scene:
    """An optimizer with two groups and perhaps a scheduler, a few eager steps in."""

    def __init__(self, backend, name="AdamW", schedule=None, steps=EAGER, shapes=SHAPES, **options):
        self.params = parameters(*shapes)
        groups = [{"params": self.params[:2]}, {"params": self.params[2:], "lr": options.get("lr", 0.3)}]
        self.optimizer = build(backend, name, groups, **options)
        self.scheduler = schedule(self.optimizer) if schedule else None
        for update in range(steps):
            self.train(update)

    def step(self):
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()

    def train(self, update):
        fill(self.params, update)
        self.step()

    def numbers(self):
        """Parameters, what the groups show, clocks and counters."""
        groups = [
            {k: repr(v) if isinstance(v, tuple) else float(v) for k, v in g.items() if k in ("lr", "betas", "momentum")}
            for g in self.optimizer.param_groups
        ]
        rates = None if self.scheduler is None else [float(x) for x in self.scheduler.get_last_lr()]
        epoch = getattr(self.scheduler, "last_epoch", None)
        values = [p.detach().cpu().tolist() for p in self.params]
        return values, groups, rates, epoch, self.optimizer._runtime.clocks.read()


def replays_equal_eager_steps(machine, graphed, eager, replays, between=None, call=None):
    """Captures a step of the one and replays it beside steps of the other; everything is equal at the end.

    `between(update, scene)` is called for both before each update.
    """
    replay = machine.record(call or graphed.step)
    for update in range(EAGER, EAGER + replays):
        for scene in (graphed, eager):
            fill(scene.params, update % 7)
            if between is not None:
                between(update, scene)
        replay()
        eager.step()
    machine.synchronize()
    assert graphed.numbers() == eager.numbers()
