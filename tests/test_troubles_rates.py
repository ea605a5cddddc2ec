# SPDX-License-Identifier: Apache-2.0
"""Troubles with learning rates that are tensors, and with numbers that are read from the device."""

import copy

import pytest
import torch
from cases import VISIBLE, torch_twin
from scripting import give_gradients, parameters
from watching import Recording

from fusedsched import lr_scheduler as L

T = torch.optim.lr_scheduler
SCHEDULERS = {
    "LambdaLR": lambda m, o: m.LambdaLR(o, lambda t: 0.9**t),
    "MultiplicativeLR": lambda m, o: m.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda m, o: m.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda m, o: m.MultiStepLR(o, [2, 5], 0.5),
    "ConstantLR": lambda m, o: m.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda m, o: m.LinearLR(o, 0.25, total_iters=6),
    "ExponentialLR": lambda m, o: m.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda m, o: m.PolynomialLR(o, 20, 2.0),
    "CosineAnnealingLR": lambda m, o: m.CosineAnnealingLR(o, 9),
    "CosineAnnealingWarmRestarts": lambda m, o: m.CosineAnnealingWarmRestarts(o, 5),
    "CyclicLR": lambda m, o: m.CyclicLR(o, 0.01, 0.1, 3, cycle_momentum=False),
    "OneCycleLR": lambda m, o: m.OneCycleLR(o, 0.1, total_steps=20),
    "SequentialLR": lambda m, o: m.SequentialLR(o, [m.LinearLR(o, 0.1), m.ExponentialLR(o, 0.9)], [4]),
    "ChainedScheduler": lambda m, o: m.ChainedScheduler([m.LinearLR(o, 0.1), m.ExponentialLR(o, 0.9)], o),
    "ReduceLROnPlateau": lambda m, o: m.ReduceLROnPlateau(o, factor=0.5, patience=1),
}
RATES = {  # of two groups
    "float": lambda: [0.1, 0.1],
    "tensor": lambda: [torch.tensor(0.1, dtype=torch.float64) for _ in range(2)],
    "one tensor for both": lambda: [torch.tensor(0.1, dtype=torch.float64)] * 2,
    "views of one tensor": lambda: list(torch.full((2,), 0.1, dtype=torch.float64)),
}


def built(module, name, rates):
    groups = [{"params": [p], "lr": rate} for p, rate in zip(parameters(2, 3), rates, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.5)
    optimizer._opt_called = True
    return optimizer, SCHEDULERS[name](module, optimizer)


def curve(optimizer, scheduler, steps=9):
    values = []
    for _ in range(steps):
        values.append([float(group["lr"]) for group in optimizer.param_groups])
        scheduler.step(1.0) if isinstance(scheduler, T.ReduceLROnPlateau) else scheduler.step()
    return values


@pytest.mark.parametrize("rates", list(RATES)[1:])
@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "ReduceLROnPlateau"])
def test_a_tensor_rate_moves_as_a_float_does(name, rates):
    """Once LambdaLR compounded: `initial_lr` was the very tensor that it wrote. No longer."""
    expected = curve(*built(T, name, RATES["float"]()))
    for module in (T, L):
        assert curve(*built(module, name, RATES[rates]())) == [pytest.approx(row, rel=1e-9) for row in expected]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_tensor_rate_stays_the_same_tensor_and_lends_itself_to_nobody(name):
    """Once get_last_lr() and SequentialLR's initial_lr were the tensor itself. No longer."""
    for module in (T, L):
        rates = RATES["tensor"]()
        optimizer, scheduler = built(module, name, rates)
        for _ in range(3):
            curve(optimizer, scheduler, 2)
            last, group = scheduler.get_last_lr()[0], optimizer.param_groups[0]
            assert group["lr"] is rates[0]
            assert last is not rates[0] and group.get("initial_lr") is not rates[0]
            before = float(rates[0])
            last.mul_(7.0)  # a user who converts it in place
            assert float(rates[0]) == before


# What is read from the device, and how many operations there are


@pytest.mark.parametrize("name", VISIBLE)
def test_a_step_reads_no_number_from_a_tensor(name, product):
    """torch's plain Adam asks each parameter's step for its number, once or more: on a GPU it waits as often."""

    def step(make, **options):
        params = parameters(4, 5, 6)
        optimizer = make(name, params, **VISIBLE[name], **options)
        for update in range(3):
            give_gradients(params, update)
            optimizer.step()
        return Recording(optimizer.step)

    torchs, ours = step(torch_twin), step(product)
    assert torchs.waits >= (3 if name in ("Adam", "AdamW") else 0)
    assert torchs.count() >= 3 * 3
    if product.args != ("reference",):
        assert ours.waits == ours.count() == 0


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name not in ("LambdaLR", "MultiplicativeLR")])
def test_a_schedulers_step_does_no_arithmetic_on_the_device(name):
    """torch: three to six operations for each group. Ours: no arithmetic, one copy to remember the rate by."""
    counts = {}
    for module in (T, L):
        optimizer, scheduler = built(module, name, RATES["tensor"]())
        curve(optimizer, scheduler, 6)
        step = (lambda: scheduler.step(1.0)) if name == "ReduceLROnPlateau" else scheduler.step  # noqa: B023
        recording = Recording(step)
        counts[module] = recording.count("mul", "add", "sub", "div", "fill_")
    assert counts[T] >= 2
    if name not in ("ChainedScheduler", "ReduceLROnPlateau"):
        assert counts[L] == recording.waits == 0


def test_the_count_of_updates_stops_at_two_to_the_24(product):
    """torch counts in float32. Ours shows such a tensor, and counts on beside it."""
    counted = {}
    for make in (product, lambda name, p, **o: torch.optim.AdamW(p, fused=True, **o)):
        params = parameters(4)
        optimizer = make("AdamW", params, **VISIBLE["AdamW"])
        give_gradients(params)
        optimizer.step()
        optimizer.state[params[0]]["step"].fill_(2.0**24)
        for _ in range(4):
            optimizer.step()
        counted[make] = float(optimizer.state[params[0]]["step"])
    ours, torchs = counted.values()
    assert torchs == 2**24 and ours == 2**24 + 4


STEPS = {
    "a float": lambda: 2.0,
    "an integer": lambda: 2,
    "float64": lambda: torch.tensor(2.0, dtype=torch.float64),
    "int64": lambda: torch.tensor(2),
    "one element": lambda: torch.tensor([2.0]),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_of_whatever_kind_can_be_loaded(step, product):
    """Checkpoints have it as a number, on another device, of another type. Once torch refused some; no longer."""

    def resumed(make, kind):
        params = parameters(4)
        optimizer = make("AdamW", params, **VISIBLE["AdamW"])
        for update in range(2):
            give_gradients(params, update)
            optimizer.step()
        state = copy.deepcopy(optimizer.state_dict())
        state["state"][0]["step"] = kind()
        optimizer.load_state_dict(state)
        give_gradients(params, 2)
        optimizer.step()
        return params[0].detach()

    for make in (product, lambda name, p, **o: torch.optim.AdamW(p, fused=True, **o)):
        assert torch.equal(resumed(make, STEPS[step]), resumed(make, lambda: torch.tensor(2.0)))
