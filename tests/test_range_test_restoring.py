# SPDX-License-Identifier: Apache-2.0
"""After a range test everything is what it was, bit by bit, however the test ended."""

import copy
import random

import numpy
import pytest
import torch
from compared import equal
from range_test_models import Net, data, one_thread as one_thread
from torch import nn

import fusedsched as fs
from fusedsched import range_test
from fusedsched.range_test import saved, stand_in


def state(model, optimizer, loader):
    """Everything that must be as before, as tensors and plain data."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "contents": {name: t.detach().clone() for name, t in tensors.items()},
        "objects": {name: (id(t), id(t.grad)) for name, t in tensors.items()},
        "grads": {name: None if t.grad is None else t.grad.clone() for name, t in tensors.items()},
        "modes": [part.training for part in model.modules()],
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "torch": torch.get_rng_state(),
        "numpy": numpy.random.get_state()[1].tolist(),
        "python": random.getstate(),
        "loader": loader.generator.get_state(),
    }


class Stopped(Exception):
    pass


def trained(kind, frozen_norm=False):
    """A model in the middle of its training, and its optimizer with a scheduler."""
    model = Net().train()
    model.norm.train(not frozen_norm)
    optimizer = kind(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    loader = data()
    loader.generator = loader.sampler.generator = torch.Generator().manual_seed(3)
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    scheduler.step()
    return model, optimizer, loader


def violent(stop_at=None, error=Stopped):
    """A loss function that draws from every generator, and may fail at one step."""
    calls = []

    def loss_fn(output, target):
        calls.append(random.random() + numpy.random.rand() + torch.rand(()).item())
        if len(calls) == stop_at:
            raise error
        return nn.functional.cross_entropy(output, target)

    return loss_fn


def changed_by(kind=fs.AdamW, stop_at=None, error=Stopped, **options):
    """The parts of the state that a range test left different."""
    model, optimizer, loader = trained(kind, frozen_norm=True)
    before = state(model, optimizer, loader)
    try:
        range_test.lr_range_test(model, loader, violent(stop_at, error), optimizer, steps=15, **options)
    except error:
        assert stop_at is not None
    after = state(model, optimizer, loader)
    return [name for name in before if not equal(before[name], after[name])]


@pytest.mark.parametrize("kind", [fs.AdamW, torch.optim.AdamW, fs.SGD, torch.optim.Adagrad])
def test_everything_is_put_back(kind):
    assert changed_by(kind) == []


@pytest.mark.parametrize("error", [Stopped, KeyboardInterrupt])
@pytest.mark.parametrize("stop_at", [1, 9])
def test_everything_is_put_back_after(error, stop_at):
    assert changed_by(stop_at=stop_at, error=error) == []


@pytest.mark.parametrize(
    ("owner", "name", "found"),
    [
        (saved._Tensors, "restore", ["contents", "objects", "grads"]),
        (saved._Generators, "restore", ["torch", "numpy", "python", "loader"]),
        (stand_in.copy, "deepcopy", ["optimizer"]),
    ],
)
def test_the_properties_of_putting_back_can_fail(owner, name, found, monkeypatch):
    model, optimizer, loader = trained(fs.AdamW)
    before = state(model, optimizer, loader)
    monkeypatch.setattr(owner, name, lambda first, *rest: first)
    range_test.lr_range_test(model, loader, violent(), optimizer, steps=15)
    monkeypatch.undo()
    after = state(model, optimizer, loader)
    assert {part for part in before if not equal(before[part], after[part])} >= set(found)


def test_a_model_in_evaluation_is_trained_and_goes_back():
    model = Net().eval()
    seen = []
    model.drop.register_forward_pre_hook(lambda module, args: seen.append(module.training))
    range_test.lr_range_test(model, data(), nn.functional.cross_entropy, steps=3)
    assert all(seen) and len(seen) == 3 and not any(part.training for part in model.modules())


def test_a_frozen_part_stays_frozen():
    model = Net()
    model.norm.eval()
    seen = []
    model.norm.register_forward_pre_hook(lambda module, args: seen.append(module.training))
    range_test.lr_range_test(model, data(), nn.functional.cross_entropy, steps=3)
    assert seen == [False] * 3 and model.drop.training


def test_an_expanded_buffer_is_no_hindrance():
    model = Net()
    model.register_buffer("places", torch.arange(4).expand(3, 4))
    places = model.places
    range_test.lr_range_test(model, data(), nn.functional.cross_entropy, steps=3)
    assert model.places is places and places.tolist() == [[0, 1, 2, 3]] * 3
