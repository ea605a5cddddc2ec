# SPDX-License-Identifier: Apache-2.0
"""ReduceLROnPlateau and GreedyLR inside SequentialLR and ChainedScheduler, where torch refuses them.

Judged by torch's own schedulers, each stepped by hand when it is its turn.
"""

import copy
import random
from pathlib import Path

import pytest
import torch
from cases_metric import Oracle, groups_of, series

from fusedsched import lr_scheduler as L, schedules as S

T = torch.optim.lr_scheduler
LRS = (0.4, 0.2)
PLATEAU = dict(patience=1, factor=0.5, cooldown=1, min_lr=0.02)
GREEDY = dict(mode="min", threshold_mode="abs", factor=0.5, patience=0, cooldown=1, warmup=0, threshold=1e-6, eps=1e-8,
              min_lr=0.05, max_lr=0.9, smooth=True, window_size=3, reset_start=2)  # fmt: skip


def optimizer(make, lrs=LRS):
    opt = make("SGD", groups_of(lrs), lr=0.1)
    opt.step()
    return opt


def theirs(lrs=LRS):
    return torch.optim.SGD(groups_of(lrs), lr=0.1)


def rates(opt):
    return [float(group["lr"]) for group in opt.param_groups]


def warmed(opt, last=None):
    warmup = L.LinearLR(opt, 0.25, total_iters=3)
    return L.SequentialLR(opt, [warmup, last or L.ReduceLROnPlateau(opt, **PLATEAU)], [3])


def test_warmup_then_plateau(product):
    for seed in range(20):
        opt, other = optimizer(product), theirs()
        sched = warmed(opt)
        warmup, plateau = T.LinearLR(other, 0.25, total_iters=3), None
        other.step()
        for t, metric in enumerate(series(random.Random(seed), 20), start=1):
            sched.step() if t <= 3 else sched.step(torch.tensor(metric, dtype=torch.float64))
            if t < 3:
                warmup.step()
            elif t == 3:  # the base rates; no metric has been seen
                for group in other.param_groups:
                    group["lr"] = group["initial_lr"]
                plateau = T.ReduceLROnPlateau(other, **PLATEAU)
            else:
                plateau.step(metric)
            assert rates(opt) == pytest.approx(rates(other), rel=1e-14)
            assert sched.get_last_lr() == rates(opt) and sched.last_epoch == t
            for one in (opt, other):
                one.step()
        member = sched._schedulers[1]
        names = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
        assert repr([getattr(member, n) for n in names]) == repr([getattr(plateau, n) for n in names])


def test_a_chain_hands_the_metric_on(product):
    """Each works from the rate that the one before it leaves."""
    for seed in range(20):
        opt, other = optimizer(product), theirs()
        sched = L.ChainedScheduler([L.ExponentialLR(opt, 0.95), L.ReduceLROnPlateau(opt, **PLATEAU), L.StepLR(opt, 4)])
        alone = [T.ExponentialLR(other, 0.95), T.ReduceLROnPlateau(other, **PLATEAU), T.StepLR(other, 4)]
        other.step()
        for metric in series(random.Random(seed), 20):
            sched.step(metric)
            for member in alone:
                member.step(metric) if member is alone[1] else member.step()
            assert rates(opt) == pytest.approx(rates(other), rel=1e-12)
            assert sched.get_last_lr() == rates(opt)


def test_greedy_starts_over_from_the_base_rates(product):
    """Though it was built while the warmup had the rates."""
    opt = optimizer(product)
    warmup = L.LinearLR(opt, 0.25, total_iters=3)
    sched, oracle = L.SequentialLR(opt, [warmup, L.GreedyLR(opt, **GREEDY)], [3]), Oracle(LRS, **GREEDY)
    for _ in range(3):
        sched.step()
    for metric in (3.0, 2.0, 2.0, 5.0, 5.0, 5.0, 5.0, 6.0, 7.0, 8.0, 9.0, 9.0, 9.0):
        sched.step(metric)
        oracle.step(metric)
        assert rates(opt) == oracle.lrs


@pytest.mark.parametrize("place", ["first", "middle", "nested"])
def test_any_place(product, place):
    opt = optimizer(product, [0.4])
    plateau = L.ReduceLROnPlateau(opt, patience=0, factor=0.5)
    if place == "first":
        sched, expected = L.SequentialLR(opt, [plateau, L.ExponentialLR(opt, 0.5)], [3]), [0.4, 0.2, 0.4, 0.2, 0.1]
    elif place == "middle":
        parts = [L.ConstantLR(opt, 0.5, 9), plateau, L.ConstantLR(opt, 0.25, 9)]
        sched, expected = L.SequentialLR(opt, parts, [1, 4]), [0.4, 0.4, 0.2, 0.1, 0.1]
    else:
        inner = L.SequentialLR(opt, [L.ConstantLR(opt, 0.5, 9), plateau], [1])
        sched, expected = L.SequentialLR(opt, [L.ConstantLR(opt, 0.1, 9), inner], [2]), [0.04, 0.2, 0.4, 0.4, 0.2]
    seen = []
    for _ in range(5):
        sched.step(1.0)
        seen += rates(opt)
    assert seen == pytest.approx(expected)


@pytest.mark.parametrize("at", [2, 3, 4, 7])
def test_saved_and_gone_on_with(product, at):
    opt = optimizer(product)
    sched = warmed(opt)
    metrics = [2.0, 2.0, 2.0, 2.0, 3.0, 1.0, 3.0, 3.0, 3.0, 3.0]
    for metric in metrics[:at]:
        sched.step(metric)
    states = copy.deepcopy((opt.state_dict(), sched.state_dict()))
    fresh = optimizer(product)
    other = warmed(fresh)
    fresh.load_state_dict(states[0])
    other.load_state_dict(states[1])
    twin = copy.deepcopy(sched)
    for metric in metrics[at:]:
        for one in (sched, other, twin):
            one.step(metric)
        assert rates(opt) == rates(fresh) == rates(twin.optimizer)


def test_a_missing_metric_changes_nothing(product):
    opt = optimizer(product)
    chain = L.ChainedScheduler([L.ExponentialLR(opt, 0.5), L.ReduceLROnPlateau(opt)])
    before = copy.deepcopy((rates(opt), chain.state_dict()))
    with pytest.raises(TypeError, match="^ChainedScheduler.step.. needs a metric now: ReduceLROnPlateau follows one"):
        chain.step()
    with pytest.raises(TypeError, match="ChainedScheduler.step.. takes the metric as a number"):
        chain.step("much")
    assert (rates(opt), chain.state_dict()) == before
    sched = warmed(optimizer(product))
    for _ in range(3):
        sched.step()
    before = copy.deepcopy(sched.state_dict())
    with pytest.raises(TypeError, match="^SequentialLR.step.. needs a metric now: ReduceLROnPlateau follows one"):
        sched.step()
    assert sched.state_dict() == before


def test_what_has_no_answer_is_refused(product):
    opt = optimizer(product)
    sched = warmed(opt)
    before = rates(opt)
    for build in (
        lambda: L.SequentialLR(opt, sched._schedulers, [3], last_epoch=5),
        lambda: sched.expressions(steps=9),
        lambda: S.from_torch(L.GreedyLR(opt), steps=9),
    ):
        with pytest.raises(ValueError, match="metric"):
            build()
        assert rates(opt) == before
    L.SequentialLR(opt, sched._schedulers, [3], last_epoch=1)
    assert rates(opt) == pytest.approx([0.3, 0.15])


def test_torch_refuses_them():
    """The trouble that is gone here."""
    opt = theirs()
    for build in (
        lambda: T.SequentialLR(opt, [T.LinearLR(opt), T.ReduceLROnPlateau(opt)], [3]),
        lambda: T.ChainedScheduler([T.ReduceLROnPlateau(opt)]),
    ):
        with pytest.raises(ValueError, match="does not support `ReduceLROnPlateau`"):
            build()
    assert L.ChainedScheduler([T.ReduceLROnPlateau(opt, patience=0)]).step(1.0) is None  # torch's own may be a member


def test_the_page_about_them_runs_as_printed():
    page = Path(__file__).parents[1] / "docs" / "metric-schedulers.md"
    if not page.exists():
        pytest.skip("needs the source tree")
    script = page.read_text().split("```python\n")[1].split("```")[0]
    names = {}
    exec(compile(script, page.name, "exec"), names)
    assert names["plateau"].last_epoch == 190
