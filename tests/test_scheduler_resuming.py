# SPDX-License-Identifier: Apache-2.0
"""Trap m14, last_epoch=k: a scheduler goes on where a run that never stopped would be."""

import copy
import random

import numpy as np
import pytest
import torch
from cases_lr_schedulers import SCHEDULERS, SEED, curve, near, numbers, optimizer, rate
from torch.optim import lr_scheduler as theirs

from fusedsched import lr_scheduler as ours

RESUMABLE = [row for row in SCHEDULERS if row.name not in ("MultiplicativeLR", "SWALR")]


@pytest.mark.parametrize("row", RESUMABLE, ids=lambda row: row.name)
@pytest.mark.parametrize("restored", [False, True], ids=["rates not restored", "restored"])
def test_resuming_with_last_epoch(row, restored):
    """`last_epoch=k` gives the rates of step k + 1 and later of a run that never stopped, bit for bit."""
    rng = random.Random(SEED)
    arguments = {**row.configure(rng, 2)}
    arguments.update({"total_steps": 999} if "total_steps" in arguments else {})
    whole = optimizer([0.3, 0.2])
    sched = row.ours(whole, **arguments)
    seen = [numbers(whole)]
    for _ in range(45):
        sched.step()
        seen.append(numbers(whole))
    for k in (0, 1, 4, 11, 29):
        opt = optimizer([0.3, 0.2])
        for group, other in zip(opt.param_groups, whole.param_groups, strict=True):
            group.update({key: v for key, v in other.items() if key in ("initial_lr", "max_lr", "min_lr")})
            group.update({key: v for key, v in other.items() if key in ("max_momentum", "base_momentum")})
        if restored:
            for group, (lr, momentum) in zip(opt.param_groups, seen[k + 1], strict=True):
                group.update(lr=lr, momentum=momentum)
        resumed = row.ours(opt, **arguments, last_epoch=k)
        for t in range(k + 1, 40):
            assert numbers(opt) == seen[t], (k, t)
            resumed.step()


def test_torch_and_last_epoch():
    """torch: the rate of step k + 1 only where the group happens to have it already."""
    opt = optimizer([1.0])
    opt.param_groups[0]["initial_lr"] = 1.0
    theirs.ExponentialLR(opt, gamma=0.5, last_epoch=3)
    assert rate(opt) == 1.0
    ours.ExponentialLR(opt, gamma=0.5, last_epoch=3)
    assert rate(opt) == 0.5**4


@pytest.mark.parametrize("row", RESUMABLE, ids=lambda row: row.name)
@pytest.mark.parametrize("kind", ["number", "tensor"])
def test_resuming_after_an_edit(row, kind):
    """Rates that were restored with an edit in them go on as in a run that never stopped."""
    rng = random.Random(SEED)
    arguments = {**row.configure(rng, 2)}
    arguments.update({"total_steps": 999} if "total_steps" in arguments else {})
    lrs = [0.3, 0.2] if kind == "number" else [torch.tensor(0.3), torch.tensor(0.2)]
    whole = optimizer(copy.deepcopy(lrs))
    sched = row.ours(whole, **arguments)
    for t in range(8):
        sched.step()
        if t in (2, 5):
            whole.param_groups[t % 2]["lr"] *= 0.75
    sched.step()
    opt = optimizer(copy.deepcopy(lrs))
    opt.load_state_dict(copy.deepcopy(whole.state_dict()))
    resumed = row.ours(opt, **arguments, last_epoch=sched.last_epoch - 1)
    for _ in range(40):
        assert [rate(opt, i) for i in (0, 1)] == [pytest.approx(rate(whole, i), rel=1e-6, abs=1e-8) for i in (0, 1)]
        resumed.step(), sched.step()


def test_resuming_two_of_one_class():
    """Restored rates are kept, however many schedulers of one class made them."""
    opt = optimizer([1.0])
    both = [ours.ExponentialLR(opt, 0.9), ours.ExponentialLR(opt, 0.5)]
    for _ in range(3):
        [sched.step() for sched in both]
    rates = rate(opt)
    fresh = optimizer([1.0])
    fresh.load_state_dict(opt.state_dict())
    both = [ours.ExponentialLR(fresh, gamma, last_epoch=2) for gamma in (0.9, 0.5)]
    assert rate(fresh) == near(rates)


@pytest.mark.parametrize("restored", [1.0, 0.5**4 * 0.1])
def test_resuming_two_that_multiply(restored):
    """Schedulers stepped one after the other, or in a chain, are resumed to their product."""
    opt = optimizer([restored])
    opt.param_groups[0]["initial_lr"] = 1.0
    first, second = ours.ExponentialLR(opt, 0.5, last_epoch=3), ours.MultiStepLR(opt, [2, 5], 0.1, last_epoch=3)
    assert rate(opt) == near(0.5**4 * 0.1)
    chain = ours.ChainedScheduler([first, second])
    chain.step()
    assert rate(opt) == near(0.5**5 * 0.01) == near(chain.get_last_lr()[0])


def test_resuming_a_second_time():
    """A cell of a notebook that is run again has the same result."""
    opt = optimizer([1.0])
    opt.param_groups[0]["initial_lr"] = 1.0
    for _ in range(3):
        ours.ExponentialLR(opt, 0.5, last_epoch=3)
        ours.MultiStepLR(opt, [2, 5], 0.1, last_epoch=3)
        assert rate(opt) == near(0.5**4 * 0.1)


def of_sequences(o):
    inner = ours.SequentialLR(o, [ours.ExponentialLR(o, 0.5), ours.CosineAnnealingWarmRestarts(o, 3)], [2])
    return [ours.LinearLR(o, 0.5, 1.0, 5), inner, ours.StepLR(o, 2, 0.5)], [3, 8]


def of_a_chain(o):
    chain = ours.ChainedScheduler([ours.LinearLR(o, 0.5, 1.0, 5), ours.ExponentialLR(o, 0.5)])
    return [ours.StepLR(o, 2, 0.5), chain], [3]


def of_numbers(kind):
    return lambda o: ([ours.StepLR(o, kind(2)), ours.CosineAnnealingLR(o, kind(10))], [3])


SEQUENCES = {
    "of sequences": of_sequences,
    "of a chain": of_a_chain,
    "of integers": of_numbers(int),
    "of whole floats": of_numbers(float),
    "of integers of numpy": of_numbers(np.int64),
    "of a member whose every step is torch's": lambda o: (
        [ours.StepLR(o, 2), ours.CyclicLR(o, 0.1, 0.2, 3, scale_fn=lambda x: 0.5, cycle_momentum=False)], [3],
    ),
}  # fmt: skip


@pytest.mark.parametrize("k", [0, 1, 2, 3, 6, 7, 8, 14])
@pytest.mark.parametrize("name", SEQUENCES)
def test_resuming_a_sequence(name, k):
    """Whatever its members are, and without a warning about the order of calls."""
    whole, opt = optimizer([1.0]), torch.optim.SGD([torch.zeros(1)], lr=1.0, momentum=0.9)
    expected = curve(whole, ours.SequentialLR(whole, *SEQUENCES[name](whole)), 20)
    sched = ours.SequentialLR(opt, *SEQUENCES[name](opt), last_epoch=k)
    opt._opt_called = True  # from here on its steps would warn
    assert sched.last_epoch == k + 1
    assert curve(opt, sched, 20 - k - 1) == near(expected[k + 1 :])
