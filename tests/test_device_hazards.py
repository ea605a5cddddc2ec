# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between the host, streams and captures on a GPU, as far as the emulation can show it."""

import warnings

import pytest
import torch
from test_capture import SCHEDULERS, both, emulated, replay_beside, scene

from fusedsched import schedules as S
from fusedsched.runtime import flags

LINE = S.linear(0.2, 0.1, steps=50)


def horizon_flags(optimizer):
    return optimizer._runtime.table(torch.device("cpu")).flags


def copies_of_clocks(step):
    """How often `step` copies the clocks to the host, which waits for a GPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            step()
    return sum(event.name == "aten::to" for event in profile.events())


def test_a_flag_that_comes_late_costs_one_look_at_the_clocks():
    """A launch with the old schedule, past its end, sets the flag after the new schedule has come."""
    _, optimizer, _ = scene("AdamW", lr=S.linear(0.1, 0.0, steps=60))
    optimizer.set_schedule("lr", LINE)
    usual = copies_of_clocks(optimizer.step)
    horizon_flags(optimizer)[0] = 1
    looks = [copies_of_clocks(optimizer.step) for _ in range(3)]
    assert looks == [usual + 1, usual, usual] and int(horizon_flags(optimizer)[0]) == 0


def test_a_schedule_past_its_end_is_still_an_error():
    _, optimizer, _ = scene("AdamW", lr=S.from_function(lambda t: 0.1, steps=5))
    with pytest.raises(RuntimeError, match="The schedule of 'lr' ends at step 4"):
        for _ in range(4):
            optimizer.step()


def captured_scene(unload):
    """A scene whose eager steps loaded no kernel of schedulers, clocks or telemetry."""
    emulated().library.fs_emulation_unload()
    graphed, eager = (scene("AdamW", SCHEDULERS["CosineAnnealingLR"]) for _ in range(2))
    for _, optimizer, _ in (graphed, eager):
        optimizer.enable_telemetry(8)
    tokens = torch.tensor(3)
    if unload:
        emulated().library.fs_emulation_unload()

    def call():
        graphed[1].advance(tokens=tokens)
        both(*graphed[1:])()

    return graphed, eager, call


def test_no_kernel_is_first_launched_in_a_capture():
    """Drivers before 12.3 load a kernel at its first launch, which a capture forbids."""
    graphed, eager, call = captured_scene(unload=False)
    graph = emulated().record(call)
    for update in range(3, 6):
        replay_beside(graphed, eager, graph, update)
    assert all(torch.equal(p, q) for p, q in zip(graphed[0], eager[0], strict=True))


def test_the_emulation_notices_a_kernel_that_a_capture_would_load():
    _, _, call = captured_scene(unload=True)
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        emulated().record(call)


def test_flags_of_a_gpu_are_never_handed_out_twice(monkeypatch):
    """A kernel that is under way when its plan is dropped may set one."""
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *a, pin_memory=False, **k: zeros(*a, **k))
    monkeypatch.setattr(flags, "_pages", [])
    monkeypatch.setattr(flags, "_used", flags._PAGE)
    seen = set()
    for n in (4, 1, 1, 1000, 30, 2000, 4):
        made = flags.new_flags(n, torch.device("cuda"))
        places = set(range(made.data_ptr(), made.data_ptr() + 4 * n, 4))
        assert len(made) == n and not made.any() and not places & seen
        seen |= places
        made.fill_(1)
        del made
