# SPDX-License-Identifier: Apache-2.0
"""Properties of the conventions of named schedules: what holds past the end, where the final value is reached, never
below zero, how a warmup starts, what the total counts; and a catalogue that is complete."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from cases import named
from cases_schedules import SCHEDULES, T, W
from mpmath import mp
from test_evaluators import MOST_ULP, clocks_of, worst_ulp

from fusedsched import schedules as S

# Every way to end: (flags) -> schedule of 20 updates whose final value is 0.25.
ENDING = {
    "linear": lambda **flags: S.linear(1, 0.25, 20, **flags),
    "cosine": lambda **flags: S.cosine(1, 0.25, 20, **flags),
    "polynomial": lambda **flags: S.polynomial(1, 0.25, 20, 3, **flags),
    "warmup_cosine": lambda **flags: S.warmup_cosine(1, 5, 20, 0.25, **flags),
    "warmup_linear": lambda **flags: S.warmup_linear(1, 5, 20, final_ratio=0.25, **flags),
    "warmup_linear-after": lambda **flags: S.warmup_linear(1, 5, 15, 0.25, decay_anchor="after_warmup", **flags),
    "warmup_stable_decay": lambda **flags: S.warmup_stable_decay(1, 5, 5, 10, 0.25, "1-sqrt", **flags),
    "one_cycle": lambda **flags: S.one_cycle(1, 20, div_factor=2, final_div_factor=2, **flags),
}
NAMES = (
    "constant linear cosine polynomial exponential step multistep inverse_sqrt inverse_time noam cyclic one_cycle "
    "one_cycle_momentum cosine_restarts warmup_cosine warmup_linear warmup_stable_decay warmup from_function "
    "from_torch join product"
).split()


def test_the_catalogue_is_complete_and_every_name_is_in_the_table():
    for name in NAMES:
        docs = inspect.getdoc(getattr(S, name))
        assert docs and ">>>" in docs, f"{name} has no doctest"
        if name != "from_torch":  # it has a table of its own
            assert any(key.startswith(name) for key in SCHEDULES), f"{name} has no row"


@pytest.mark.parametrize("make", named(ENDING))
def test_end_says_which_update_reaches_the_final_value(make):
    exclusive, inclusive = make(end="exclusive"), make(end="inclusive")
    assert exclusive(20) == 0.25 < exclusive(19)
    assert inclusive(19) == 0.25 < inclusive(18)


@pytest.mark.parametrize("make", named(ENDING))
@pytest.mark.parametrize("end", ["exclusive", "inclusive"])
def test_past_the_end(make, end):
    hold, cycle, error = (make(end=end, past_end=past) for past in ("hold", "cycle", "error"))
    first = hold.curve(20)
    assert hold(10**12) == 0.25 and hold.lower().horizon == -1
    assert cycle.curve(60) == first * 3
    last = 20 if end == "exclusive" else 19
    assert error.curve(last + 1) == hold.curve(last + 1) and error.lower().horizon == last
    with pytest.raises(ValueError, match=rf"t = 0 .. {last} .*got t = {last + 1}"):
        error(last + 1)


@pytest.mark.parametrize("case", named(SCHEDULES))
def test_never_below_zero_and_always_finite(case):
    schedule = case.make()
    assert schedule.check("lr") is schedule
    values = [schedule(c) for c in clocks_of(case.edges)]
    assert all(math.isfinite(v) and v >= 0.0 for v in values)


@pytest.mark.parametrize("make", [S.warmup_cosine, S.warmup_linear])
def test_warmup_conventions(make):
    default, zero, other = make(2.0, 4, 10), make(2.0, 4, 10, warmup_from=0.0), make(2.0, 4, 10, warmup_from=1.0)
    assert default.curve(5) == [0.5, 1.0, 1.5, 2.0, 2.0], "never zero, the peak at u = W-1 and the first decay value"
    assert zero.curve(5) == [0.0, 0.5, 1.0, 1.5, 2.0], "as Hugging Face"
    assert other.curve(5) == [1.0, 1.25, 1.5, 1.75, 2.0]


@pytest.mark.parametrize("make", [S.warmup_cosine, S.warmup_linear])
def test_decay_anchor_says_whether_the_total_counts_the_warmup(make):
    assert make(1.0, 4, 10).curve(12) == make(1.0, 4, 6, decay_anchor="after_warmup").curve(12)
    make(1.0, 11, 10, decay_anchor="after_warmup")  # would be too long a warmup if the total counted it


def test_warmup_operator_equals_the_named_one():
    assert (S.warmup(4) >> S.cosine(0.3, 0.1, 6)).curve(12) == S.warmup_cosine(0.3, 4, 10, 0.1).curve(12)
    joined = S.join([S.linear(0, 0.3, 4), S.cosine(0.3, 0.1, 6)], [4])
    assert joined.curve(12) == S.warmup_cosine(0.3, 4, 10, 0.1, warmup_from=0.0).curve(12)


@pytest.mark.parametrize("unit", ["update", "sample", "token"])
def test_the_unit_is_carried_and_does_not_change_values(unit):
    makers = [
        lambda **u: S.linear(1, 0, 9, **u),
        lambda **u: S.exponential(1, 0.5, **u),
        lambda **u: S.exponential(1, 0.5, steps=3, **u),
        lambda **u: S.step(1, 3, **u),
        lambda **u: S.multistep(1, [3], **u),
        lambda **u: S.inverse_time(1, 0.5, **u),
        lambda **u: S.inverse_sqrt(1, 3, **u),
        lambda **u: S.noam(4, 3, **u),
        lambda **u: S.cyclic(0, 1, 3, **u),
        lambda **u: S.one_cycle(1, 9, **u),
        lambda **u: S.one_cycle_momentum(9, **u),
        lambda **u: S.cosine_restarts(1, 0, 3, **u),
        lambda **u: S.cosine_restarts(1, 0, 3, 2, **u),
        lambda **u: S.warmup_cosine(1, 3, 9, **u),
        lambda **u: S.warmup_linear(1, 3, 9, **u),
        lambda **u: S.warmup_stable_decay(1, 3, 9, 9, **u),
        lambda **u: S.warmup(3, **u),
        lambda **u: S.from_function(float, 12, **u),
    ]
    for make in makers:
        assert make(unit=unit).unit == unit and make(unit=unit).curve(12) == make().curve(12)


def test_from_function_calls_once_per_step_in_order():
    seen = []
    schedule = S.from_function(lambda t: seen.append(t) or 0.5, 7)
    assert seen == list(range(7)) and schedule.curve(7) == [0.5] * 7 and len(seen) == 7
    with pytest.raises(ValueError, match="past_end='hold'"):
        schedule(7)


def test_torch_one_cycle_and_its_momentum():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0, momentum=0.9)
    for options in ({}, {"three_phase": True}, {"anneal_strategy": "linear", "pct_start": 0.37}):
        twin = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=50, **options)
        lr, momentum = S.one_cycle(0.5, 50, **options), S.one_cycle_momentum(50, **options)
        for t in range(50):
            group = optimizer.param_groups[0]
            assert lr(t) == pytest.approx(group["lr"], abs=5e-12), t
            assert momentum(t) == pytest.approx(group["momentum"], abs=1e-11), t
            optimizer.step()
            if t < 49:
                twin.step()


def test_the_properties_can_fail():
    with mp.workdps(60):
        case = SCHEDULES["warmup_cosine"]
        late = S.warmup_cosine(0.3, W + 1, T, 0.03)
        inclusive = S.warmup_cosine(0.3, W, T, 0.03, end="inclusive")
        climbing = S.join([S.Segment(S.Shape.COSINE, span=T, start=0.3)], [])
        clocks = clocks_of(case.edges)
        for wrong in (late, inclusive, climbing):
            assert worst_ulp(case, [wrong(c) for c in clocks], clocks) > MOST_ULP
