# SPDX-License-Identifier: Apache-2.0
"""Every number that a kernel reads is a place in one table, and whatever moves a number writes its place."""

import pytest
import torch
from cases import maker
from scripting import give_gradients, parameters
from test_capture import SCHEDULERS, assert_equal, both, emulated, fill, replay_beside, scene, step

from fusedsched import schedules as S
from fusedsched.runtime.hyperparameters import MAX_HYPERPARAMETERS, HyperparameterTable

CARRYING = ("StepLR", "ExponentialLR", "CosineAnnealingLR", "OneCycleLR", "LinearLR")


def test_places_stay_where_they_are_when_groups_join():
    table, groups = HyperparameterTable("cpu", ("lr", "momentum")), [{"name": i} for i in range(5)]
    table.reserve(2)
    first = [table.place(group, "lr") for group in groups[:2]]
    addresses = [place.data_ptr() for place in first]
    rest = [table.place(group, "lr") for group in groups[2:]]
    assert [table.place(group, "lr").data_ptr() for group in groups[:2]] == addresses
    for i, place in enumerate([*first, *rest]):
        place.fill_(float(i))
    assert [table.row(group)[0, 0].item() for group in groups] == [0.0, 1.0, 2.0, 3.0, 4.0]
    blocks = len(table.blocks)
    table.reserve(5)  # there already
    assert len(table.blocks) == blocks
    current = table.current(groups[0], "momentum")
    before = current._version
    table.place(groups[0], "momentum").fill_(7.0)
    assert current.data_ptr() == addresses[0] + 8 * (MAX_HYPERPARAMETERS + 1)
    assert (current.item(), current._version) == (0.0, before)


@pytest.mark.parametrize("schedule", CARRYING)
def test_an_edit_that_an_eager_step_has_used_is_continued_by_replays(schedule):
    graphed, eager = scene("AdamW", SCHEDULERS[schedule]), scene("AdamW", SCHEDULERS[schedule])
    graph = emulated().record(both(*graphed[1:]))
    for update in range(3, 5):
        replay_beside(graphed, eager, graph, update)
    for params, optimizer, _ in (graphed, eager):
        groups = optimizer.param_groups
        groups[1]["lr"] = 0.07
        fill(params, 5)
        optimizer.step()  # nothing else has told the device
    for update in range(6, 12):
        replay_beside(graphed, eager, graph, update)
    assert_equal(graphed, eager)


def test_the_number_that_a_group_began_with_is_an_edit_too():
    """The host has sent it before; since then replays have moved the rate, and nobody has read it."""
    graphed, eager = scene("SGD", SCHEDULERS["ExponentialLR"]), scene("SGD", SCHEDULERS["ExponentialLR"])
    graph = emulated().record(both(*graphed[1:]))
    held = [optimizer.param_groups for _, optimizer, _ in (graphed, eager)]
    was = held[0][1]["lr"]
    for update in range(3, 6):
        replay_beside(graphed, eager, graph, update)
    for groups in held:
        groups[1]["lr"] = float(repr(was))
    graphed[1].sync_hparams()
    for update in range(6, 9):
        replay_beside(graphed, eager, graph, update)
    assert_equal(graphed, eager)


@pytest.mark.parametrize("backend", ["cuda"])
def test_more_edits_than_a_launch_takes_along(backend):
    def build(chosen):
        params = parameters(*[3] * 70)
        optimizer = maker(chosen)("SGD", [{"params": [p], "lr": 0.1} for p in params], lr=0.1, momentum=0.5)
        for update in range(2):
            give_gradients(params, update)
            optimizer.step()
        return params, optimizer

    (params, optimizer), (others, other) = build(backend), build("reference")
    for update in range(2, 5):
        for these, one in ((params, optimizer), (others, other)):
            give_gradients(these, update)
            for i, group in enumerate(one.param_groups):
                group["lr"] = 0.01 * (i + update)
            one.step()
    assert all(torch.allclose(p, q, rtol=1e-6) for p, q in zip(params, others, strict=True))
    graph = emulated().record(optimizer.step)
    for i, group in enumerate(optimizer.param_groups):
        group["lr"] = other.param_groups[i]["lr"] = 0.5 / (i + 1)
    optimizer.sync_hparams()
    emulated().replay(graph)
    other.step()
    assert all(torch.allclose(p, q, rtol=1e-6) for p, q in zip(params, others, strict=True))


def test_a_schedule_that_was_put_aside_for_a_step_keeps_its_tensor_and_resumes():
    params = parameters((4,))
    optimizer = maker("cuda")("SGD", params, lr=S.linear(0.5, 0.1, steps=8))
    give_gradients(params, 0)
    optimizer.step()
    group = optimizer.param_groups[0]
    aside, shown = group["lr"], float(group["lr"])
    group["lr"] = 0.25
    with pytest.warns(UserWarning, match="was written to"):
        optimizer.step()
    assert float(aside) == shown
    group["lr"] = aside
    optimizer.step()
    assert float(group["lr"]) == S.linear(0.5, 0.1, steps=8)(3)


def test_the_property_can_fail(monkeypatch):
    """Mutant: what an eager step has used does not reach the table."""
    graphed, eager = scene("AdamW", SCHEDULERS["StepLR"]), scene("AdamW", SCHEDULERS["StepLR"])
    graph = emulated().record(both(*graphed[1:]))
    eager[1].param_groups[1]["lr"] = 0.07
    step(*eager, 3)
    fill(graphed[0], 3)
    emulated().replay(graph)
    with pytest.raises(AssertionError):
        assert_equal(graphed, eager)
