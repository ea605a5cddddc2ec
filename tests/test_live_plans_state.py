# SPDX-License-Identifier: Apache-2.0
"""Properties of plans that change under way: states, copies, expressions and late groups have them."""

import copy
import io
import json
import pickle
import random
import warnings

import pytest
import torch
from cases_live_plans import AT, BRANCHES, CHANGES, SCHEDULERS, advance, pairs, random_change, scheduled, seeded
from cases_lr_schedulers import near, numbers, optimizer, rate
from scheduler_pairs import compose
from torch.optim import lr_scheduler as theirs

from fusedsched import lr_scheduler as L, schedules as S
from fusedsched.lr_scheduler import building

named = pytest.mark.parametrize("name", SCHEDULERS)
changed = pytest.mark.parametrize(("name", "change"), pairs())
branched = pytest.mark.parametrize("change", BRANCHES)
pytestmark = pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")  # torch says it of copies, once


@changed
def test_counters_are_torchs(name, change):
    """Whatever is done to the plan, the keys of the state and the counters are those of a plain run."""
    (_, sched), (_, plain) = scheduled(name), scheduled(name)
    CHANGES[change](sched)
    advance(sched, 5)
    advance(plain, 5 + ("longer" in change or "of a branch" in change) * 4)
    state, other = sched.state_dict(), plain.state_dict()
    assert state.keys() - {"fusedsched"} == other.keys() - {"fusedsched"}
    for key in ("last_epoch", "_step_count"):
        assert state.get(key) == other.get(key)


ORDERS = ["optimizer, scheduler", "scheduler, optimizer", "scheduler"]


def resumed(name, sched, order="scheduler, optimizer"):
    """A scheduler built anew, with the old end, which loaded the state of this one."""
    states = {"scheduler": sched.state_dict(), "optimizer": sched.optimizer.state_dict()}
    json.dumps(states["scheduler"].get("fusedsched"))
    file = io.BytesIO()
    torch.save(states, file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    opt, fresh = scheduled(name, 0)
    for what in order.split(", "):
        {"optimizer": opt, "scheduler": fresh}[what].load_state_dict(states[what])
    return fresh


@changed
@pytest.mark.parametrize("order", ORDERS)
def test_stop_and_go_on(name, change, order):
    """Saved at once, in the midst, after an edit, past the end: the same bits as never having stopped."""
    if order == "scheduler" and change != "nothing" and name not in ("OneCycleLR", "CyclicLR", "StepLR"):
        order = ORDERS[0]
    rng = random.Random(name)
    _, sched = scheduled(name)
    CHANGES[change](sched)
    others = []
    for steps in (0, 3, 5, 9, 14, 30):
        expected = advance(sched, steps)
        assert [advance(other, steps) for other in others] == [expected] * len(others)
        if steps in (3, 5):  # saved before it is used, and after
            sched.optimizer.param_groups[steps == 5]["lr"] = rng.uniform(0.02, 0.3)
        others = [resumed(name, sched, order), copy.deepcopy(sched)]


@changed
def test_copies(name, change):
    if name not in ("LambdaLR", "MultiplicativeLR", "SequentialLR of chains"):  # torch's do not pickle either
        _, sched = scheduled(name)
        CHANGES[change](sched)
        advance(sched, 3)
        clone, shallow = pickle.loads(pickle.dumps(sched)), copy.copy(sched)
        assert shallow._branch is not sched._branch or sched._branch is None
        assert advance(clone, 30) == advance(sched, 30)


@named
def test_a_state_without_a_branch_ends_it(name):
    _, plain = scheduled(name)
    state, _ = copy.deepcopy(plain.state_dict()), plain.branch(5)
    advance(plain, 3)
    plain.load_state_dict(state)
    assert advance(plain, 5) == advance(scheduled(name)[1], 5)


@named
def test_torchs_class_takes_the_state_as_far_as_its_keys_go(name):
    _, sched = scheduled(name)
    sched.branch(9)
    advance(sched, 4)
    state = sched.state_dict()
    if type(sched).__name__ not in ("SequentialLR", "ChainedScheduler", "SWALR", "LambdaLR", "MultiplicativeLR"):
        there = getattr(theirs, type(sched).__name__)(optimizer([0.3, 0.2]), **_arguments(name))
        there.load_state_dict(copy.deepcopy(state))
        assert there.last_epoch == AT + 4 and there.get_last_lr() == sched.get_last_lr()


def _arguments(name):
    needed = {"StepLR": "step_size", "MultiStepLR": "milestones", "ExponentialLR": "gamma", "CyclicLR": "base_lr"}
    needed |= {"CosineAnnealingLR": "T_max", "CosineAnnealingWarmRestarts": "T_0"}
    options = {"milestones": [3]} if name == "MultiStepLR" else {needed[name]: 1} if name in needed else {}
    options |= {"max_lr": 1.0} if name == "CyclicLR" or "OneCycle" in name else {}
    return options | ({"total_steps": 9} if "OneCycle" in name else {})


@named
@branched
def test_expressions_show_the_branch(name, change):
    """What has been, but for edits, and what will be."""
    if name in ("ReduceLROnPlateau", "SequentialLR of chains"):
        return  # what was before the branch is no function of time, and cannot be put back to be tabulated
    opt, sched = scheduled(name, 0)
    past = [numbers(opt), *advance(sched, AT)]
    CHANGES[change](sched)
    schedules, now = sched.expressions(), building.clock_of(sched)
    for t in range(now + 1, 90):
        assert [s(t) for s in schedules] == near([lr for lr, _ in advance(sched)[0]])
    for i, schedule in enumerate(schedules):
        known = AT if change == "longer branch" else AT + 1  # its way is shown as if it had been as long from its start
        assert schedule.curve(known) == near([groups[i][0] for groups in past[:known]])


@named
@pytest.mark.parametrize("change", ["linear branch", "longer branch", "branch of a branch"])
def test_a_late_group_decays_from_the_rate_that_it_brings(name, change):
    """In a branch: the same end, the same final rate, the shape of the others' way from there on."""
    opt, sched = scheduled(name)
    CHANGES[change](sched)
    advance(sched, 3)
    defaults = {k: v for k, v in opt.param_groups[0].items() if k in ("swa_lr", "max_lr")}
    opt.add_param_group({"params": [torch.zeros(1)], "lr": 0.7, "momentum": opt.param_groups[0]["momentum"]} | defaults)
    branch, now = sched._branch, building.clock_of(sched)
    way, first = branch.after(S.constant(1.0), 0), rate(opt)
    scale = (0.7 - branch.final[0]) / (first - branch.final[0])
    for t, ours in enumerate(advance(sched, 20), start=now + 1):
        expected = branch.final[0] + scale * (way(t) - branch.final[0])
        assert ours[0][0] == near(way(t)) and ours[2][0] == near(expected)


def test_a_group_that_nobody_gave_a_final_rate_is_asked_for():
    opt, sched = scheduled("StepLR")
    sched.branch(9, final=[0.1, 0.2])
    advance(sched)
    opt.add_param_group({"params": [torch.zeros(1)], "lr": 0.7})
    before, epoch = numbers(opt), sched.last_epoch
    with pytest.raises(ValueError, match=r"^final must have the same length .* call scheduler.branch\(\) again"):
        sched.step()
    assert numbers(opt) == before and sched.last_epoch == epoch
    sched.branch(8, final=[0.1, 0.2, 0.3])
    schedules = sched.expressions()  # the branch before had no such group
    for t, groups in enumerate(advance(sched, 8), start=epoch + 1):
        assert [lr for lr, _ in groups] == near([schedule(t) for schedule in schedules])
    assert [lr for lr, _ in groups] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("draw", range(40))
def test_random_plans(draw):
    """Whatever is changed, nested and edited: no jump at the call, a copy and a resumed run do the same."""
    rng = seeded(draw)
    module, depth, key = L, rng.randint(0, 2), rng.random()

    def build():
        opt = optimizer([0.3, 0.2])
        return compose(type(rng)(key), opt, module, depth)

    sched = build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(6):
            advance(sched, rng.randint(0, 12))
            present = numbers(sched.optimizer)
            random_change(rng, sched)
            assert numbers(sched.optimizer) == present
            if rng.random() < 0.3:
                sched.optimizer.param_groups[0]["lr"] *= 0.5
            fresh = build()
            fresh.load_state_dict(copy.deepcopy(sched.state_dict()))
            expected = advance(copy.deepcopy(sched), 40)
            assert advance(fresh, 40) == expected
