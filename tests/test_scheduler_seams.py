# SPDX-License-Identifier: Apache-2.0
"""Properties where features of schedulers meet: rates on a device, graphs, skip guards, branches, compositions, groups
that join.

Judged by the same scheduler on the host, whose rates are numbers.
"""

import pytest
import torch
from cases_lr_schedulers import CONFIGURED
from cases_rates import emulated, groups_of, optimizer, recorded, tensors, values

from fusedsched import SGD, _native, lr_scheduler as L

pytestmark = pytest.mark.skipif(_native.module() is None, reason="the emulated device needs fusedsched._C")
LRS = (0.3, 0.2)
SCHEDULERS = {
    name: CONFIGURED[name]
    for name in (
        "LinearLR",
        "CosineAnnealingLR",
        "ChainedScheduler",
        "SequentialLR, then a chain",
        "SequentialLR of sequences",
    )
}
KINDS = {"number": lambda: list(LRS), "tensor": lambda: tensors(LRS)}
schedules = pytest.mark.parametrize("name", SCHEDULERS)
kinds = pytest.mark.parametrize("kind", KINDS)


def both(name, kind, guarded=True):
    """(on the device, on the host)."""
    opt, twin = optimizer("ours", "cuda", KINDS[kind]()), optimizer("torch", "cpu", list(LRS))
    options = {"advance_on_skip": False} if guarded else {}
    return opt, SCHEDULERS[name](opt, **options), twin, SCHEDULERS[name](twin)


def advance(opt, sched, twin, rival, n=1):
    for _ in range(n):
        opt.step()
        sched.step()
        rival.step()
    assert values(opt) == pytest.approx(values(twin), rel=1e-12)


@kinds
@schedules
def test_a_group_that_joins_is_no_update_and_has_the_rate_of_the_host(name, kind):
    opt, sched, twin, rival = both(name, kind)
    advance(opt, sched, twin, rival, 2)
    for one in (opt, twin):
        (group,) = groups_of([torch.tensor(0.15, dtype=torch.float64) if one is opt and kind == "tensor" else 0.15])
        one.add_param_group(group)
    sched.step()  # there was no update
    advance(opt, sched, twin, rival, 6)


@kinds
@schedules
def test_an_edit_that_is_taken_back_leaves_nothing_behind(name, kind):
    opt, sched, twin, rival = both(name, kind)
    for factors in ((2.0,), (0.5, 2.0)):
        advance(opt, sched, twin, rival, 2)
        for factor in factors:
            for group in (*opt.param_groups, *twin.param_groups):
                group["lr"] *= factor
            sched.state_dict()  # looks, and brings it to the device
        advance(opt, sched, twin, rival, 2)


@kinds
def test_a_captured_chain_branches_from_where_the_replays_are(kind):
    opt, sched, twin, rival = both("ChainedScheduler", kind, guarded=False)
    advance(opt, sched, twin, rival, 3)
    replay = recorded("cuda", lambda: (opt.step(), sched.step()))
    for _ in range(3):
        replay()
        rival.step()
    for one in (sched, rival):
        one.branch(4, final=0.01, decay="cosine")
    assert sched._branch.begin == rival._branch.begin == 6
    for _ in range(5):
        replay()
        rival.step()
        assert values(opt) == pytest.approx(values(twin), rel=1e-12)


def plateau(**options):
    opt = SGD(groups_of(LRS), lr=0.1, backend="cuda")
    return opt, L.ReduceLROnPlateau(opt, patience=0, factor=0.5, **options)


def test_a_refused_extend_leaves_the_device_where_it_was():
    opt, sched = plateau()
    metric = torch.ones((), dtype=torch.float64)
    sched.step(metric)
    graph = emulated().record(lambda: sched.step(metric))
    with pytest.raises(TypeError, match="goes on for as long"):
        sched.extend(30)
    emulated().replay(graph)
    assert sched.last_epoch == 2 and sched.num_bad_epochs == 0 and values(opt) == [0.15, 0.1]


def test_a_guard_before_what_cannot_follow_is_refused_when_built():
    opt = optimizer("ours", "cuda", list(LRS))
    inner = L.SequentialLR(opt, [L.LinearLR(opt, 0.1, total_iters=3), L.ExponentialLR(opt, 0.9)], [3])
    with pytest.raises(ValueError, match="needs rates in closed form"):
        L.ChainedScheduler([inner, L.StepLR(opt, 5)], advance_on_skip=False)


def test_a_group_joins_a_warmup_with_a_plateau_on_the_device():
    opt = SGD(groups_of(LRS), lr=0.1, backend="cuda")
    sched = L.SequentialLR(opt, [L.LinearLR(opt, 0.1, total_iters=5), L.ReduceLROnPlateau(opt, patience=9)], [5])
    metric = torch.ones((), dtype=torch.float64)
    sched.step(metric)
    opt.add_param_group(groups_of([0.15])[0])
    for _ in range(3):
        sched.step(metric)
    assert values(opt) == pytest.approx([*(lr * 0.82 for lr in LRS), 0.15 * 0.82 / 0.28])
    sched.step(metric)
    assert values(opt) == pytest.approx([*LRS, 0.15])
