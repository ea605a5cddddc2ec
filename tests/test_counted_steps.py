# SPDX-License-Identifier: Apache-2.0
"""Which calls of `step()` move native schedules: all that nothing held back, with two exceptions."""

import emulation
import pytest
import torch
from cases import BACKENDS, DROP_INS, REFERENCE_CLASSES, maker
from emulation.driver import Emulation

from fusedsched.schedules import linear

RATE = linear(0.5, 0.0, steps=10)
EVERYWHERE = (*BACKENDS, REFERENCE_CLASSES)
everywhere = pytest.mark.parametrize("backend", EVERYWHERE)
by_class = pytest.mark.parametrize("name", (*DROP_INS, "SGD with momentum"))
ALL = {"lr": RATE}


def build(backend, name, **options):
    params = [torch.ones(3, requires_grad=True) for _ in range(2)]
    if "momentum" in name:
        name, options = "SGD", {"momentum": 0.5, **options}
    return params, maker(backend)(name, [{"params": [p]} for p in params], **options)


def rate(optimizer):
    return float(optimizer.param_groups[0]["lr"])


def give(params, value):
    for p in params:
        p.grad = None if value is None else torch.full_like(p, value)


@by_class
@everywhere
def test_a_step_without_gradients_counts_once_there_was_one(backend, name):
    params, optimizer = build(backend, name, **ALL)
    for gradient in (1.0, None, None, 1.0, 0.0):
        give(params, gradient)
        optimizer.step()
    assert rate(optimizer) == RATE(5)
    for p in params:
        assert float(optimizer.state[p].get("step", 3.0)) == 3.0


@everywhere
def test_a_loaded_state_has_begun(backend):
    params, optimizer = build(backend, "AdamW", **ALL)
    give(params, 1.0)
    optimizer.step()
    if backend == REFERENCE_CLASSES:
        return  # saves no schedules
    others, resumed = build(backend, "AdamW", **ALL)
    resumed.load_state_dict(optimizer.state_dict())
    give(others, None)
    resumed.step()
    assert rate(resumed) == RATE(2)


@by_class
@everywhere
def test_before_the_first_gradient_only_a_process_group_makes_it_count(backend, name, monkeypatch):
    for distributed in (False, True):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda distributed=distributed: distributed)
        params, optimizer = build(backend, name, **ALL)
        optimizer.step()
        optimizer.step()
        assert rate(optimizer) == RATE(2 * distributed)
        assert not any(optimizer.state.values())


@pytest.mark.parametrize("zero", (0.0, "tensor"))
@by_class
@everywhere
@pytest.mark.filterwarnings("error")
def test_a_probing_step_creates_state_and_moves_nothing(backend, name, zero):
    """As `torch.distributed.checkpoint.state_dict` does it."""
    if (backend, name, zero) == ("cuda", "SGD", "tensor"):
        pytest.skip("the emulated device is the CPU, and the kernels alone read a rate on their device")
    params, optimizer = build(backend, name, **ALL)
    give(params, 0.0)
    kept = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.0) if zero == "tensor" else zero
    optimizer.step()
    for group, lr in zip(optimizer.param_groups, kept, strict=True):
        group["lr"] = lr
    assert rate(optimizer) == RATE(0)
    assert all(torch.equal(p, torch.ones(3)) for p in params)
    give(params, 1.0)
    optimizer.step()
    assert rate(optimizer) == RATE(1)
    assert all(float(optimizer.state[p].get("step", 2.0)) == 2.0 for p in params)


@pytest.mark.parametrize("value", (0.0, 1.0))
@by_class
@everywhere
def test_a_rate_of_zero_is_an_ordinary_update_otherwise(backend, name, value):
    """Only no state, a rate of 0 and gradients of 0 together are a probing step."""
    params, optimizer = build(backend, name, lr=0.0 if value else 0.1, weight_decay=RATE)
    give(params, value)
    optimizer.step()
    assert float(optimizer.param_groups[0]["weight_decay"]) == RATE(1)


@by_class
def test_a_captured_step_without_gradients_advances_the_clock(name):
    """Each replay counts; a capture alone does not."""
    emulated = Emulation(emulation.build())
    params, optimizer = build("cuda", name, **ALL)
    give(params, 1.0)
    optimizer.step()
    give(params, None)
    graph = emulated.record(optimizer.step)
    assert rate(optimizer) == RATE(1)
    emulated.replay(graph)
    emulated.replay(graph)
    assert rate(optimizer) == RATE(3)
