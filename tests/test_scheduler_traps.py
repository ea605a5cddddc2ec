# SPDX-License-Identifier: Apache-2.0
"""The traps of torch's schedulers: each test shows torch falling into one, so that we notice when it no longer does,
and what we do instead."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from cases_lr_schedulers import SCHEDULERS, arguments_of, curve, near, optimizer, rate
from scheduler_pairs import as_torch
from torch.optim import lr_scheduler as theirs
from torch.optim.swa_utils import SWALR

from fusedsched import lr_scheduler as ours

# m9: the scheduler's state alone


def test_loading_the_scheduler_alone():
    """torch: get_last_lr() says 0.5 and the group goes on from 1.0. Ours: the group gets 0.5."""
    for module, restored in ((theirs, 1.0), (ours, 0.5)):
        opt = optimizer([1.0])
        sched = module.StepLR(opt, step_size=1, gamma=0.5)
        sched.step()
        fresh = optimizer([1.0])
        other = module.StepLR(fresh, step_size=1, gamma=0.5)
        other.load_state_dict(sched.state_dict())
        assert other.get_last_lr() == [0.5] and rate(fresh) == restored


# m10: loading twice


def test_loading_twice_is_loading_once():
    opt = optimizer([1.0])
    sched = ours.CosineAnnealingLR(opt, T_max=10)
    for _ in range(4):
        sched.step()
    state = sched.state_dict()
    runs = []
    for times in (1, 2):
        fresh = optimizer([1.0])
        other = ours.CosineAnnealingLR(fresh, T_max=10)
        for _ in range(times):
            other.load_state_dict(state)
        runs.append(curve(fresh, other, 8))
    assert runs[0] == runs[1] == curve(opt, sched, 8)


# m12: compositions, and what crashes in torch


def inner_sequence(m, o):
    return m.SequentialLR(o, [m.ConstantLR(o, 0.5, 2), m.ExponentialLR(o, 0.5)], [2])


def chain(m, o):
    return m.ChainedScheduler([m.ExponentialLR(o, 0.5), m.ConstantLR(o, 0.5, 2)], o)


def then(first, second, at):
    """A sequence of two, of functions that make them."""
    return lambda m, o: m.SequentialLR(o, [first(m, o), second(m, o)], [at])


def of(name, *arguments, **options):
    return lambda m, o: getattr(m, name)(o, *arguments, **options)


class Trap(NamedTuple):
    """`torchs`: the rates with torch's class from the base rate on, or what it raises; `ours`: those here."""

    build: Callable[[Any, Any], Any]
    torchs: list[float] | type[Exception]
    ours: list[float]
    base: float = 1.0


WARMUP = of("LinearLR", 0.25, total_iters=3)
TRAPS = {
    "a sequence in a sequence": Trap(
        then(WARMUP, inner_sequence, 3), NotImplementedError, [0.25, 0.5, 0.75, 0.5, 0.5, 1.0, 0.5, 0.25]
    ),
    "a chain in a sequence": Trap(
        then(WARMUP, chain, 3), NotImplementedError, [0.25, 0.5, 0.75, 0.5, 0.25, 0.25, 0.125]
    ),
    # The first member starts a step late.
    "a chain that is the first member": Trap(
        then(chain, WARMUP, 3), [0.25, 0.125, 0.125], [0.5, 0.25, 0.25, 0.25, 0.5, 0.75]
    ),
    # Its milestones come one step early.
    "a sequence that is the first member": Trap(
        then(then(of("ConstantLR", 0.5, 9), of("ExponentialLR", 0.5), 3), of("ConstantLR", 0.125, 9), 5),
        [0.5, 0.5, 1.0, 0.5, 0.25, 0.125],
        [0.5, 0.5, 0.5, 1.0, 0.5, 0.125],
    ),
    # OneCycleLR overwrites initial_lr, from which the warmup then starts.
    "OneCycleLR in a sequence": Trap(
        then(of("LinearLR", 0.5, total_iters=2), of("OneCycleLR", 1.0, 10), 2),
        [0.02, 0.03, 0.04, 0.52, 1.0],
        [0.5, 0.75, 0.04, 0.52, 1.0],
    ),
    "a constant factor of zero": Trap(of("ConstantLR", 0.0, total_iters=2), ZeroDivisionError, [0, 0, 0.5, 0.5], 0.5),
    "a ramp of no steps in a sequence": Trap(
        then(of("StepLR", 9), of("LinearLR", 0.25, total_iters=0), 2), ZeroDivisionError, [0.5, 0.5, 0.125, 0.125], 0.5
    ),
    "a power of no steps in a sequence": Trap(
        then(of("StepLR", 9), of("PolynomialLR", total_iters=0), 2), ZeroDivisionError, [0.5] * 4, 0.5
    ),
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap(name):
    trap = TRAPS[name]
    opt = optimizer([trap.base])
    if isinstance(trap.torchs, list):
        assert curve(opt, trap.build(theirs, opt), len(trap.torchs)) == near(trap.torchs)
    else:
        with pytest.raises(trap.torchs):
            curve(opt, trap.build(theirs, opt), len(trap.ours))
    opt = optimizer([trap.base])
    assert curve(opt, trap.build(ours, opt), len(trap.ours)) == pytest.approx(trap.ours, rel=1e-15, abs=0.0)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_deep_composition_is_its_parts_put_in_place(depth):
    """Each member has, at its own step, what it has when it stands alone."""

    def build(opt, depth):
        warmup = ours.LinearLR(opt, start_factor=0.5, total_iters=4)
        if not depth:
            return warmup
        return ours.SequentialLR(opt, [build(opt, depth - 1), ours.StepLR(opt, 2, 0.5), build(opt, depth - 1)], [5, 9])

    def expected(t, depth):
        if not depth:
            return 0.5 + 0.5 * min(t, 4) / 4
        return expected(t, depth - 1) if t < 5 else 0.5 ** ((t - 5) // 2) if t < 9 else expected(t - 9, depth - 1)

    opt = optimizer([1.0])
    assert curve(opt, build(opt, depth), 30) == near([expected(t, depth) for t in range(30)])


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"total_steps": 10, "pct_start": 0.1}, {0: 1.0, 9: 4e-6}),
        ({"total_steps": 10, "pct_start": 1.0}, {0: 0.04, 9: 1.0, 10: 4e-6}),
        ({"total_steps": 10, "pct_start": 0.1, "three_phase": True}, {0: 0.04, 9: 4e-6}),
        ({"total_steps": 9, "pct_start": 10 / 18, "three_phase": True}, {0: 0.04, 4: 1.0, 8: 0.04, 9: 4e-6}),
    ],
)
def test_a_phase_of_no_width(arguments, expected):
    """torch: ZeroDivisionError, when built or at the last step. Ours: the phase is skipped."""
    with pytest.raises(ZeroDivisionError):
        opt = optimizer([0.5])
        curve(opt, theirs.OneCycleLR(opt, max_lr=1.0, **arguments), 11)
    opt = optimizer([0.5])
    steps = arguments["total_steps"] + 1
    values = curve(opt, ours.OneCycleLR(opt, max_lr=1.0, **arguments), steps)
    assert {t: values[t] for t in expected} == near(expected)
    with pytest.raises(ValueError, match=f"Tried to step {steps} times"):
        opt = optimizer([0.5])
        curve(opt, ours.OneCycleLR(opt, max_lr=1.0, **arguments), steps + 1)


# m13: drift


@pytest.mark.parametrize(
    "name, arguments, exact",
    [
        ("ExponentialLR", {"gamma": 0.9999}, lambda t: 0.9999**t),
        ("PolynomialLR", {"total_iters": 20_000, "power": 2.0}, lambda t: (1 - t / 20_000) ** 2),
        ("LinearLR", {"start_factor": 0.001, "total_iters": 20_000}, lambda t: 0.001 + 0.999 * t / 20_000),
    ],
)
def test_a_float32_rate_does_not_drift(name, arguments, exact):
    """torch: off by 1e-6 and more after 10,000 steps. Ours: one rounding."""
    for module, low, high in ((theirs, 1e-6, 1.0), (ours, 0.0, 1e-7)):
        opt = optimizer([torch.tensor(1.0)])
        sched = getattr(module, name)(opt, **arguments)
        for _ in range(10_000):
            sched.step()
        assert low <= abs(rate(opt) / exact(10_000) - 1) <= high, module.__name__


# What is odd in torch and kept


def built_up_front(m, o):
    """It is stepped later, and starts from the rate of then."""
    sched = getattr(m, "SWALR", SWALR)(o, swa_lr=0.5, anneal_epochs=2, anneal_strategy="linear")
    o.param_groups[0]["lr"] = 2.0
    return sched


KEPT = {
    "the climb past T_max": (of("CosineAnnealingLR", T_max=4), lambda rates: rates[8] == near(1.0)),
    "the jump of a warmup that is cut short": (
        then(of("LinearLR", 0.1, 1.0, 10), of("ExponentialLR", 0.5), 3),
        lambda rates: rates[:5] == near([0.1, 0.19, 0.28, 1.0, 0.5]),
    ),
    "a rate below zero": (
        of("OneCycleLR", 1.0, total_steps=10, three_phase=True, anneal_strategy="linear"),
        lambda rates: rates[10] < 0,
    ),
    "a total_iters of 0": (of("ConstantLR", 0.25, total_iters=0), lambda rates: rates == [0.25] * 11),
    "an SWALR that is built up front": (built_up_front, lambda rates: rates[:4] == near([2.0, 1.25, 0.5, 0.5])),
}


@pytest.mark.parametrize("name", KEPT)
@as_torch(bound=1e-11)
def test_what_is_kept(m, name):
    build, is_odd = KEPT[name]
    opt = optimizer([1.0])
    rates = curve(opt, build(m, opt), 11)
    assert is_odd(rates)
    return rates


@pytest.mark.parametrize("row", SCHEDULERS, ids=lambda row: row.name)
def test_a_subclass_that_keeps_its_counter_elsewhere(row):
    """`last_epoch` may be a property of a user's class."""
    curves = []
    for base in (row.theirs, row.ours):
        own = type("Own", (base,), {"last_epoch": property(lambda s: s.at, lambda s, value: setattr(s, "at", value))})
        opt = optimizer([0.3, 0.2])
        curves.append(curve(opt, own(opt, **arguments_of(row)), 12))
    assert curves[1] == near(curves[0])


# what user code changes between two steps


@pytest.mark.parametrize("name", ["StepLR", "CosineAnnealingWarmRestarts", "SequentialLR"])
def test_a_method_that_is_set_on_a_class_later_is_obeyed(name):
    """Law: as in torch, from the next step on; in a composition too, and until it is deleted again."""
    ends = []
    for module in (ours, theirs):
        kind = type("Mine", (module.StepLR if name == "SequentialLR" else getattr(module, name),), {})
        opt = optimizer([1.0])
        sched = kind(opt, 3)
        if name == "SequentialLR":
            sched = module.SequentialLR(opt, [module.ConstantLR(opt, 0.5, 3), sched], [2])
        rates = curve(opt, sched, 5)
        kind.get_lr = lambda self: [0.25 / (1 + self.last_epoch)]
        rates += curve(opt, sched, 4)
        del kind.get_lr
        ends.append(rates + curve(opt, sched, 5))
    assert ends[0] == near(ends[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("row", [row for row in SCHEDULERS if row.recomputes], ids=lambda row: row.name)
def test_a_number_in_the_place_of_a_tensor_stays_a_number(row, dtype):
    """torch writes tensors from then on, since base rates are. The rates are the same."""
    ends = []
    for package in ("ours", "theirs"):
        opt = optimizer([torch.tensor(0.3, dtype=dtype)])
        sched = getattr(row, package)(opt, **arguments_of(row, 1))
        curve(opt, sched, 3)
        opt.param_groups[0]["lr"] = 0.1
        rates = curve(opt, sched, 4)[1:]
        if row.name == "CosineAnnealingWarmRestarts":
            sched.step(5.5)
            rates += curve(opt, sched, 3)
        ends.append(rates)
        assert package == "theirs" or {type(opt.param_groups[0]["lr"]), type(sched.get_last_lr()[0])} == {float}
    assert ends[0] == pytest.approx(ends[1], rel=1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("growth", [1, 2, 3])
def test_get_lr_of_restarts_has_the_bits_of_step(growth):
    """Law: tools compare them (ignite asks for `get_lr()` of the step that was made)."""
    opt = optimizer([0.3, 0.017])
    sched = ours.CosineAnnealingWarmRestarts(opt, 7, growth, eta_min=0.013)
    for _ in range(300):
        with theirs._enable_get_lr_call(sched):
            assert sched.get_lr() == [rate(opt), rate(opt, 1)] == sched.get_last_lr()
        sched.step()
