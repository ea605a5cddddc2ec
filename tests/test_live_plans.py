# SPDX-License-Identifier: Apache-2.0
"""Properties of plans that change under way: no jump, the end where it was promised, closed form, torch's recursion
where there is one. And mutants, which show that the properties can fail.
"""

import copy
import warnings

import pytest
import torch
from cases_live_plans import ARRIVED, AT, BAD, NEW, OLD, SCHEDULERS, WITH_AN_END, advance, scheduled, seeded
from cases_lr_schedulers import SCHEDULERS as CLASSES, near, numbers, optimizer, rate
from scheduler_pairs import random_case
from torch.optim import lr_scheduler as theirs

from fusedsched import lr_scheduler as L, schedules as S
from fusedsched.lr_scheduler import driver, replan
from fusedsched.schedules import torch_classes

pytestmark = pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")  # torch says it of copies, once
named = pytest.mark.parametrize("name", SCHEDULERS)
ENDING = [row for row in CLASSES if getattr(torch_classes.CLASSES.get(row.name), "end", None) is not None]


def check_torchs_recursion(row, draw):
    """With another end, a class does what torch's does whose attribute is set to that."""
    rng = seeded(draw)
    pair, _ = random_case(rng, row)
    for _ in range(3):
        for _ in range(rng.randint(0, 30)):
            if not pair.step():
                return
        (mine,), (other,) = pair.scheds
        before, end = numbers(pair.opts[0]), mine.last_epoch + rng.randint(1, 60)
        try:
            mine.extend(end)
        except ValueError as error:
            assert "at its end" in str(error) and numbers(pair.opts[0]) == before
            return
        setattr(other, torch_classes.CLASSES[row.name].end, end)
        for _ in range(rng.choice([1, 5, 90])):
            pair.step()
            pair.compare(1e-9)


@pytest.mark.parametrize("row", [row for row in ENDING if row.name != "OneCycleLR"], ids=lambda row: row.name)
@pytest.mark.parametrize("draw", range(12))
def test_extend_is_torchs_recursion_on_the_new_attribute(row, draw):
    check_torchs_recursion(row, draw)


@pytest.mark.parametrize("name", WITH_AN_END)
@pytest.mark.parametrize("end", [NEW, OLD - 9])
def test_the_end_comes_when_it_was_promised(name, end):
    """What the last step of the plain run has, the last step of the other one has too, where the class says so."""
    opt, sched = scheduled(name)
    advance(sched, OLD - AT - 1 if "OneCycle" in name else OLD - AT)
    expected = numbers(opt)
    opt, sched = scheduled(name)
    sched.extend(end)
    advance(sched, end - AT - 1 if "OneCycle" in name else end - AT)
    if name not in (
        "LinearLR",
        "ConstantLR",
        "ChainedScheduler with an end",
    ):  # they end at a part of what they come from
        bound = 1e-15 if "three" in name else 0  # a line whose span is a fraction may end one rounding off
        assert [x for g in numbers(opt) for x in g] == pytest.approx([x for g in expected for x in g], rel=bound, abs=0)
    before = rate(opt)
    if name in ("LinearLR", "PolynomialLR", "ConstantLR", "SWALR", "ChainedScheduler with an end"):
        advance(sched, 3)
        assert rate(opt) == before


def check_one_cycle(draw, three):
    """lr and momentum run on without a jump, what lies ahead is the old way at another pace, and torch agrees."""
    rng = seeded(draw)
    total, kind = rng.randint(20, 200), rng.choice(["sgd", "adam"])
    options = dict(max_lr=0.5, pct_start=rng.uniform(0.1, 0.45), three_phase=three, total_steps=total)
    options["anneal_strategy"] = rng.choice(["cos", "linear"])
    old = optimizer([0.3], kind)
    plain, way = L.OneCycleLR(old, **options), []
    for _ in range(total - 1):
        way.append(numbers(old)[0])
        plain.step()
    way.append(numbers(old)[0])
    peak = plain._schedule_phases[0]["end_step"]
    opt, now, new = optimizer([0.3], kind), rng.randint(0, total - 5), total + rng.randint(1, 200)
    sched = L.OneCycleLR(opt, **options)
    for _ in range(now):
        sched.step()
    present = numbers(opt)
    sched.extend(new)
    assert numbers(opt) == present
    other = optimizer([0.3], kind)
    twin = theirs.OneCycleLR(other, **options)
    twin.load_state_dict(sched.state_dict())
    pivot = peak if 0 < now < peak else now
    pace, old_ends = (total - 1 - pivot) / (new - 1 - pivot), [p["end_step"] for p in plain._schedule_phases]
    for t in range(now + 1, new):
        sched.step()
        twin.step()
        assert numbers(opt)[0] == pytest.approx(numbers(other)[0], rel=1e-9, abs=1e-12)
        if t <= pivot:
            assert numbers(opt)[0] == pytest.approx(way[t], rel=1e-11)
        then = pivot + (t - pivot) * pace  # the step of the old way
        if t > pivot and then == pytest.approx(round(then), abs=1e-9) and round(then) not in map(round, old_ends):
            assert numbers(opt)[0] == pytest.approx(way[round(then)], rel=1e-9, abs=1e-12)
    assert numbers(opt)[0] == pytest.approx(way[-1], rel=1e-12)


@pytest.mark.parametrize("draw", range(15))
@pytest.mark.parametrize("three", [False, True])
def test_one_cycle_is_stretched(draw, three):
    check_one_cycle(draw, three)


def check_branches(name, kind="sgd", tensors=None):
    """The tail of warmup_stable_decay from each group's rate; then the final rate; momentum as it was."""
    for decay in ("linear", "cosine", "1-sqrt"):
        for options in ({}, {"final": 0.02}, {"final": [0.0, 0.01]}, {"final_ratio": 0.1}):
            opt, sched = scheduled(name, kind=kind, tensors=tensors)
            present = numbers(opt)
            sched.branch(12, decay=decay, **options)
            assert numbers(opt) == present
            seen = [present, *advance(sched, 15)]
            for i, (x, momentum) in enumerate(present):
                final = options.get("final", options.get("final_ratio", 0.0) * x)
                final = final[i] if isinstance(final, list) else final
                curve = S.warmup_stable_decay(x, 0, 0, 12, final, decay).curve(16)
                precise = dict(rel=1e-6, abs=1e-9) if tensors == torch.float32 else dict(rel=1e-12, abs=1e-15)
                assert [groups[i][0] for groups in seen] == pytest.approx(curve, **precise)
                assert tensors or seen[12][i][0] == seen[15][i][0] == final
                assert {groups[i][1] for groups in seen} == {momentum}
            assert sched.get_last_lr() == [group["lr"] for group in opt.param_groups]


@named
def test_a_branch_is_the_decay_of_warmup_stable_decay(name):
    check_branches(name)


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR", "StepLR", "ChainedScheduler with an end"])
@pytest.mark.parametrize("tensors", [torch.float32, torch.float64])
def test_rates_that_are_tensors_branch_in_place(name, tensors):
    check_branches(name, "adam", tensors)


def check_edits(name, decay):
    """An edit in a branch is carried: the same end and final rate, the same shape, another height."""
    opt, sched = scheduled(name)
    sched.branch(12, 0.01, decay)
    advance(sched, 5)
    opt.param_groups[0]["lr"] = x = 0.123
    height = S.warmup_stable_decay(1.0, 0, 0, 12, 0.0, decay)
    expected = [0.01 + (x - 0.01) * height(t) / height(5) for t in range(5, 16)]
    assert [x, *(groups[0][0] for groups in advance(sched, 10))] == near(expected)
    opt.param_groups[1]["lr"] = 0.4  # past the end it is held
    assert [groups[1][0] for groups in advance(sched, 3)] == [0.4] * 3


@named
@pytest.mark.parametrize("decay", ["linear", "cosine", "1-sqrt"])
def test_an_edit_in_a_branch_is_carried(name, decay):
    check_edits(name, decay)


def test_a_branch_keeps_its_end_and_its_way_when_it_is_moved_there_and_back():
    _, sched = scheduled("StepLR")
    _, plain = scheduled("StepLR")
    for s in (sched, plain):
        s.branch(20, 0.01, "cosine")
        advance(s, 6)
    sched.extend(AT + 50)
    sched.extend(AT + 20)
    for ours, expected in zip(advance(sched, 25), advance(plain, 25), strict=True):
        assert ours == [pytest.approx(group, rel=1e-12) for group in expected]


@pytest.mark.parametrize("name", [n for n in SCHEDULERS if "Sequential" not in n and "Chained" not in n])
def test_steps_to_an_epoch(name):
    """Within the branch: its rate there. Before it: the branch is over, and the class is itself."""
    if name in ("MultiplicativeLR", "ReduceLROnPlateau") or name.startswith(("SWALR", "OneCycle")):
        return  # torch's have no closed form
    _, sched = scheduled(name)
    _, plain = scheduled(name)
    sched.branch(10, 0.01, "cosine")
    way = [numbers(sched.optimizer), *advance(copy.deepcopy(sched), 12)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for epoch in (AT + 7, AT + 2, AT, AT + 12):
            sched.step(epoch)
            assert numbers(sched.optimizer) == [pytest.approx(group) for group in way[epoch - AT]]
        sched.step(AT + 2)
        assert advance(sched, 3)[-1] == [pytest.approx(group) for group in way[5]]
        sched.step(AT + 4.5)
        assert sched.last_epoch == (AT + 4 if "Warm" in name else AT + 4.5)
        low, high = way[5][0][0], way[4][0][0]
        assert low < rate(sched.optimizer) < high
        advance(sched, 2)
        assert rate(sched.optimizer) < low
        for s in (sched, plain):
            s.step(AT - 1)
        assert advance(sched, 9) == advance(plain, 9)


@pytest.mark.parametrize("kind", [L.ReduceLROnPlateau, L.GreedyLR])
def test_a_metric_of_an_epoch_before_a_branch_ends_it(kind):
    """At the first step of the branch it continues; before that, the class decides again."""
    opt = optimizer([0.3])
    sched = kind(opt, patience=100)

    def rates(*epochs):
        for epoch in epochs:
            sched.step(1.0, epoch)
        return rate(opt)

    rates(*[None] * AT)
    sched.branch(10, 0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for epoch, value in ((AT + 4, 0.184), (AT, 0.3), (AT + 1, 0.271), (AT - 1, 0.271)):
            assert rates(epoch) == near(value), epoch
    assert rates(None, None, None) == near(0.271)


def test_last_epoch_that_is_set_moves_the_way():
    _, sched = scheduled("ExponentialLR")
    sched.branch(10)
    advance(sched, 2)
    sched.last_epoch = AT + 6
    x = rate(sched.optimizer)
    assert [g[0][0] for g in advance(sched, 5)] == near([x * k / 4 for k in (3, 2, 1, 0, 0)])


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad.scheduler}, {bad.call}, {bad.arguments}")
def test_bad_arguments_change_nothing(bad):
    opt, sched = scheduled(bad.scheduler)
    twin = copy.deepcopy(sched)
    with pytest.raises(bad.error, match=bad.message):
        getattr(sched, bad.call)(**bad.arguments)
    assert numbers(opt) == numbers(twin.optimizer) and sched.state_dict() == twin.state_dict()
    assert advance(sched, 9) == advance(twin, 9)


@pytest.mark.parametrize("name", ARRIVED)
def test_who_has_arrived_is_not_extended(name):
    _, sched = scheduled(name, OLD)
    with pytest.raises(ValueError, match="has been at its end since step .* branch"):
        sched.extend(NEW)
    sched.branch(3)
    advance(sched, 3)
    with pytest.raises(ValueError, match=f"has been at its end since step {OLD + 3}"):
        sched.extend(NEW)


def test_only_what_ends_last_in_a_chain_is_extended():
    opt = optimizer([0.3])
    warmup, decay = L.LinearLR(opt, 0.1, total_iters=5), L.CosineAnnealingLR(opt, OLD)
    sched = L.ChainedScheduler([warmup, decay])
    advance(sched, 2)
    sched.extend(NEW)
    assert (warmup.total_iters, decay.T_max) == (5, NEW)


class Forgetful(driver.PythonHostDriver):
    def update_edits(self, state):
        return True


MUTANTS = {
    "an end that is late": (replan, "_begin", lambda s: -1,
        lambda: [check_torchs_recursion(ENDING[2], draw) for draw in range(4)]),
    "a stretch without a pivot": (
        replan,
        "_stretched",
        lambda s, n, before: {
            "total_steps": n,
            "_schedule_phases": [{**p, "end_step": p["end_step"] * n / s.total_steps} for p in s._schedule_phases],
        },
        lambda: [check_one_cycle(draw, False) for draw in range(4)],
    ),
    "another shape": (replan, "DECAYS", dict.fromkeys(replan.DECAYS, replan.DECAYS["linear"]), None),
    "an edit that is forgotten": (driver, "host_driver_class", lambda: Forgetful,
        lambda: check_edits("StepLR", "linear")),
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_properties_can_fail(mutant, monkeypatch):
    module, attribute, replacement, check = MUTANTS[mutant]
    monkeypatch.setattr(module, attribute, replacement, raising=False)
    with pytest.raises(AssertionError):
        (check or (lambda: check_branches("StepLR")))()
