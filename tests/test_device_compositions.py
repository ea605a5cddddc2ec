# SPDX-License-Identifier: Apache-2.0
"""Laws: compositions that a captured graph steps, and what is left of their members afterwards."""

import gc
import weakref

import pytest
import torch
from cases_rates import LRS, SCHEDULERS, edit, emulated, optimizer, tensors, values, warmed_up
from torch.optim import lr_scheduler as theirs

from fusedsched import _native

pytestmark = pytest.mark.skipif(_native.module() is None, reason="the emulated device needs fusedsched._C")


@pytest.mark.parametrize("in_a_cycle", [False, True])
@pytest.mark.parametrize("kind", ["ours", "number"])
@pytest.mark.parametrize("name", ["SequentialLR", "ChainedScheduler"])
def test_what_is_left_of_a_composition_that_replays_stepped(name, kind, in_a_cycle):
    """Law: once it is gone, groups have what the device had, and members continue from the steps of the replays."""
    lrs = list(LRS) if kind == "number" else tensors(LRS)
    (opt, sched), twin = (lambda o: (o, SCHEDULERS[name](o)))(optimizer(kind, "cuda", lrs)), optimizer("torch", "", LRS)
    rival, members = SCHEDULERS[name](twin, theirs), sched._schedulers
    graph = emulated().record((warmed_up(opt, sched), sched.step)[1])
    for _ in range(5):
        emulated().replay(graph)
    if in_a_cycle:
        sched.itself = sched
    gone = weakref.ref(sched)
    del sched
    gc.collect()
    assert gone() is None
    for _ in range(8):
        rival.step()
    for t in range(4):
        assert values(opt) == pytest.approx(values(twin), rel=1e-12), t
        counts = [[(one.last_epoch, one._step_count) for one in some] for some in (members, rival._schedulers)]
        assert counts[0] == counts[1]
        opt.step(), members[1].step(), rival._schedulers[1].step()


@pytest.mark.parametrize("kind", ["ours", "number"])
def test_a_sequence_that_is_set_back_after_replays(kind):
    """Law: counters of members follow, those of members that have not begun any more too."""
    lrs = list(LRS) if kind == "number" else tensors(LRS)
    opt = optimizer(kind, "cuda", lrs)
    sched = SCHEDULERS["SequentialLR"](opt)
    graph = emulated().record((warmed_up(opt, sched), sched.step)[1])
    for _ in range(5):
        emulated().replay(graph)
    assert [(one.last_epoch, one._step_count) for one in sched._schedulers] == [(4, 5), (3, 4)]
    sched.last_epoch = 2
    for _ in range(6):
        emulated().replay(graph)
    assert sched.last_epoch == 8
    assert [(one.last_epoch, one._step_count) for one in sched._schedulers] == [(4, 5), (3, 4)]


def of(sched):
    return getattr(sched, "_schedulers", [sched])[-1]


ATTRIBUTES = {"ExponentialLR": ("gamma", 0.5), "CosineAnnealingLR": ("T_max", 9), "LinearLR": ("total_iters", 14)}
ATTRIBUTES |= {"ChainedScheduler": ("gamma", 0.5), "SequentialLR": ("T_max", 9), "OneCycleLR": ("total_steps", 61)}
ATTRIBUTES |= {"CosineAnnealingWarmRestarts": ("eta_min", 0.01)}


@pytest.mark.parametrize("first", ["a step", "sync_hparams"])
@pytest.mark.parametrize("kind", ["ours", "number"])
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_that_is_set_between_replays(name, kind, first):
    """Law: the next step on the host obeys it, and replays after that; for numbers `sync_hparams` does too."""
    opt = optimizer(kind, "cuda", list(LRS) if kind == "number" else tensors(LRS))
    sched, twin = SCHEDULERS[name](opt), optimizer("torch", "", LRS)
    rival = SCHEDULERS[name](twin, theirs)
    graph = emulated().record((warmed_up(opt, sched), sched.step)[1])
    for _ in range(4):
        emulated().replay(graph)
    for _ in range(7):
        rival.step()
    attribute, value = ATTRIBUTES[name]
    setattr(of(sched), attribute, value), setattr(of(rival), attribute, value)
    replays = first == "sync_hparams" and kind == "number"
    if replays:
        opt.sync_hparams()
    for t in range(6):
        emulated().replay(graph) if t or replays else (opt.step(), sched.step())
        rival.step()
        assert values(opt) == pytest.approx(values(twin), rel=1e-12), t
    assert all(getattr(of(sched), key) == getattr(of(rival), key) for key in ("last_epoch", "_step_count", "T_cur")
               if hasattr(of(rival), key))  # fmt: skip


@pytest.mark.parametrize("kind", ["ours", "number"])
@pytest.mark.parametrize("name", ["ExponentialLR", "SequentialLR", "OneCycleLR"])
def test_the_last_rates_of_a_step_know_no_edit_after_it(name, kind):
    """Law: `get_last_lr()` is what the last step wrote, on a device as on the host."""
    opt = optimizer(kind, "cuda", list(LRS) if kind == "number" else tensors(LRS))
    sched, twin = SCHEDULERS[name](opt), optimizer("torch", "", LRS)
    rival = SCHEDULERS[name](twin, theirs)
    graph = emulated().record((warmed_up(opt, sched), sched.step)[1])
    for _ in range(3):
        rival.step()
    for t in range(6):
        emulated().replay(graph), rival.step()
        edit(opt, t % 2, lambda lr: lr * 0.5)
        twin.param_groups[t % 2]["lr"] *= 0.5
        for _ in range(2):
            assert [float(lr) for lr in sched.get_last_lr()] == pytest.approx(rival.get_last_lr(), rel=1e-12), t
            opt.sync_hparams()


def test_an_attribute_without_a_schedule_is_refused_by_the_next_step():
    """Law: reading does not raise; the step does, with nothing changed, until the change is undone."""
    opt = optimizer("number", "cuda", LRS)
    sched = SCHEDULERS["ExponentialLR"](opt)
    graph = emulated().record((warmed_up(opt, sched), sched.step)[1])
    emulated().replay(graph)
    sched.gamma = torch.tensor(0.5)
    before = values(opt), sched.last_epoch
    with pytest.raises(RuntimeError, match="its rates have no closed form"):
        sched.step()
    assert (values(opt), sched.last_epoch) == before == (pytest.approx([lr * 0.9**4 for lr in LRS]), 4)
    sched.gamma = 0.5
    sched.step()
    assert values(opt) == pytest.approx([lr * 0.9**4 * 0.5 for lr in LRS])
