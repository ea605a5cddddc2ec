# SPDX-License-Identifier: Apache-2.0
"""Schedulers that follow a metric inside captured graphs. Each replay reads the metric anew and decides as an
eager step does. What is refused: test_refused_captures.py.
"""

import copy

import pytest
import torch
from cases import maker
from cases_metric import (
    GREEDY,
    PLATEAU,
    SCHEDULERS,
    THEIRS,
    both,
    built,
    groups_of,
    pair,
    same,
    same_parameters,
    shown,
    tensor,
)
from plateau_rule import emulated, recorded

from fusedsched import lr_scheduler as L
from fusedsched.schedules import constant

METRICS = (2.0, 2.5, 2.5, 1.0, 3.0, float("nan"), 3.0, 3.0, 0.5, 4.0, 4.0, 4.0, 4.0, 0.25, 4.0, 4.0)


CAPTURED = {
    "plateau": dict(patience=0, factor=0.5, cooldown=1),
    "greedy": dict(patience=0, factor=0.5, smooth=True, window_size=2, min_lr=0.05, max_lr=2.0, reset_start=2),
}


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("name", CAPTURED)
def test_replays_read_the_metric_anew(name, edited):
    sched, eager = (built(name, maker("cuda"), [0.4, 0.2], **CAPTURED[name]) for _ in range(2))
    metric, names = tensor(0.0), SCHEDULERS[name].names

    def train():
        sched.optimizer.step()
        sched.step(metric)

    graph = recorded(train)
    assert emulated().nodes(graph) == 2 and sched.last_epoch == 0
    for i, value in enumerate(METRICS):
        metric.fill_(value)
        emulated().replay(graph)
        eager.optimizer.step()
        eager.step(value)
        if edited and i == 4:
            for one in (sched, eager):
                one.optimizer.param_groups[0]["lr"], one.patience = 0.8, 1
            sched.optimizer.sync_hparams()
        if i % 4 == 1:
            assert shown(sched, names) == shown(eager, names)
            assert name == "plateau" or repr(sched._streaming_avg.values) == repr(eager._streaming_avg.values)
    assert shown(sched, names) == shown(eager, names) and same_parameters((sched, eager), rtol=0.0)


def test_torch_continues_from_a_state_after_replays():
    two, metric = pair(maker("cuda"), **CAPTURED["plateau"]), tensor(0.0)
    graph = recorded(lambda: two[0].step(metric))
    for value in METRICS[:8]:
        metric.fill_(value)
        emulated().replay(graph)
        two[1].step(value)
    assert same(two)
    saved = copy.deepcopy(two[0].state_dict())
    both(two, [4.0] * 4)
    assert same(two)
    other = THEIRS(torch.optim.SGD(groups_of([0.4, 0.2]), lr=0.1))
    other.load_state_dict(saved)
    assert repr(other.best) == repr(saved["best"]) and other.last_epoch == 8


def test_a_native_schedule_is_refused_where_a_device_decides():
    sched = pair(maker("cuda"))[0]
    sched.optimizer.step()
    sched.step(tensor(2.0))
    with pytest.raises(RuntimeError, match="'lr', which follows a scheduler"):
        sched.optimizer.set_schedule("lr", constant(0.1))
    sched.optimizer.set_schedule("momentum", constant(0.5))


def warmup_then(member):
    return lambda o: L.SequentialLR(o, [L.LinearLR(o, 0.25, total_iters=3), member(o)], [3])


SEQUENCES = {
    "warmup, plateau": warmup_then(lambda o: L.ReduceLROnPlateau(o, patience=1, factor=0.5, min_lr=[0.1, 0.02])),
    "warmup, greedy": warmup_then(
        lambda o: L.GreedyLR(
            o, patience=0, factor=0.5, min_lr=0.15, max_lr=0.9, smooth=True, window_size=2, reset_start=2
        )
    ),
    "plateau first": lambda o: L.SequentialLR(
        o, [L.ReduceLROnPlateau(o, patience=0, factor=0.5), L.CosineAnnealingLR(o, 9)], [7]
    ),
    "warmup, plateau, decay": lambda o: L.SequentialLR(
        o, [L.LinearLR(o, 0.5, total_iters=2), L.ReduceLROnPlateau(o, patience=0), L.ExponentialLR(o, 0.9)], [2, 8]
    ),
}


def scene(schedule):
    opt = maker("cuda")("SGD", groups_of([0.4, 0.2]), lr=0.1, momentum=0.5)
    opt.step()
    return opt, schedule(opt)


def member(sched):
    return next(m for m in sched._schedulers if hasattr(m, "num_bad_epochs"))


def agree(one, other):
    names = GREEDY if hasattr(member(one), "num_good_epochs") else PLATEAU
    assert one.last_epoch == other.last_epoch
    rates = [[group["lr"] for group in s.optimizer.param_groups] for s in (one, other)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-14) and one.get_last_lr() == rates[0]
    values = [[repr(float(getattr(member(s), name))) for name in names] for s in (one, other)]
    assert values[0] == values[1] or one.last_epoch <= one._milestones[0]
    assert same_parameters((one, other))


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_sequence_goes_from_member_to_member(sequence, edited):
    (opt, sched), (other, eager) = (scene(SEQUENCES[sequence]) for _ in range(2))
    metric = tensor(0.0)

    def train():
        opt.step()
        sched.step(metric)

    graph = recorded(train)
    assert emulated().nodes(graph) == 3 and sched.last_epoch == 0
    for i, value in enumerate(METRICS):
        metric.fill_(value)
        emulated().replay(graph)
        other.step()
        eager.step(value)
        if edited and i == 5:
            for one in (opt, other):
                one.param_groups[1]["lr"] = 0.3
            opt.sync_hparams()
        if i % 3 == 1:
            agree(sched, eager)
    agree(sched, eager)
    saved = copy.deepcopy(sched.state_dict())
    fresh, third = scene(SEQUENCES[sequence])
    fresh.load_state_dict(copy.deepcopy(opt.state_dict()))
    third.load_state_dict(saved)
    for value in METRICS[::-1]:  # on from there: on the device, on the host, and where it was loaded
        for optimizer, one in ((opt, sched), (other, eager), (fresh, third)):
            optimizer.step()
            one.step(tensor(value) if one is sched else value)
    agree(sched, eager)
    assert third.get_last_lr() == pytest.approx(sched.get_last_lr(), rel=1e-12)


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_decision_in_a_sequence_is_exact(sequence):
    """Between its milestones, the rates are those of torch's code to the bit, edits included."""
    (opt, sched), (other, eager) = (scene(SEQUENCES[sequence]) for _ in range(2))
    begin, end = [*sched._milestones, 99][:2] if "first" not in sequence else (0, 7)
    for i, value in enumerate(METRICS):
        for optimizer, one in ((opt, sched), (other, eager)):
            optimizer.step()
            if i == begin + 2:
                optimizer.param_groups[0]["lr"] = 0.7 / 3
            one.step(tensor(value) if one is sched else value)
        if begin <= sched.last_epoch < end:
            assert [g["lr"] for g in opt.param_groups] == [g["lr"] for g in other.param_groups]
            assert member(sched).best == member(eager).best or member(eager).last_epoch == 0


def test_an_attribute_of_a_member_is_that_of_the_device():
    (_, sched), (_, eager) = (scene(SEQUENCES["warmup, plateau"]) for _ in range(2))
    for value in METRICS[:6]:
        sched.step(tensor(value))
        eager.step(value)
    assert [getattr(member(sched), name) for name in PLATEAU] == [getattr(member(eager), name) for name in PLATEAU]
    for one in (sched, eager):
        member(one).best, member(one).patience = 0.125, 0
    for value in METRICS[:3]:
        sched.step(tensor(value))
        eager.step(value)
    agree(sched, eager)


def test_an_edit_in_the_warmup_takes_the_host():
    """Each member continues it in its own way; eager steps continue as ever."""
    (opt, sched), (other, eager) = (scene(SEQUENCES["warmup, plateau"]) for _ in range(2))
    for i, value in enumerate(METRICS):
        for optimizer, one in ((opt, sched), (other, eager)):
            optimizer.step()
            one.step(tensor(value) if one is sched else value)
        agree(sched, eager)
        if i == 0:
            assert sched._mirror is not None
            for optimizer in (opt, other):
                optimizer.param_groups[0]["lr"] = 0.33


def test_the_properties_can_fail():
    """A metric that the graph does not see: the decisions are others, and the property notices."""
    (opt, sched), (other, eager) = (scene(SEQUENCES["warmup, plateau"]) for _ in range(2))
    graph = recorded(lambda: (opt.step(), sched.step(tensor(1.0))))
    with pytest.raises(AssertionError):
        for value in METRICS:
            emulated().replay(graph)
            other.step()
            eager.step(value)
            agree(sched, eager)
