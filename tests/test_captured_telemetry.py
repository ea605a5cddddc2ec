# SPDX-License-Identifier: Apache-2.0
"""Replays of captured graphs go on filling the ring of telemetry."""

import math

import pytest
import torch
from test_capture import SCHEDULERS, both, emulated, fill, scene, step

from fusedsched import schedules as S

NATIVE = dict(lr=S.warmup_cosine(0.1, 4, 20), betas=(S.linear(0.5, 0.9, steps=9), 0.7))


def recorded(schedule=None, length=100, **options):
    """Two scenes three eager steps in, the telemetry of both on, and the graph of the first."""
    graphed, eager = (scene("AdamW", schedule, **options) for _ in range(2))
    for _, optimizer, _ in (graphed, eager):
        optimizer.enable_telemetry(length)
    return graphed, eager, emulated().record(both(*graphed[1:]))


def replay(graphed, graph, update):
    fill(graphed[0], update)
    emulated().replay(graph)


def assert_same_rows(ours, theirs):
    assert ours.columns == theirs.columns
    for name in ours.columns:
        assert torch.allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-13, equal_nan=True), name


@pytest.mark.parametrize("schedule", ("native", *SCHEDULERS))
def test_replays_have_the_rows_of_eager_steps(schedule):
    native = schedule == "native"
    graphed, eager, graph = recorded(None if native else SCHEDULERS[schedule], **(NATIVE if native else {}))
    for update in range(3, 12):
        replay(graphed, graph, update)
        step(*eager, update)
    step(*graphed, 12)
    step(*eager, 12)
    replay(graphed, graph, 13)
    step(*eager, 13)
    assert graphed[1].telemetry().update.tolist() == list(range(3, 14))
    assert_same_rows(graphed[1].telemetry(), eager[1].telemetry())


def test_the_ring_goes_round_and_a_norm_belongs_to_one_replay():
    graphed, _, graph = recorded(length=4, **NATIVE)
    for update in range(3, 12):
        if update % 2:
            graphed[1].log_grad_norm(torch.tensor(float(update)))
        replay(graphed, graph, update)
    telemetry = graphed[1].telemetry()
    assert telemetry.update.tolist() == [8, 9, 10, 11]
    assert [None if math.isnan(x) else x for x in telemetry.grad_norm.tolist()] == [None, 9.0, None, 11.0]
    assert telemetry.lr[:, 0].tolist() == [NATIVE["lr"](u) for u in range(8, 12)]


def test_skipped_replays_have_rows():
    graphed = scene("AdamW", **NATIVE)
    optimizer = graphed[1]
    optimizer.found_inf, optimizer.grad_scale = torch.zeros(()), None
    optimizer.enable_telemetry()
    graph = emulated().record(optimizer.step)
    for update in range(3, 9):
        optimizer.found_inf.fill_(float(update in (4, 5)))
        replay(graphed, graph, update)
    telemetry = optimizer.telemetry()
    assert telemetry.skipped.tolist() == [False, True, True, False, False, False]
    assert telemetry.update.tolist() == [3, 4, 4, 4, 5, 6]
    assert telemetry.lr[:, 1].tolist() == [NATIVE["lr"](u) for u in (3, 4, 4, 4, 5, 6)]


def test_it_is_one_launch_more_and_none_when_off():
    _, optimizer, _ = scene("AdamW", **NATIVE)
    assert emulated().nodes(emulated().record(optimizer.step)) == 1
    optimizer.enable_telemetry()
    assert emulated().nodes(emulated().record(optimizer.step)) == 2
    optimizer.disable_telemetry()
    assert emulated().nodes(emulated().record(optimizer.step)) == 1


def test_a_graph_goes_on_after_it_was_turned_off():
    graphed, _, graph = recorded(**NATIVE)
    optimizer = graphed[1]
    optimizer.disable_telemetry()
    replay(graphed, graph, 3)  # into memory that is still there
    optimizer.enable_telemetry()
    replay(graphed, graph, 4)
    assert len(optimizer.telemetry()) == 0
    step(*graphed, 5)
    assert optimizer.telemetry().update.tolist() == [5]


def test_it_cannot_be_turned_on_in_a_capture():
    _, optimizer, _ = scene("AdamW")
    with pytest.raises(RuntimeError, match="before the capture"):
        emulated().record(optimizer.enable_telemetry)


def test_the_property_can_fail():
    graphed, eager, graph = recorded(SCHEDULERS["ExponentialLR"])
    for update in range(3, 6):
        replay(graphed, graph, update)
        if update != 4:
            step(*eager, update)
    with pytest.raises((AssertionError, RuntimeError)):
        assert_same_rows(graphed[1].telemetry(), eager[1].telemetry())
