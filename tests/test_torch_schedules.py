# SPDX-License-Identifier: Apache-2.0
"""Whatever is done to a drop-in scheduler and to its optimizer, the groups have what torch's class would have
written, to 1e-11 of the largest number involved; and what the compiled driver writes, the Python one writes too.
"""

import random

import numpy as np
import pytest
import torch
from cases_lr_schedulers import SCHEDULERS, SEED, numbers, optimizer
from scheduler_pairs import BOUND, Pair, check_edits, compose, edit, exactly_cosine, random_case
from tiers import full

from fusedsched import _native, lr_scheduler
from fusedsched.lr_scheduler import driver

STEPS = 10_000
COMPILED = getattr(_native.module(), "HostDriver", None)
named = pytest.mark.parametrize("row", SCHEDULERS, ids=lambda row: row.name)


@pytest.fixture(params=["python", "compiled"])
def driver_class(request, monkeypatch):
    """Runs a property on both host drivers."""
    if request.param == "compiled" and COMPILED is None:
        pytest.skip("fusedsched._C has not been built")
    kind = {"python": driver.PythonHostDriver, "compiled": COMPILED}[request.param]
    monkeypatch.setattr(driver, "host_driver_class", lambda: kind)
    return kind


@named
@pytest.mark.parametrize("draw", [0, full(1)])
def test_ten_thousand_steps(row, draw, driver_class):
    """The curve of every class, of any configuration, is torch's."""
    pair, arguments = random_case(random.Random(SEED + draw), row)
    judge = exactly_cosine(pair, arguments)
    for t in range(STEPS):
        pair.compare(judge=judge)
        if t == 3 and row.closed_form:
            assert type(pair.scheds[0][0]._driver) is driver_class, "the fast path was not taken"
        if not pair.step():
            break


def test_cosine_after_many_low_points(driver_class):
    """Where torch's recursion drifts beyond the bound, ours is closer to the formula in extended precision."""
    row = next(r for r in SCHEDULERS if r.name == "CosineAnnealingLR")
    pair, arguments = Pair([0.7]), {"T_max": 3_000, "eta_min": 0.4}
    pair.add(row, arguments)
    judge, drifted = exactly_cosine(pair, arguments), 0
    for _ in range(STEPS):
        pair.step()
        pair.compare(judge=judge)
        drifted += abs(numbers(pair.opts[1])[0][0] - judge(0)) > BOUND * 0.7
    assert drifted, "torch has stopped drifting; this test shows nothing any more"


@named
@pytest.mark.parametrize("draw", range(4))
def test_edits(row, draw, driver_class):
    """An edit of group["lr"] between steps has torch's effect, class by class."""
    check_edits(row, draw)


@named
def test_changed_settings(row, driver_class):
    """Changing an attribute, a base rate or the step by hand takes effect as in torch."""
    rng = random.Random(SEED + 200)
    pair, _ = random_case(rng, row, kind="sgd")
    for t in range(120):
        if t == 30:
            pair.do(lambda _, scheds: scheds[0].base_lrs.__setitem__(0, 0.6))
        if t == 60:
            pair.do(lambda _, scheds: setattr(scheds[0], "last_epoch", 3))
        if t == 80:
            for name, new in (("gamma", 0.9), ("T_max", 31), ("end_factor", 0.5), ("T_i", 40), ("power", 2.0)):
                if hasattr(pair.scheds[1][0], name):
                    pair.do(lambda _, scheds, name=name, new=new: setattr(scheds[0], name, new))
        if t == 90 and row.name in ("SWALR", "OneCycleLR"):
            pair.do(lambda opt, _: opt.param_groups[0].update(swa_lr=0.77, min_lr=0.03))
        if t == 100 and hasattr(pair.scheds[1][0], "milestones"):
            pair.do(lambda _, scheds: scheds[0].milestones.update([110, 110]))
        if not pair.step():
            break
        pair.compare(1e-9)


@pytest.mark.parametrize("row", [r for r in SCHEDULERS if r.takes_epoch], ids=lambda row: row.name)
def test_absolute_time(row, driver_class):
    """`step(epoch)` goes where torch goes, fractions included where torch documents them; step() goes on there."""
    rng = random.Random(SEED + 300)
    pair, _ = random_case(rng, row)
    for _ in range(300):
        epoch = rng.randint(0, 400)
        if row.name == "CosineAnnealingWarmRestarts" and rng.random() < 0.5:
            epoch += rng.choice([0.5, 0.25, rng.random()])
        assert pair.step(0, *([epoch] if rng.random() < 0.1 else []))
        pair.compare(1e-9)


@pytest.mark.parametrize("draw", range(8))
def test_several_at_once(draw, driver_class):
    """Schedulers that alternate on one optimizer see each other's writes as torch's do."""
    rng = random.Random(SEED + 400 + draw)
    groups = rng.randint(1, 3)
    pair = Pair([rng.uniform(0.1, 1.0) for _ in range(groups)])
    for row in rng.sample(SCHEDULERS, 3):
        pair.add(row, row.configure(rng, groups))
    for _ in range(200):
        if not pair.step(rng.randrange(3)):
            break
        pair.compare(1e-9)


@pytest.mark.parametrize("draw", [*range(8), *map(full, range(8, 25))])
def test_compositions(draw, driver_class):
    """SequentialLR and ChainedScheduler, nested as far as torch can, with edits in between."""
    rng = random.Random(SEED + 500 + draw)
    pair = Pair([rng.uniform(0.1, 1.0) for _ in range(2)])
    state = rng.getstate()
    for opt, scheds, module in zip(pair.opts, pair.scheds, (lr_scheduler, torch.optim.lr_scheduler), strict=True):
        rng.setstate(state)
        scheds.append(compose(rng, opt, module, 2))
    for _ in range(250):
        if rng.random() < 0.02:
            edit(rng, pair)
        pair.step()
        pair.compare(1e-9)


@pytest.mark.parametrize("shape", [(), (1,)], ids=["0-dim", "1-dim"])
@named
def test_tensor_rates(row, shape, driver_class):
    """A tensor rate stays that tensor. In float64 it has torch's values; in float32 ours is the rounded float64
    one, and so never further from the truth than torch's recursion in float32 by more than a rounding."""
    for dtype, bound in ((torch.float64, BOUND), (torch.float32, None)):
        rng = random.Random(SEED + 600)
        base = rng.uniform(0.05, 0.5)
        pair = Pair([torch.full(shape, base, dtype=dtype)])
        exact = optimizer([float(torch.tensor(base, dtype=dtype))])
        arguments = row.configure(rng, 1)
        pair.add(row, arguments)
        truth = row.ours(exact, **arguments)
        before = pair.opts[0].param_groups[0]["lr"]
        for _ in range(500):
            if not pair.step():
                break
            truth.step()
            (mine,), (other,), (true,) = map(numbers, (*pair.opts, exact))
            if bound is None:
                slack = 4e-7 * max(abs(true[0]), 1e-30) if row.closed_form else 1e-4 * pair.peak
                assert abs(mine[0] - true[0]) <= max(slack, abs(other[0] - true[0])), (mine, other, true)
            else:
                pair.compare(bound)
            last = pair.scheds[0][0].get_last_lr()[0]
            assert last is not before and last.shape == shape and last == before
        assert pair.opts[0].param_groups[0]["lr"] is before and before.dtype == dtype


@pytest.mark.parametrize(
    "outer, inner", [(lr_scheduler, torch.optim.lr_scheduler), (torch.optim.lr_scheduler, lr_scheduler)]
)
@pytest.mark.parametrize("kind", ["sequence", "chain"])
def test_mixed_with_torch(outer, inner, kind, driver_class):
    """Members of one package in a composition of the other."""
    runs = []
    for whole, parts in ((outer, inner), (torch.optim.lr_scheduler,) * 2):
        opt, seen = optimizer([1, 0.2]), []  # 1 is an integer: torch's arithmetic makes a float of it
        members = [parts.LinearLR(opt, 0.25, 1.0, 9), parts.CosineAnnealingLR(opt, 20, 0.01), parts.StepLR(opt, 4)]
        if kind == "sequence":
            sched = whole.SequentialLR(opt, members, [7, 30])
        else:
            sched = whole.ChainedScheduler(members, opt)
        for _ in range(60):
            sched.step()
            seen.append(numbers(opt))
        runs.append(seen)
    assert np.allclose(*runs, rtol=1e-11, atol=1e-14)
