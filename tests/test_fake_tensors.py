# SPDX-License-Identifier: Apache-2.0
"""Parameters without memory: what estimators of memory train."""

import pytest
import torch
from cases import VISIBLE, maker, torch_twin
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from fusedsched import schedules as S


@pytest.fixture(params=("auto", "reference"))
def product(request):
    """The backends that take them."""
    return maker(request.param)


def run(make, name, made_inside, steps=3, **options):
    mode = FakeTensorMode()
    with mode:
        model = torch.nn.Linear(3, 4)
        optimizer = make(name, model.parameters(), **options) if made_inside else None
    optimizer = optimizer or make(name, model.parameters(), **options)
    with mode:
        for _ in range(steps):
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        optimizer.load_state_dict(optimizer.state_dict())
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        state = {
            (i, key): (type(value), value.shape, value.dtype, value.device)
            for i, p in enumerate(model.parameters())
            for key, value in optimizer.state[p].items()
        }
    return optimizer, state, mode


@pytest.mark.parametrize("made_inside", (True, False))
@pytest.mark.parametrize("name", VISIBLE)
def test_fake_parameters_get_fake_state(name, made_inside, product):
    """State is what torch's class makes of fake parameters, and its steps are counted."""
    ours, state, _ = run(product, name, made_inside, **VISIBLE[name])
    torchs, expected, _ = run(torch_twin, name, made_inside, **VISIBLE[name])
    assert state == expected and all(kind is FakeTensor for kind, *_ in state.values())
    for p, q in zip(ours.param_groups[0]["params"], torchs.param_groups[0]["params"], strict=True):
        if "step" in torchs.state[q]:
            assert ours.state[p]["step"].item() == torchs.state[q]["step"].item() == 4


@pytest.mark.parametrize("made_inside", (True, False))
@pytest.mark.parametrize("name", VISIBLE)
def test_schedules_and_clocks_are_real(name, made_inside, product):
    """Schedules run on the optimizer's own counters, which no mode makes fake, and telemetry has their values."""
    lr = S.linear(0.1, 0.0, steps=10)
    optimizer, _, mode = run(product, name, made_inside, **{**VISIBLE[name], "lr": lr})
    shown = optimizer.param_groups[0]["lr"]
    assert type(shown) is torch.Tensor and float(shown) == lr(4) and optimizer._runtime.clocks.read()[0] == 4
    with mode:
        optimizer.enable_telemetry()
        for p in optimizer.param_groups[0]["params"]:
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert optimizer.telemetry().lr.tolist() == [[lr(4)]]


@pytest.mark.parametrize("name", VISIBLE)
def test_estimated_memory_is_torchs(name, product):
    """A tracker of memory finds as many bytes of state as with torch's class."""
    totals = []
    for make in (product, torch_twin):
        with FakeTensorMode():
            model = torch.nn.Linear(64, 64)
            optimizer = make(name, model.parameters(), **VISIBLE[name])
            tracker = MemTracker()
            tracker.track_external(model, optimizer)
            with tracker:
                model(torch.ones(2, 64)).sum().backward()
                optimizer.step()
            totals.append({str(k): v for k, v in tracker.get_tracker_snapshot()[torch.device("cpu")].items()})
    assert totals[0] == totals[1]
