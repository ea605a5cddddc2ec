# SPDX-License-Identifier: Apache-2.0
"""Properties: what user code does to a composite or its members between two steps has the effect that it has in torch,
on the rates and on all counters.
"""

import gc
import random
import warnings

import pytest
from cases_lr_schedulers import CONFIGURED, SEED, curve, optimizer, rate, run
from scheduler_pairs import as_torch

from fusedsched import lr_scheduler as ours
from fusedsched.lr_scheduler import driver


def members(m, opt):
    return [m.ConstantLR(opt, 0.5, 9), m.StepLR(opt, 2, 0.5)]


COMPOSITES = {
    "sequence": lambda m, opt: m.SequentialLR(opt, members(m, opt), [6]),
    "chain": lambda m, opt: m.ChainedScheduler(members(m, opt), opt),
    "chain in a chain": lambda m, opt: m.ChainedScheduler([m.ExponentialLR(opt, 0.75), COMPOSITES["chain"](m, opt)]),
}


def set_item(attribute, at, make):
    """An edit in place of a list of the composite."""
    return lambda s, m: getattr(s, attribute).__setitem__(at, make(s.optimizer, m))


def other_step(sched, m):
    sched._schedulers[1].step = lambda: None


CHANGES = {
    "a later milestone": set_item("_milestones", 0, lambda opt, m: 9),
    "an earlier milestone": set_item("_milestones", 0, lambda opt, m: 5),
    "another member": set_item("_schedulers", 1, lambda opt, m: m.ExponentialLR(opt, 0.5)),
    "another member of the same class": set_item("_schedulers", 1, lambda opt, m: m.StepLR(opt, 3, 0.5)),
    "one more member": lambda s, m: s._schedulers.append(m.ExponentialLR(s.optimizer, 0.5)),
    "another step of a member": other_step,
    "a counter of a member": lambda s, m: setattr(s._schedulers[1], "last_epoch", 5),
    "the counter of the sequence": lambda s, m: setattr(s, "last_epoch", 2),
}
OF_A_SEQUENCE = ("a later milestone", "an earlier milestone", "the counter of the sequence")
# A chain has neither milestones nor a counter of its own; a sequence has one milestone less than members.
NOT_OF_A_SEQUENCE = ("one more member",)
ROWS = [
    (kind, change)
    for kind in COMPOSITES
    for change in CHANGES
    if change not in (NOT_OF_A_SEQUENCE if kind == "sequence" else OF_A_SEQUENCE)
]


@pytest.mark.parametrize("driver_class", ["HostDriver", "PythonHostDriver"])
@pytest.mark.parametrize("at", [3, 8])
@pytest.mark.parametrize(("kind", "change"), ROWS)
@as_torch
def test_a_change_between_two_steps(m, kind, change, at, driver_class, monkeypatch):
    if driver_class == "PythonHostDriver":
        monkeypatch.setattr(driver, "host_driver_class", lambda: driver.PythonHostDriver)
    opt = optimizer([1.0])
    sched = COMPOSITES[kind](m, opt)
    before = list(sched._schedulers)
    run(opt, sched, at)
    CHANGES[change](sched, m)
    rates = curve(opt, sched, 8)
    return rates, [member.last_epoch for member in (*before, *sched._schedulers) if hasattr(member, "last_epoch")]


@pytest.mark.parametrize("kind", ["sequence", "chain"])
@as_torch
def test_a_step_that_is_put_into_a_member_is_called(m, kind):
    opt, seen = optimizer([1.0]), []
    sched = COMPOSITES[kind](m, opt)
    run(opt, sched, 7)
    sched._schedulers[1].step = lambda: seen.append(1)
    run(opt, sched, 2)
    assert seen == [1, 1]
    return seen


@as_torch
def test_a_member_of_two_chains(m):
    """A member counts the steps of both."""
    opt, rates = optimizer([1.0]), []
    shared = m.StepLR(opt, 3, 0.5)
    chains = [m.ChainedScheduler([shared, m.ConstantLR(opt, 0.5, 20)], opt) for _ in range(2)]
    for n in (5, 2, 4, 3):
        run(opt, chains[n % 2], n)
        rates.append(rate(opt))
    return rates, shared.last_epoch


@pytest.mark.parametrize("in_a_cycle", [False, True])
@pytest.mark.parametrize("kind", ["sequence", "chain"])
@as_torch
def test_members_outlive_their_composite(m, kind, in_a_cycle):
    """They have made the steps of the composite that is gone, and continue from there."""
    opt = optimizer([1.0])
    sched = COMPOSITES[kind](m, opt)
    left = list(sched._schedulers)
    run(opt, sched, 8)
    if in_a_cycle:
        sched.itself = sched
    del sched
    gc.collect()
    counts = [(member.last_epoch, member._step_count) for member in left]
    return counts, curve(opt, left[1], 5)


def test_a_branched_composite_goes():
    """Its members stay where the branch began."""
    opt = optimizer([1.0])
    left = members(ours, opt)
    sched = ours.SequentialLR(opt, left, [3])
    run(opt, sched, 5)
    sched.branch(9)
    run(opt, sched, 5)
    del sched
    assert [member.last_epoch for member in left] == [2, 2]


@pytest.mark.parametrize("seed", range(60))
@as_torch(bound=1e-12)
def test_counters_that_user_code_writes(m, seed):
    """Rates, counters of members and warnings are torch's, whatever is written to counters between the steps."""
    rng = random.Random(SEED + seed)
    name = rng.choice(["SequentialLR", "SequentialLR of three", "SequentialLR, before its last"])
    writes = [None] * 5 + ["last_epoch", "_step_count"]
    opt, seen = optimizer([0.5]), []
    sched = CONFIGURED[name](opt, m)
    for _ in range(14):
        attribute, index, value = rng.choice(writes), rng.choice([None, 0, 1]), rng.choice([1, 1, rng.randint(0, 25)])
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            if attribute is None:
                sched.step()
            elif not (attribute == "last_epoch" and value == 0):
                setattr(sched if index is None else sched._schedulers[index], attribute, value)
        counts = [(member.last_epoch, member._step_count) for member in sched._schedulers]
        seen.append((rate(opt), counts, len(found)))
    return seen


@pytest.mark.parametrize("name", ["SequentialLR", "ChainedScheduler"])
@as_torch
def test_a_missing_update_is_warned_of_once_for_each_member(m, name):
    """As in torch, where the members make their steps by themselves too, and where they stop to do so."""
    counts = []
    for alter in (lambda sched: None, lambda sched: setattr(sched._schedulers[0], "step", lambda: None)):
        opt = optimizer([0.5])
        sched = CONFIGURED[name](opt, m)
        alter(sched)
        opt._opt_called = False
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            sched.step(), sched.step()
        counts.append(len(found))
    return counts
