# SPDX-License-Identifier: Apache-2.0
"""Captured graphs: replays equal eager steps to the bit, learning rates included; what would freeze is refused.

The kernels and the capture are emulated; the plan, the optimizer and the schedulers are the real ones.
"""

import copy
import functools

import pytest
import torch
from cases import VISIBLE, maker
from cases_lr_schedulers import CLOSED_FORM, CONFIGURED
from emulation import build
from emulation.driver import Emulation
from scripting import give_gradients, parameters

from fusedsched import schedules as S

make = maker("cuda")


@functools.cache
def emulated():
    return Emulation(build())


SCHEDULERS = {name: CONFIGURED[name] for name in CLOSED_FORM}
NATIVE = {
    "AdamW": dict(lr=S.warmup_cosine(0.1, 4, 20), betas=(S.linear(0.5, 0.9, steps=9), 0.7)),
    "SGD": dict(lr=S.one_cycle(0.1, total_steps=30), momentum=S.linear(0.5, 0.9, steps=9)),
}


def scene(name, schedule=None, **options):
    """Parameters in two groups whose gradients stay in place, three eager steps in."""
    params = parameters((5, 3), 17, 4)
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": options.get("lr", 0.3)}]
    optimizer = make(name, groups, **{**VISIBLE[name], **options})
    scheduler = schedule(optimizer) if schedule else None
    for p in params:
        p.grad = torch.zeros_like(p)
    for update in range(3):
        step(params, optimizer, scheduler, update)
    return params, optimizer, scheduler


def fill(params, update):
    values = [torch.empty_like(p) for p in params]
    give_gradients(values, update)
    for p, value in zip(params, values, strict=True):
        p.grad.copy_(value.grad)


def step(params, optimizer, scheduler, update):
    fill(params, update)
    optimizer.step()
    if scheduler is not None:
        scheduler.step()


def replay_beside(graphed, eager, graph, update):
    """One replay of the one, one eager step of the other."""
    fill(graphed[0], update)
    emulated().replay(graph)
    step(*eager, update)


def both(optimizer, scheduler):
    def call():
        optimizer.step()
        if scheduler is not None:
            scheduler.step()

    return call


def numbers(value):
    return [float(x) for x in (value if isinstance(value, tuple) else (value,))]


def assert_equal(ours, theirs):
    for (params, optimizer, scheduler), (others, other, rival) in [(ours, theirs)]:
        assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))
        for group, expected in zip(optimizer.param_groups, other.param_groups, strict=True):
            for key in ("lr", "betas", "momentum", "weight_decay"):
                if key in expected:
                    assert numbers(group[key]) == pytest.approx(numbers(expected[key]), rel=1e-13), key
        assert optimizer._runtime.clocks.read() == other._runtime.clocks.read()
        if scheduler is not None:
            assert getattr(scheduler, "last_epoch", None) == getattr(rival, "last_epoch", None)
            assert scheduler.get_last_lr() == pytest.approx(rival.get_last_lr(), rel=1e-13)


@pytest.mark.parametrize("name", NATIVE)
def test_native_schedules_move_in_replays(name):
    graphed, eager = scene(name, **NATIVE[name]), scene(name, **NATIVE[name])
    graph = emulated().record(graphed[1].step)
    for update in range(3, 20):
        replay_beside(graphed, eager, graph, update)
    assert_equal(graphed, eager)


def test_a_graph_keeps_its_gradients():
    """Eager steps between replays have others; the captured addresses stay."""
    graphed, eager = scene("AdamW"), scene("AdamW")
    captured = [p.grad for p in graphed[0]]
    graph = emulated().record(graphed[1].step)
    for update in range(3, 9):
        for params, *_ in (graphed, eager):
            give_gradients(params, update)  # new tensors
        if update % 2:
            for grad, p in zip(captured, graphed[0], strict=True):
                grad.copy_(p.grad)
            emulated().replay(graph)
        else:
            graphed[1].step()
        eager[1].step()
    assert_equal(graphed, eager)


def test_an_edit_before_the_capture_is_in_it_and_later_ones_too():
    graphed, eager = scene("AdamW"), scene("AdamW")
    for _, optimizer, _ in (graphed, eager):
        optimizer.param_groups[0]["lr"] = 0.05
    graph = emulated().record(graphed[1].step)
    for update in range(3, 9):
        if update == 6:
            for _, optimizer, _ in (graphed, eager):
                optimizer.param_groups[0]["weight_decay"] = 0.25
            graphed[1].sync_hparams()
        replay_beside(graphed, eager, graph, update)
    assert_equal(graphed, eager)


def test_one_launch_for_all_groups_and_two_with_a_scheduler():
    _, optimizer, scheduler = scene("AdamW", SCHEDULERS["OneCycleLR"])
    assert emulated().nodes(emulated().record(optimizer.step)) == 1
    assert emulated().nodes(emulated().record(both(optimizer, scheduler))) == 2


def test_a_skipped_update_is_skipped_in_replays():
    graphed, eager = scene("AdamW", SCHEDULERS["StepLR"]), scene("AdamW", SCHEDULERS["StepLR"])
    flags = [torch.zeros(()), torch.zeros(())]
    for (_, optimizer, _), flag in zip((graphed, eager), flags, strict=True):
        optimizer.found_inf, optimizer.grad_scale = flag, None
    graph = emulated().record(both(*graphed[1:]))
    for update in range(3, 12):
        for flag in flags:
            flag.fill_(float(update % 3 == 0))
        replay_beside(graphed, eager, graph, update)
    assert_equal(graphed, eager)
    assert graphed[1].skipped_steps == 3


def test_copies_and_states_after_replays():
    graphed, eager = scene("AdamW", SCHEDULERS["CosineAnnealingLR"]), scene("AdamW", SCHEDULERS["CosineAnnealingLR"])
    graph = emulated().record(both(*graphed[1:]))
    for update in range(3, 8):
        replay_beside(graphed, eager, graph, update)
    ours, theirs = graphed[2].state_dict(), eager[2].state_dict()
    assert ours["last_epoch"] == theirs["last_epoch"] and ours["_step_count"] == theirs["_step_count"]
    assert graphed[1].state_dict()["state"][0]["step"] == eager[1].state_dict()["state"][0]["step"] == 8
    replay_beside(graphed, eager, graph, 8)
    twin = copy.deepcopy(graphed[2])  # nobody has read the counter since that replay
    assert twin.last_epoch == 9 and twin._mirror is None


def test_the_property_can_fail():
    """A scheduler whose step is not in the graph: the rate stays, and the property sees it."""
    graphed, eager = scene("AdamW", SCHEDULERS["ExponentialLR"]), scene("AdamW", SCHEDULERS["ExponentialLR"])
    graph = emulated().record(graphed[1].step)
    for update in range(3, 6):
        replay_beside(graphed, eager, graph, update)
    with pytest.raises(AssertionError):
        assert_equal(graphed, eager)
