# SPDX-License-Identifier: Apache-2.0
"""Troubles with CUDA graphs. torch's side is a model of a capture (watching.py); ours the emulated capture itself.

More about ours: test_capture.py.
"""

import pytest
import torch
from scripting import give_gradients, parameters
from test_capture import emulated, fill, scene
from watching import Recording

from fusedsched import lr_scheduler as L, schedules as S

TORCH = {
    "AdamW": dict(lr=torch.tensor(0.1), weight_decay=0.5, fused=True),  # reads a tensor lr through its address
    "SGD": dict(lr=0.1, momentum=0.5, foreach=False),
}


def torch_scene(name):
    """As `scene`: parameters whose gradients stay in place, a few steps in."""
    params = parameters((5, 3), 17)
    options = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in TORCH[name].items()}
    optimizer = getattr(torch.optim, name)(params, **options)
    give_gradients(params)
    optimizer.step()
    return params, optimizer


def replayed(params, recording):
    for update in range(3):
        fill(params, update)
        recording.replay()
    return [p.detach().clone() for p in params]


def trained(params, optimizer, scheduler=None, updates=range(3)):
    for update in updates:
        fill(params, update)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return [p.detach().clone() for p in params]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def torch_replays_equal_eager_steps(name, change=lambda o: None, schedule=None):
    """Whether they do, if `change(optimizer)` happens between the capture and the replays."""
    ends = []
    for graphed in (True, False):
        params, optimizer = torch_scene(name)
        scheduler = schedule(optimizer) if schedule else None
        fill(params, 9)
        if graphed:
            recording = Recording(lambda o=optimizer, s=scheduler: (o.step(), s.step() if s else None))
        else:
            trained(params, optimizer, scheduler, updates=[9])
        change(optimizer)
        ends.append(replayed(params, recording) if graphed else trained(params, optimizer, scheduler))
    return same(*ends)


def our_replays_equal_eager_steps(name, change=lambda o: None, schedule=None, **options):
    ends = []
    for graphed in (True, False):
        params, optimizer, scheduler = scene(name, schedule, **options)

        def step(o=optimizer, s=scheduler):
            o.step()
            if s is not None:
                s.step()

        if graphed:
            graph = emulated().record(step)
        change(optimizer)
        optimizer.sync_hparams()
        for update in range(3):
            fill(params, update)
            emulated().replay(graph) if graphed else step()
        ends.append([p.detach().clone() for p in params])
    return same(*ends)


@pytest.mark.parametrize("name", TORCH)
def test_the_model_of_a_capture_is_right(name):
    """Where nothing changes, replays equal eager steps; so what differs below is what was frozen."""
    assert torch_replays_equal_eager_steps(name)


def write(key, value):
    def change(optimizer):
        for group in optimizer.param_groups:
            group[key] = value

    return change


FROZEN = {
    "SGD": [("lr", 0.01), ("momentum", 0.9), ("weight_decay", 0.1)],
    "AdamW": [("weight_decay", 0.0), ("betas", (0.5, 0.9)), ("eps", 0.1)],
}


@pytest.mark.parametrize("name, key, value", [(n, *row) for n, rows in FROZEN.items() for row in rows])
def test_numbers_are_frozen_in_a_graph(name, key, value):
    assert not torch_replays_equal_eager_steps(name, write(key, value))
    assert our_replays_equal_eager_steps(name, write(key, value))


def test_a_scheduler_is_frozen_in_a_graph():
    """A float lr: nothing of sched.step() is in the graph. A tensor lr: what StepLR decided at the capture is."""

    def torchs(optimizer):
        return torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)

    assert not torch_replays_equal_eager_steps("SGD", schedule=torchs)
    assert not torch_replays_equal_eager_steps("AdamW", schedule=torchs)
    for name in TORCH:
        assert our_replays_equal_eager_steps(name, schedule=lambda o: L.StepLR(o, 2, 0.5))


def test_cycled_momentum_is_frozen_in_a_graph():
    """Even where lr is a tensor: OneCycleLR writes betas as floats."""

    def one_cycle(module):
        return lambda optimizer: module.OneCycleLR(optimizer, 0.2, total_steps=9)

    assert not torch_replays_equal_eager_steps("AdamW", schedule=one_cycle(torch.optim.lr_scheduler))
    assert our_replays_equal_eager_steps("AdamW", schedule=one_cycle(L))


def test_a_ramp_of_weight_decay_is_frozen_in_a_graph():
    """As a training loop does it with torch, between steps; ours is a schedule."""
    ramp, ends = S.linear(0.0, 0.5, steps=4), []
    for graphed in (True, False):
        params, optimizer = torch_scene("AdamW")
        recording = Recording(optimizer.step)
        for update in range(3):
            write("weight_decay", ramp(update))(optimizer)
            fill(params, update)
            recording.replay() if graphed else optimizer.step()
        ends.append([p.detach() for p in params])
    assert not same(*ends)
    assert our_replays_equal_eager_steps("AdamW", weight_decay=ramp)


def test_a_flag_is_needed_for_a_capture():
    """torch: "capturable" where there is such a flag, which then refuses parameters on the CPU; SGD has none, and
    nothing says that its numbers are frozen. Ours: no flag."""
    params = parameters(4)
    optimizer = torch.optim.AdamW(params, lr=0.1, capturable=True)
    give_gradients(params)
    with pytest.raises(AssertionError, match="capturable=True, params and state_steps must be on supported devices"):
        optimizer.step()
    assert "capturable" not in torch.optim.SGD(params, lr=0.1).param_groups[0]
    for capturable in (False, True):
        assert our_replays_equal_eager_steps("AdamW", capturable=capturable)


def test_launches_grow_with_the_groups():
    params = parameters(*[(3,)] * 20)
    optimizer = torch.optim.AdamW([{"params": [p], "lr": 0.1 + i} for i, p in enumerate(params)], fused=True)
    give_gradients(params)
    optimizer.step()
    assert Recording(optimizer.step).count() == 2 * 20
    _, ours, _ = scene("AdamW")
    for p in parameters(*[(3,)] * 20):
        p.grad = torch.zeros_like(p)
        ours.add_param_group({"params": [p], "lr": 0.2})
    ours.step()
    assert emulated().nodes(emulated().record(ours.step)) == 1
