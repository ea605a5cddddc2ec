# SPDX-License-Identifier: Apache-2.0
"""Laws: what somebody does to a composite or its members between two steps is obeyed, as by torch."""

import gc
import random
import warnings

import pytest
from cases_lr_schedulers import CONFIGURED, SEED, near, optimizer, rate, run
from torch.optim import lr_scheduler as theirs

from fusedsched import lr_scheduler as ours
from fusedsched.lr_scheduler import driver


@pytest.mark.parametrize("kind", ["SequentialLR", "ChainedScheduler"])
def test_a_step_of_a_member_that_is_replaced_under_way(kind):
    """Law: a `step` that somebody puts into a member is called by the composite from then on."""
    for module in (ours, theirs):
        opt, seen = optimizer([1.0]), []
        members = [module.ConstantLR(opt, 0.5, 3), module.StepLR(opt, 2, 0.5)]
        more = (opt, members, [3]) if kind == "SequentialLR" else (members, opt)
        sched = getattr(module, kind)(*more)
        run(opt, sched, 5)
        members[1].step = lambda seen=seen: seen.append(1)
        run(opt, sched, 2)
        assert seen == [1, 1]


def other_milestone(sched, module):
    sched._milestones[0] = 5


def other_member(sched, module):
    sched._schedulers[1] = module.ExponentialLR(sched.optimizer, 0.5)


def one_more_member(sched, module):
    sched._schedulers.append(module.ExponentialLR(sched.optimizer, 0.5))


def other_step_inside(sched, module):
    sched._schedulers[1].step = lambda: None


@pytest.mark.parametrize("driver_class", ["HostDriver", "PythonHostDriver"])
@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("SequentialLR", other_milestone),
        ("SequentialLR", other_member),
        ("ChainedScheduler", other_member),
        ("ChainedScheduler", one_more_member),
        ("chain in a chain", other_member),
        ("chain in a chain", other_step_inside),
    ],
)
def test_lists_of_a_composite_that_are_edited_in_place(kind, change, driver_class, monkeypatch):
    """Law: members and milestones that somebody puts into the lists of a composite are those of its next step."""
    if driver_class == "PythonHostDriver":
        monkeypatch.setattr(driver, "host_driver_class", lambda: driver.PythonHostDriver)
    ends = []
    for module in (ours, theirs):
        opt = optimizer([1.0])
        members = [module.ConstantLR(opt, 0.5, 9), module.StepLR(opt, 2, 0.5)]
        if kind == "SequentialLR":
            sched = module.SequentialLR(opt, members, [6])
        else:
            sched = module.ChainedScheduler(members, opt)
        if kind == "chain in a chain":
            sched = module.ChainedScheduler([module.ExponentialLR(opt, 0.75), sched], opt)
        run(opt, sched, 3)
        change(sched, module)
        rates = []
        for _ in range(6):
            run(opt, sched, 1)
            rates.append(opt.param_groups[0]["lr"])
        ends.append(rates)
    assert ends[0] == pytest.approx(ends[1], rel=1e-12)


@pytest.mark.parametrize("change", ["a milestone that is over", "another member"])
def test_counts_that_were_made_before_a_change(change):
    """Law: a change of a composite's lists is none of the steps that its members have made."""
    ends = []
    for module in (ours, theirs):
        opt, rates = optimizer([1.0]), []
        members = [module.ConstantLR(opt, 0.5, 3), module.StepLR(opt, 3, 0.5)]
        if change == "another member":
            sched = module.ChainedScheduler(members, opt)
            run(opt, sched, 8)
            sched._schedulers[1] = module.StepLR(opt, 3, 0.5)
        else:
            sched = module.SequentialLR(opt, members, [3])
            run(opt, sched, 8)
            sched._milestones[0] = 4
        for _ in range(7):
            run(opt, sched, 1)
            rates.append(opt.param_groups[0]["lr"])
        ends.append((rates, [member.last_epoch for member in (*members, *sched._schedulers)]))
    assert ends[0] == ends[1]


def test_a_branched_composite_goes():
    """Law: its members stay where the branch began."""
    opt = optimizer([1.0])
    members = [ours.ConstantLR(opt, 0.5, 3), ours.StepLR(opt, 3, 0.5)]
    sched = ours.SequentialLR(opt, members, [3])
    run(opt, sched, 5)
    sched.branch(9)
    run(opt, sched, 5)
    del sched
    assert [member.last_epoch for member in members] == [2, 2]


def test_a_counter_of_a_member_that_is_written():
    """Law: a member of a SequentialLR continues from the counter that somebody gave it."""
    ends = []
    for module in (ours, theirs):
        opt = optimizer([1.0])
        members = [module.ConstantLR(opt, 0.5, 3), module.StepLR(opt, 3, 0.5)]
        sched, rates = module.SequentialLR(opt, members, [3]), []
        run(opt, sched, 4)
        members[1].last_epoch = 5
        for _ in range(7):
            run(opt, sched, 1)
            rates.append(opt.param_groups[0]["lr"])
        ends.append((rates, sched.last_epoch, members[1].last_epoch))
    assert ends[0] == ends[1]


def test_the_counter_of_a_sequence_that_is_written():
    """Law: a SequentialLR continues from the counter that somebody gave it."""
    ends = []
    for module in (ours, theirs):
        opt = optimizer([1.0])
        sched, rates = module.SequentialLR(opt, [module.ConstantLR(opt, 0.5, 9), module.StepLR(opt, 3, 0.5)], [3]), []
        run(opt, sched, 8)
        sched.last_epoch = 2
        for _ in range(7):
            run(opt, sched, 1)
            rates.append(opt.param_groups[0]["lr"])
        ends.append(rates)
    assert ends[0] == ends[1]


def test_a_member_of_two_chains():
    """Law: a member counts the steps of both."""
    ends = []
    for module in (ours, theirs):
        opt, rates = optimizer([1.0]), []
        shared = module.StepLR(opt, 3, 0.5)
        chains = [module.ChainedScheduler([shared, module.ConstantLR(opt, 0.5, 20)], opt) for _ in range(2)]
        for n in (5, 2, 4, 3):
            run(opt, chains[n % 2], n)
            rates.append(opt.param_groups[0]["lr"])
        ends.append((rates, shared.last_epoch))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("in_a_cycle", [False, True])
@pytest.mark.parametrize("kind", ["SequentialLR", "ChainedScheduler"])
def test_members_outlive_their_composite(kind, in_a_cycle):
    """Law: members have made the steps of a composite that is gone, and continue from there."""
    ends = []
    for module in (ours, theirs):
        opt = optimizer([1.0])
        members = [module.ConstantLR(opt, 0.5, 3), module.StepLR(opt, 3, 0.5)]
        more = (opt, members, [3]) if kind == "SequentialLR" else (members, opt)
        sched = getattr(module, kind)(*more)
        run(opt, sched, 5)
        if in_a_cycle:
            sched.itself = sched
        del sched
        gc.collect()
        counts = [(member.last_epoch, member._step_count) for member in members]
        run(opt, members[1], 4)
        ends.append((counts, opt.param_groups[0]["lr"]))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("seed", range(60))
def test_counters_that_user_code_writes(seed):
    """Law: rates, counters of members and warnings are torch's, whatever is written to counters between the steps."""
    rng = random.Random(SEED + seed)
    name = rng.choice(["SequentialLR", "SequentialLR of three", "SequentialLR, before its last"])
    writes = [None] * 5 + ["last_epoch", "_step_count"]
    actions = [
        (rng.choice(writes), rng.choice([None, 0, 1]), rng.choice([1, 1, rng.randint(0, 25)])) for _ in range(14)
    ]
    ends = []
    for module in (ours, theirs):
        opt, seen = optimizer([0.5]), []
        sched = CONFIGURED[name](opt, module)
        for attribute, index, value in actions:
            target = sched if index is None else sched._schedulers[index]
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                if attribute is None:
                    sched.step()
                elif not (attribute == "last_epoch" and value == 0):
                    setattr(target, attribute, value)
            counts = [(member.last_epoch, member._step_count) for member in sched._schedulers]
            seen.append((near(rate(opt)) if module is theirs else rate(opt), counts, len(found)))
        ends.append(seen)
    assert ends[0] == ends[1]


@pytest.mark.parametrize("name", ["SequentialLR", "ChainedScheduler"])
def test_a_missing_update_is_warned_of_once_for_each_member(name):
    """Law: as in torch, where the members make their steps by themselves too, and where they stop to do so."""
    ends = []
    for module in (ours, theirs):
        counts = []
        for alter in (lambda sched: None, lambda sched: setattr(sched._schedulers[0], "step", lambda: None)):
            opt = optimizer([0.5])
            sched = CONFIGURED[name](opt, module)
            alter(sched)
            opt._opt_called = False
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                sched.step(), sched.step()
            counts.append(len(found))
        ends.append(counts)
    assert ends[0] == ends[1]
