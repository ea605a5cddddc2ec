# SPDX-License-Identifier: Apache-2.0
"""The traps of torch's schedulers: each test shows torch falling into one, so that we notice when it no longer does,
and what we do instead."""

import pytest
import torch
from cases_lr_schedulers import SCHEDULERS, arguments_of, curve, near, optimizer, rate
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


# m12: compositions


def test_a_sequence_in_a_sequence():
    """torch: NotImplementedError at the milestone. Ours: the member starts afresh."""

    def build(module):
        opt = optimizer([1.0])
        inner = module.SequentialLR(
            opt, [module.ConstantLR(opt, factor=0.5, total_iters=2), module.ExponentialLR(opt, gamma=0.5)], [2]
        )
        return opt, module.SequentialLR(opt, [module.LinearLR(opt, start_factor=0.25, total_iters=3), inner], [3])

    opt, sched = build(theirs)
    with pytest.raises(NotImplementedError):
        curve(opt, sched, 8)
    opt, sched = build(ours)
    assert curve(opt, sched, 8) == near([0.25, 0.5, 0.75, 0.5, 0.5, 1.0, 0.5, 0.25])


def test_a_chain_in_a_sequence():
    """torch: NotImplementedError at the milestone, and a first member that starts a step late."""

    def build(module, chain_first):
        opt = optimizer([1.0])
        chain = module.ChainedScheduler([module.ExponentialLR(opt, gamma=0.5), module.ConstantLR(opt, 0.5, 2)], opt)
        other = module.LinearLR(opt, start_factor=0.25, total_iters=3)
        return opt, module.SequentialLR(opt, [chain, other] if chain_first else [other, chain], [3])

    opt, sched = build(theirs, chain_first=False)
    with pytest.raises(NotImplementedError):
        curve(opt, sched, 6)
    opt, sched = build(theirs, chain_first=True)
    assert curve(opt, sched, 3) == near([0.25, 0.125, 0.125])
    opt, sched = build(ours, chain_first=True)
    assert curve(opt, sched, 6) == near([0.5, 0.25, 0.25, 0.25, 0.5, 0.75])
    opt, sched = build(ours, chain_first=False)
    assert curve(opt, sched, 7) == near([0.25, 0.5, 0.75, 0.5, 0.25, 0.25, 0.125])


def test_a_first_member_that_is_a_sequence():
    """torch: its milestones come one step early."""

    def build(module):
        opt = optimizer([1.0])
        inner = module.SequentialLR(
            opt, [module.ConstantLR(opt, factor=0.5, total_iters=9), module.ExponentialLR(opt, gamma=0.5)], [3]
        )
        return opt, module.SequentialLR(opt, [inner, module.ConstantLR(opt, factor=0.125, total_iters=9)], [5])

    assert curve(*build(theirs), 6) == near([0.5, 0.5, 1.0, 0.5, 0.25, 0.125])
    assert curve(*build(ours), 6) == near([0.5, 0.5, 0.5, 1.0, 0.5, 0.125])


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_deep_composition_is_its_parts_put_in_place(depth):
    """Law: each member has, at its own step, what it has when it stands alone."""

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


def test_one_cycle_in_a_sequence():
    """torch: OneCycleLR overwrites initial_lr, from which the warmup then starts: 0.02, 0.03 instead of 0.5, 0.75."""
    for module, warmup in ((theirs, [0.02, 0.03]), (ours, [0.5, 0.75])):
        opt = optimizer([1.0])
        members = [module.LinearLR(opt, start_factor=0.5, total_iters=2), module.OneCycleLR(opt, 1.0, 10)]
        sched = module.SequentialLR(opt, members, [2])
        assert curve(opt, sched, 3) == near([*warmup, 0.04])
        assert curve(opt, sched, 3) == near([0.04, 0.52, 1.0])


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


# What crashes in torch


def test_a_constant_factor_of_zero():
    for module in (theirs, ours):
        opt = optimizer([0.5])
        sched = module.ConstantLR(opt, factor=0.0, total_iters=2)
        if module is theirs:
            with pytest.raises(ZeroDivisionError):
                curve(opt, sched, 4)
        else:
            assert curve(opt, sched, 4) == [0.0, 0.0, 0.5, 0.5]


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


@pytest.mark.parametrize("name, first", [("LinearLR", 0.125), ("PolynomialLR", 0.5)])
def test_no_steps_at_all_in_a_sequence(name, first):
    """torch: total_iters=0 divides by zero at a milestone."""
    for module in (theirs, ours):
        opt = optimizer([0.5])
        options = {"start_factor": 0.25} if name == "LinearLR" else {}
        members = [module.StepLR(opt, 9), getattr(module, name)(opt, total_iters=0, **options)]
        sched = module.SequentialLR(opt, members, [2])
        if module is theirs:
            with pytest.raises(ZeroDivisionError):
                curve(opt, sched, 4)
        else:
            assert curve(opt, sched, 4) == [0.5, 0.5, first, first]


# What is odd in torch and kept


def test_what_is_kept():
    """The climb past T_max, the jump of a warmup cut short, a OneCycle rate below zero, a total_iters of 0."""
    for module in (theirs, ours):
        opt = optimizer([1.0])
        assert curve(opt, module.CosineAnnealingLR(opt, T_max=4), 9)[8] == near(1.0)
        opt = optimizer([1.0])
        sched = module.SequentialLR(opt, [module.LinearLR(opt, 0.1, 1.0, 10), module.ExponentialLR(opt, 0.5)], [3])
        assert curve(opt, sched, 5) == near([0.1, 0.19, 0.28, 1.0, 0.5])
        opt = optimizer([1.0])
        sched = module.OneCycleLR(opt, 1.0, total_steps=10, three_phase=True, anneal_strategy="linear")
        assert curve(opt, sched, 11)[10] < 0
        opt = optimizer([1.0])
        assert curve(opt, module.ConstantLR(opt, 0.25, total_iters=0), 4) == [0.25] * 4
        opt = optimizer([1.0])
        swa = (SWALR if module is theirs else ours.SWALR)(opt, swa_lr=0.5, anneal_epochs=2, anneal_strategy="linear")
        opt.param_groups[0]["lr"] = 2.0  # built up front, stepped later: it starts from the present rate
        assert curve(opt, swa, 4) == near([2.0, 1.25, 0.5, 0.5])


@pytest.mark.parametrize("row", SCHEDULERS, ids=lambda row: row.name)
def test_a_subclass_that_keeps_its_counter_elsewhere(row):
    """Law: `last_epoch` may be a property of a user's class."""
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
