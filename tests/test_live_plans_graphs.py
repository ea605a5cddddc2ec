# SPDX-License-Identifier: Apache-2.0
"""Properties of plans that change inside graphs: a captured one follows at its next replay, and a compiled one is not
compiled again; both to the bit of the eager run.

The kernels and the capture are emulated, as in test_capture.py.
"""

import copy

import pytest
import torch
from cases_live_plans import SCHEDULERS as SUBJECTS, WITH_AN_END
from cases_lr_schedulers import CONFIGURED, FUNCTIONS, METRIC
from compiling import QUIET, compare
from test_capture import assert_equal, both, emulated, fill, replay_beside, scene, step
from tiers import full

import fusedsched as fs

# Those that a graph takes before they have branched.
CAPTURED = {name: build for name, build in SUBJECTS.items() if name not in (*FUNCTIONS, *METRIC) and "hain" not in name}
CAPTURED["SequentialLR of three"] = CONFIGURED["SequentialLR of three"]

PLANS = {
    "extend": lambda s: s.extend(50),
    "shorten": lambda s: s.extend(25),
    "extend twice": lambda s: (s.extend(90), s.extend(30)),
    "linear branch": lambda s: s.branch(8, final=[0.01, 0.02]),
    "cosine branch": lambda s: s.branch(30, decay="cosine", final_ratio=0.2),
    "1-sqrt branch": lambda s: s.branch(8, decay="1-sqrt"),
    "branch of a longer branch": lambda s: (s.branch(5), s.extend(24), s.branch(6, decay="cosine")),
}
pairs = pytest.mark.parametrize(
    ("name", "plan"), [(n, p) for n in CAPTURED for p in PLANS if n in WITH_AN_END or "branch" in p]
)


def bits(scene):
    """All that training depends on."""
    params, optimizer, scheduler = scene
    rates = [(group["lr"], group.get("betas"), group.get("momentum")) for group in optimizer.param_groups]
    return [p.detach().clone() for p in params], rates, scheduler.last_epoch, scheduler.get_last_lr()


def assert_same_bits(ours, theirs):
    (params, *rest), (others, *expected) = bits(ours), bits(theirs)
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))
    assert rest == expected


def check_replays(name, plan, optimizer="AdamW"):
    graphed, eager = scene(optimizer, CAPTURED[name]), scene(optimizer, CAPTURED[name])
    graph = emulated().record(both(*graphed[1:]))
    for update in range(3, 9):
        replay_beside(graphed, eager, graph, update)
    for _, _, scheduler in (graphed, eager):
        PLANS[plan](scheduler)
    for update in range(9, 16):
        replay_beside(graphed, eager, graph, update)
        if update == 12:
            assert_same_bits(graphed, eager)
    assert_same_bits(graphed, eager)
    step(*graphed, 16)  # an eager step between replays
    step(*eager, 16)
    for _, opt, _ in (graphed, eager):
        opt.param_groups[1]["lr"] *= 0.5
    graphed[1].sync_hparams()
    for update in range(17, 22):
        replay_beside(graphed, eager, graph, update)
    assert_equal(graphed, eager)


@pairs
def test_a_replay_follows_the_new_plan(name, plan):
    check_replays(name, plan, "SGD" if "1-sqrt" in plan else "AdamW")


@pytest.mark.parametrize("name", ["LambdaLR", "MultiplicativeLR", "OneCycleLR"])
def test_a_branch_can_be_captured_whatever_it_came_from(name):
    graphed, eager = (scene("AdamW", SUBJECTS[name]) for _ in range(2))
    for _, _, scheduler in (graphed, eager):
        scheduler.branch(9, decay="cosine")
    graph = emulated().record(both(*graphed[1:]))
    for update in range(3, 15):
        replay_beside(graphed, eager, graph, update)
    assert_same_bits(graphed, eager)


@pytest.mark.parametrize("name", ["CosineAnnealingLR", "OneCycleLR", "SequentialLR"])
@pytest.mark.parametrize("plan", ["extend", "cosine branch"])
def test_a_state_that_was_saved_after_replays_goes_on(name, plan):
    graphed = scene("AdamW", CAPTURED[name])
    graph = emulated().record(both(*graphed[1:]))
    PLANS[plan](graphed[2])
    for update in range(3, 8):
        fill(graphed[0], update)
        emulated().replay(graph)
    states = copy.deepcopy([graphed[1].state_dict(), graphed[2].state_dict()])
    fresh = scene("AdamW", CAPTURED[name])
    for part, state in zip(fresh[1:], states, strict=True):
        part.load_state_dict(state)
    with torch.no_grad():
        for p, q in zip(fresh[0], graphed[0], strict=True):
            p.copy_(q)
    for update in range(8, 14):
        replay_beside(graphed, fresh, graph, update)
    assert_same_bits(graphed, fresh)


def test_the_property_can_fail(monkeypatch):
    """Programs that stay on the device as they were."""
    monkeypatch.setattr("fusedsched.lr_scheduler.replan.reattach", lambda scheduler: None)
    with pytest.raises(AssertionError):
        check_replays("CosineAnnealingLR", "extend")


COMPILED = ("CosineAnnealingLR", "OneCycleLR, three phases", "SequentialLR", "LambdaLR", "ReduceLROnPlateau")


@pytest.mark.parametrize("name", [name if name in COMPILED else full(name) for name in SUBJECTS])
def test_a_compiled_step_is_not_compiled_again(name):
    schedulers = []

    def build(params):
        half = len(params) // 2
        o = fs.AdamW([{"params": params[:half]}, {"params": params[half:], "lr": 0.2}], lr=0.3)
        schedulers.append(SUBJECTS[name](o))
        return o, schedulers[-1]

    def between(i, params, optimizer):
        scheduler = next(s for s in schedulers if s.optimizer is optimizer)
        if i == 4 and name in WITH_AN_END:
            scheduler.extend(30)
        if i == 7:
            scheduler.branch(6, final=[0.01, 0.0], decay="1-sqrt")
        if i == 9:
            scheduler.extend(60)
        if i == 11:
            optimizer.param_groups[0]["lr"] *= 0.5
        if i == 14:
            scheduler.branch(3)

    compare(build, "aot_eager", 20, between=between)


test_a_compiled_step_is_not_compiled_again.pytestmark += QUIET
