# SPDX-License-Identifier: Apache-2.0
"""Captured graphs and memory: what a graph reads stays, is not torch's to hand out again, and was really written."""

import torch
from scripting import give_gradients, parameters
from test_capture import SCHEDULERS, both, emulated, fill, replay_beside, scene
from torch.utils._python_dispatch import TorchDispatchMode


class _Made(TorchDispatchMode):
    """Where the memory lies that torch hands out."""

    def __init__(self):
        super().__init__()
        self.places, self.kept = set(), []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and function.namespace == "aten" and not function.is_view:
            self.kept.append(result)
            self.places.add(result.untyped_storage().data_ptr())
        return result


def test_what_a_capture_writes_at_once_is_no_memory_of_the_graph():
    """torch would take it from the graph's pool, where a temporary of the same graph may have been."""
    _, optimizer, scheduler = scene("AdamW", SCHEDULERS["CosineAnnealingLR"])
    with _Made() as made:
        emulated().record(both(optimizer, scheduler))
    schedules = scheduler._driver._places.schedules.values()
    tables = [t for s in schedules for t in (s.clock, s.table, s._numbers)]
    assert made.places and tables and not {t.untyped_storage().data_ptr() for t in tables} & made.places


def test_tables_of_a_graph_outlive_a_parameter_that_joins():
    """Eager steps with a further gradient have tables of their own; the graph goes on with the old ones."""
    scenes = []
    for _ in range(2):
        params, optimizer, _ = scene("AdamW")
        late = parameters(6, 3)
        optimizer.add_param_group({"params": late, "lr": 0.2})
        fill(params, 3)
        optimizer.step()
        scenes.append((params, optimizer, None, late))
    graphed, eager = scenes
    graph = emulated().record(graphed[1].step)
    for *_, late in scenes:
        give_gradients(late)
    for params, optimizer, *_ in scenes:
        fill(params, 4)
        optimizer.step()
    blocks = [torch.full((n,), 255, dtype=torch.uint8) for n in range(64, 1024, 8) for _ in range(4)]  # noqa: F841
    for p in eager[3]:
        p.grad = None
    for update in range(5, 8):
        replay_beside(graphed, eager[:3], graph, update)
    assert all(torch.equal(p, q) for p, q in zip(graphed[0], eager[0], strict=True))
