# SPDX-License-Identifier: Apache-2.0
"""Optimizer classes of users above ours."""

import copy

import pytest
import torch
from test_clients import OPTIONS, assert_same, every_optimizer, network, train, weights

import fusedsched as fs


@every_optimizer
@pytest.mark.parametrize("depth", (0, 1, 2))
def test_hooks_run_once_in_subclasses_too(name, depth):
    kind = getattr(fs, name)
    for _ in range(depth):
        kind = type("Users", (kind,), {"step": _step_of_the_class_before(kind)})
    p = torch.ones(2, requires_grad=True)
    p.grad = torch.ones(2)
    optimizer, calls = kind([p], **OPTIONS[name]), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    optimizer.step()
    optimizer.step(lambda: 1.0)
    assert calls == ["before", "after"] * 2


def _step_of_the_class_before(kind):
    return lambda self, closure=None: kind.step(self, closure)


def constructors_of_torch(optim, _, name, whose):
    """A subclass that does not call the constructor of its class, as some libraries' do."""
    kind = getattr(optim, name)

    class Users(kind):
        def __init__(self, params, **options):
            if whose == "Optimizer":
                defaults = getattr(torch.optim, name)([torch.ones(1)], **options).defaults
                torch.optim.Optimizer.__init__(self, params, defaults)
            else:
                getattr(torch.optim, name).__init__(self, params, **options)

    model = network()
    optimizer = Users(model.parameters(), **OPTIONS[name])
    train(model, optimizer)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)], "lr": 0.5})
    train(model, optimizer)
    return weights(model), [group["lr"] for group in optimizer.param_groups]


@every_optimizer
@pytest.mark.parametrize("whose", ("Optimizer", "the class"))
def test_subclasses_may_call_the_constructors_of_torch(name, whose):
    """A subclass trains as torch's, whichever constructor above it it calls; defaults may be schedules."""
    assert_same(constructors_of_torch, name, whose)

    class Users(getattr(fs, name)):
        def __init__(self, params, lr):
            torch.optim.Optimizer.__init__(self, params, {**getattr(fs, name)([torch.ones(1)]).defaults, "lr": lr})

    optimizer = Users([torch.ones(2, requires_grad=True)], fs.schedules.linear(0.5, 0.25, steps=2))
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()
    assert float(optimizer.param_groups[0]["lr"]) == 0.375 and optimizer.defaults["lr"] == 0.5
    assert optimizer._step_supports_amp_scaling
