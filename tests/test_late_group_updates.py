# SPDX-License-Identifier: Apache-2.0
"""The first update of a group that joins late, before any further `sched.step()`: its rate is the scheduled one already
where the optimizer is one of this package.
"""

import copy
import pickle
import random
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from cases_lr_schedulers import SCHEDULERS, SEED, near, numbers, optimizer, rate

from fusedsched import lr_scheduler as ours


def add(opt, lr):
    opt.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr})


def _copied(opt, sched):
    return copy.deepcopy((opt, sched))


def _in_a_chain(opt, row, arguments):
    return ours.ChainedScheduler([row.ours(opt, **arguments), ours.ExponentialLR(opt, 0.9)])


def _beside(opt, row, arguments):
    ours.ExponentialLR(opt, 0.9)  # never stepped
    return row.ours(opt, **arguments)


class Way(NamedTuple):
    """How a scheduler comes to the step at which a group joins it."""

    build: Callable[..., Any] = lambda opt, row, arguments: row.ours(opt, **arguments)
    lr: Callable[[float], Any] = float
    then: Callable[..., Any] = lambda opt, sched: (opt, sched)


WAYS = {
    "alone": Way(),
    "tensors": Way(lr=lambda lr: torch.tensor(lr, dtype=torch.float64)),
    "a copy": Way(then=_copied),
    "a pickle": Way(then=lambda opt, sched: pickle.loads(pickle.dumps((opt, sched)))),
    "in a sequence": Way(lambda opt, row, a: ours.SequentialLR(opt, [ours.StepLR(opt, 9), row.ours(opt, **a)], [2])),
    "in a chain": Way(_in_a_chain),
    "a chain in a sequence": Way(
        lambda opt, row, a: ours.SequentialLR(opt, [_in_a_chain(opt, row, a), ours.StepLR(opt, 9)], [99])
    ),
    "beside another": Way(_beside),
}


def halves(t):
    return 0.5 ** (t % 3)


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("row", SCHEDULERS, ids=lambda row: row.name)
def test_the_first_update_of_a_late_group(row, name):
    """Law: in an optimizer of this package it has, before any further step, its scheduled rate where that follows from
    the base rate, and the rate that it brings where the class continues from that one. No other group is changed."""
    way, rng = WAYS[name], random.Random(SEED + 5)
    arguments = {k: v[0] if isinstance(v, list) and k != "milestones" else v for k, v in row.configure(rng, 1).items()}
    arguments.update({"total_steps": 999} if "total_steps" in arguments else {})
    arguments.update({"lr_lambda": halves} if "lr_lambda" in arguments else {})
    opt = optimizer([way.lr(0.3)], "our sgd")
    sched = way.build(opt, row, arguments)
    twin = optimizer([way.lr(0.3), way.lr(0.2)], "our sgd")
    from_start = way.build(twin, row, arguments)
    for _ in range(6):
        sched.step()
        from_start.step()
    opt, sched = way.then(opt, sched)
    before = numbers(opt)[0]
    add(opt, way.lr(0.2))
    assert numbers(opt)[0] == before
    assert numbers(opt)[1] == (near(numbers(twin)[1]) if row.recomputes else (0.2, 0.9))
    if row.recomputes:
        assert float(sched.get_last_lr()[1]) == rate(opt, 1)
        for t in range(6):
            sched.step()
            from_start.step()
            assert numbers(opt) == [near(pair) for pair in numbers(twin)], t


def test_the_rates_of_a_late_group_follow_the_scheduler_that_wrote_last():
    """Law: a scheduler that was stepped before another one says nothing of a new group; and it is kept by nobody."""
    opt = optimizer([1.0], "our sgd")
    first, second = ours.LambdaLR(opt, halves), ours.ExponentialLR(opt, 0.9)
    first.step(), second.step()
    add(opt, 0.2)
    assert numbers(opt)[1] == (0.2, 0.9)
    first.step(), first.step()
    add(opt, 0.2)
    assert numbers(opt)[2] == (0.2, 0.9) and numbers(opt)[1] == (0.2, 0.9)  # halves(3) is 1
    first.step()
    gone = weakref.ref(first)
    del first
    assert gone() is None
    add(opt, 0.2)
    assert [lr for lr, _ in numbers(opt)] == [0.5, 0.1, 0.1, 0.2]


def test_an_optimizer_of_torch_tells_its_schedulers_nothing():
    opt = optimizer([1.0])
    sched = ours.LambdaLR(opt, halves)
    sched.step()
    add(opt, 0.2)
    assert rate(opt, 1) == 0.2
    sched.step()
    assert rate(opt, 1) == 0.05


def test_how_often_a_function_is_called_for_a_late_group():
    """Law: once when the group joins, for that group alone."""
    calls = []
    opt = optimizer([1.0, 1.0], "our sgd")
    sched = ours.LambdaLR(opt, lambda t: calls.append(t) or 0.5)
    sched.step()
    add(opt, 0.2)
    assert calls == [0, 0, 1, 1, 1] and rate(opt, 2) == 0.1
    sched.step()
    assert calls[5:] == [2, 2, 2]
