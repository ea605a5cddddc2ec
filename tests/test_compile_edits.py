# SPDX-License-Identifier: Apache-2.0
"""What is done to an optimizer between its compiled steps acts at the next, as it would without torch.compile."""

import copy

import pytest
import torch
from compared import equal
from compiling import QUIET, compare, give_gradients, numbers, parameters
from torch._dynamo.utils import counters

import fusedsched as fs
from fusedsched import lr_scheduler as L

pytestmark = QUIET


def load(i, params, optimizer):
    if i == 3:
        params[0].saved = copy.deepcopy(optimizer.state_dict())
    if i in (6, 9):
        optimizer.load_state_dict(params[0].saved)


def replace_state(i, params, optimizer):
    if i == 4:
        optimizer.state[params[0]]["exp_avg"] = torch.ones(5, 3)
        optimizer.state[params[1]]["step"].fill_(100.0)


def swap_memory(i, params, optimizer):
    params[0].data = params[0].data.clone()


def add_group(i, params, optimizer):
    if i == 4:
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(4))], "lr": 0.1})
        optimizer.param_groups[1]["params"][0].grad = torch.ones(4)


# What somebody does between two steps -> how many graphs that may take: another layout of memory is another graph.
EDITS = {
    "load": (load, 2),
    "replace state": (replace_state, 2),
    "add group": (add_group, 2),
    "swap memory": (swap_memory, 1),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edits_between_compiled_steps_act(edit):
    between, graphs = EDITS[edit]
    compare(lambda params: (fs.AdamW(params, lr=1e-2), None), graphs=graphs, between=between)


def test_parameters_of_a_new_group_are_written_by_the_graph():
    def body(optimizer, scheduler, params):
        with torch.no_grad():
            before = [p * 2 for p in params]
            optimizer.step()
            params[0].add_(sum((b - p * 2).sum() for b, p in zip(before, params, strict=True)))

    def add(i, params, optimizer):
        if i == 4:
            params.append(torch.nn.Parameter(torch.ones(4)))
            optimizer.add_param_group({"params": [params[-1]], "lr": 0.1})
            params[-1].grad = torch.ones(4)

    compare(lambda params: (fs.AdamW(params), None), graphs=2, between=add, body=body)


def test_a_scaler_skips_a_compiled_step():
    torch._dynamo.reset()
    counters.clear()
    runs = []
    for wrap in (lambda f: f, lambda f: torch.compile(f, fullgraph=True, backend="aot_eager")):
        params = parameters()
        optimizer, scaler = fs.AdamW(params), torch.amp.GradScaler("cpu", init_scale=4.0)
        optimizer.step = wrap(optimizer.step)
        scaler.scale(torch.ones(()))
        for i in range(5):
            give_gradients(params, i)
            params[0].grad[0, 0] = float("inf") if i == 2 else 1.0
            scaler.step(optimizer)
            scaler.update()
        runs.append(numbers(params, optimizer))
        assert optimizer.skipped_steps == 1
    assert equal(*runs) and counters["stats"]["unique_graphs"] == 1


def test_copies_have_graphs_of_their_own():
    params = parameters()
    optimizer = fs.AdamW(params)
    pair = optimizer, L.SequentialLR(optimizer, [L.LinearLR(optimizer), L.ExponentialLR(optimizer, 0.5)], [2])

    @torch.compile(fullgraph=True, backend="aot_eager")
    def one(optimizer, scheduler):
        optimizer.step()
        scheduler.step()

    give_gradients(params, 0)
    one(*pair)
    copies, (other, scheduler) = copy.deepcopy((params, pair))
    give_gradients(copies, 0)
    one(*pair)
    one(other, scheduler)
    assert equal(params, copies) and scheduler.get_last_lr() == pair[1].get_last_lr()


def test_a_bad_rate_changes_nothing():
    params = parameters()
    optimizer = fs.AdamW(params)
    step = torch.compile(optimizer.step, fullgraph=True, backend="aot_eager")
    give_gradients(params, 0)
    step()
    before = numbers(params, optimizer)
    optimizer.param_groups[0]["lr"] = "fast"
    with pytest.raises(TypeError, match="not a number"):
        step()
    optimizer.param_groups[0]["lr"] = 1e-3
    assert equal(numbers(params, optimizer), before)
