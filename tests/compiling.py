# SPDX-License-Identifier: Apache-2.0
"""Trains eager and compiled side by side."""

import copy
import shutil

import pytest
import torch
import torch._dynamo
from compared import equal
from torch._dynamo.utils import counters

from fusedsched import lr_scheduler as L
from fusedsched.lr_scheduler.metric import MetricScheduler

STEPS = 12
COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
INDUCTOR = pytest.param("inductor", marks=[COMPILER, pytest.mark.full])  # it takes seconds
QUIET = [
    pytest.mark.filterwarnings("ignore:.*lru_cache"),
]


def parameters():
    """Two small ones, whose state shares a storage, a number, and a large one."""
    torch.manual_seed(0)
    shapes = ((5, 3), (7,), (), (70, 80))
    return [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]


def give_gradients(params, seed, pattern="1111"):
    generator = torch.Generator().manual_seed(seed)
    for p, mark in zip(params, pattern, strict=False):
        p.grad = torch.randn(p.shape, generator=generator) if mark == "1" else None


def numbers(params, optimizer, scheduler=None):
    """Everything that training can see, as plain data and tensors."""
    state = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in params if p in optimizer.state]
    groups = [{k: copy.deepcopy(v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    rates = None if scheduler is None else (scheduler.get_last_lr(), getattr(scheduler, "last_epoch", None))
    return (
        [p.detach().clone() for g in optimizer.param_groups for p in g["params"]],
        state,
        groups,
        optimizer._runtime.clocks.read() if hasattr(optimizer, "_runtime") else None,
        rates,
    )


def takes_metric(scheduler):
    members = scheduler._schedulers if isinstance(scheduler, (L.SequentialLR, L.ChainedScheduler)) else [scheduler]
    return any(isinstance(member, MetricScheduler) for member in members)


def compare(build, backend="aot_eager", steps=STEPS, graphs=1, patterns=("1111",), between=None, body=None):
    """Trains twice, eager and compiled, and compares: after every step, in long runs after some of them.

    `build(params)`: optimizer and scheduler. `between(step, params, optimizer)`: edits. `body(optimizer, scheduler,
    params)`: what is compiled.
    """
    torch._dynamo.reset()
    counters.clear()
    runs, metric = [], torch.ones(())
    for compile in (lambda f: f, lambda f: torch.compile(f, fullgraph=True, backend=backend)):
        params = parameters()
        optimizer, scheduler = build(params)

        def one(o=optimizer, s=scheduler):
            o.step()
            if s is not None:
                s.step(metric) if takes_metric(s) else s.step()

        one = one if body is None else lambda b=body, o=optimizer, s=scheduler, p=params: b(o, s, p)
        runs.append((compile(one), params, optimizer, scheduler))
    for i in range(steps):
        metric.fill_(1.0 + (7 * i) % 5)
        for step, params, optimizer, _ in runs:
            if i < STEPS:
                give_gradients(params, i, patterns[i % len(patterns)])
            if between is not None:
                between(i, params, optimizer)
            step()
        if STEPS <= i < steps - 1 and i % 97:
            continue
        eager, compiled = (numbers(*run[1:]) for run in runs)
        assert equal(eager, compiled), f"step {i}"
    assert 1 <= counters["stats"]["unique_graphs"] <= graphs
    assert not counters["graph_break"]
