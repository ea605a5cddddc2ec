# SPDX-License-Identifier: Apache-2.0
"""Troubles with torch.compile: what is compiled again, what breaks, what raises. More about ours: test_compile.py."""

import logging

import pytest
import torch
from compiling import QUIET, give_gradients, parameters
from torch._dynamo.exc import Unsupported
from torch._dynamo.utils import counters

import fusedsched as fs
from fusedsched import lr_scheduler as L

pytestmark = QUIET
T = torch.optim.lr_scheduler
TORCH = {
    "foreach": dict(foreach=True),
    "fused": dict(fused=True),
    "single": dict(foreach=False, fused=False),
}


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("torch._logging").setLevel(logging.ERROR)  # "Profiler record function will be ignored"


def graphs(optimizer, scheduler=None, inside=False, steps=8):
    """How many graphs Dynamo makes of `step()` while a scheduler moves the rate."""
    torch._dynamo.reset()
    counters.clear()
    params = optimizer.param_groups[0]["params"]

    def call():
        optimizer.step()
        if inside:
            scheduler.step()

    compiled = torch.compile(call, backend="eager")
    for update in range(steps):
        give_gradients(params, update)
        compiled()
        if scheduler is not None and not inside:
            scheduler.step(torch.ones(())) if isinstance(scheduler, T.ReduceLROnPlateau) else scheduler.step()
    return counters["stats"]["unique_graphs"]


def pair(torch_options, schedule):
    """The same optimizer and scheduler, torch's and ours."""
    for cls, module, options in ((torch.optim.AdamW, T, torch_options), (fs.AdamW, L, {})):
        optimizer = cls(parameters(), lr=options.pop("lr", 0.1), **options)
        yield optimizer, schedule(module, optimizer)


def test_a_rate_that_moves_is_compiled_again():
    """A float lr is a constant of the graph at first. torch makes one graph more, with a symbol in its place."""
    torchs, ours = pair(dict(foreach=True), lambda m, o: m.ExponentialLR(o, 0.9))
    assert graphs(*torchs) == 2
    assert graphs(*ours) == 1


@pytest.mark.parametrize("name", ("OneCycleLR", "CyclicLR"))
def test_cycled_momentum_is_compiled_again_even_with_a_tensor_rate(name):
    options = dict(max_lr=1.0, total_steps=99) if name == "OneCycleLR" else dict(base_lr=0.1, max_lr=1.0)
    torchs, ours = pair(dict(lr=torch.tensor(0.1)), lambda m, o: getattr(m, name)(o, **options))
    assert graphs(*torchs) == 2
    assert graphs(*ours) == 1


def test_a_tensor_rate_is_not_compiled_again():
    """Once it was, at the second step; no longer."""
    torchs, ours = pair(dict(lr=torch.tensor(0.1)), lambda m, o: m.ExponentialLR(o, 0.9))
    assert graphs(*torchs) == 1
    assert graphs(*ours) == 1


def test_plateau_leaves_a_tensor_rate_a_tensor():
    """Once it wrote a float there, and the step was compiled again; no longer."""
    for optimizer, scheduler in pair(dict(lr=torch.tensor(0.1)), lambda m, o: m.ReduceLROnPlateau(o, patience=0)):
        rate = optimizer.param_groups[0]["lr"]
        assert graphs(optimizer, scheduler) == 1
        if isinstance(rate, torch.Tensor):
            assert optimizer.param_groups[0]["lr"] is rate and float(rate) < 0.1


@pytest.mark.parametrize("name", ("AdamW", "Adam", "SGD"))
def test_a_fused_step_gives_no_graph_at_all(name):
    """torch turns the compiler off around it; the other implementations give one, between two breaks."""
    assert graphs(getattr(torch.optim, name)(parameters(), lr=0.1, fused=True)) == 0
    assert graphs(getattr(torch.optim, name)(parameters(), lr=0.1, foreach=True)) == 1
    assert counters["graph_break"]
    assert graphs(getattr(fs, name)(parameters(), lr=0.1, fused=True)) == 1
    assert not counters["graph_break"]


@pytest.mark.parametrize("implementation", TORCH)
@pytest.mark.parametrize("name", ("AdamW", "SGD"))
def test_fullgraph_raises(name, implementation):
    for cls, options in ((getattr(torch.optim, name), TORCH[implementation]), (getattr(fs, name), {})):
        torch._dynamo.reset()
        optimizer = cls(parameters(), lr=0.1, **options)
        give_gradients(optimizer.param_groups[0]["params"], 0)
        step = torch.compile(lambda o=optimizer: o.step(), fullgraph=True, backend="eager")
        if cls is getattr(fs, name):
            step()
        else:
            with pytest.raises(Unsupported):
                step()


def test_step_and_scheduler_in_one_graph():
    """torch: sched.step() becomes no graph at all."""
    for optimizer, scheduler in pair(dict(foreach=True), lambda m, o: m.CosineAnnealingLR(o, 9)):
        torch._dynamo.reset()
        give_gradients(optimizer.param_groups[0]["params"], 0)
        optimizer.step()

        @torch.compile(fullgraph=True, backend="eager")
        def call(o=optimizer, s=scheduler):
            o.step()
            s.step()

        if isinstance(optimizer, fs.AdamW):
            call()
            assert scheduler.last_epoch == 1
        else:
            with pytest.raises(Unsupported):
                call()


def test_a_step_compiled_before_the_scheduler_is_built():
    """torch patches the method of a function. Its schedulers take ours compiled, and ours do."""
    for module in (T, L):
        optimizer = torch.optim.AdamW(parameters(), lr=0.1)
        optimizer.step = torch.compile(optimizer.step, backend="eager")
        with pytest.raises(AttributeError, match="__func__"):
            module.StepLR(optimizer, 3)
        optimizer = fs.AdamW(parameters(), lr=0.1)
        optimizer.step = torch.compile(optimizer.step, fullgraph=True, backend="eager")
        scheduler = module.StepLR(optimizer, 1, 0.5)
        give_gradients(optimizer.param_groups[0]["params"], 0)
        optimizer.step()
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == 0.05
