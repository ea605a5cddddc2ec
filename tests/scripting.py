# SPDX-License-Identifier: Apache-2.0
"""What the scripts of drop-in use (scripts_*.py) share.

A script takes `make(name, params, **options)` and the name of an optimizer, and returns what it saw, by name.
"""

import copy

import torch
from cases import VISIBLE
from tolerances import close

UPDATES = 6  # no script makes more
SCRIPTS = []


def bare_script(function):
    SCRIPTS.append(function)
    return function


def script(*shapes, steps=0):
    """A script about an optimizer of parameters of these shapes that has made some steps.

    What the function returns for (optimizer, params, name of the optimizer) is added to what is seen.
    """

    def add(function):
        def run(make, name):
            params = parameters(*shapes)
            optimizer = make(name, params, **VISIBLE[name])
            train(optimizer, params, steps)
            return seen(optimizer, params, **(function(optimizer, params, name) or {}))

        run.__name__ = function.__name__
        return bare_script(run)

    return add


def parameters(*shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def give_gradients(params, update=0):
    generator = torch.Generator().manual_seed(50 + update)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def train(optimizer, params, updates=3):
    for update in range(updates):
        give_gradients(params, update)
        optimizer.step()


def seen(optimizer, params, **more):
    """The parameters, their state and the numbers of the groups."""
    what = dict(more)
    for i, p in enumerate(params):
        what[f"params[{i}]"] = p.detach().clone()
        what[f"state[{i}] keys"] = sorted(optimizer.state[p]) if p in optimizer.state else []
        for key in what[f"state[{i}] keys"]:
            what[f"state[{i}][{key}]"] = copy.deepcopy(optimizer.state[p][key])
    for i, group in enumerate(optimizer.param_groups):
        for key in ("lr", "betas", "momentum", "weight_decay", "maximize", "initial_lr", "param_names"):
            if key in group:
                what[f"groups[{i}][{key}]"] = group[key]
    return what


def assert_same(ours, torchs):
    assert list(ours) == list(torchs)
    for what, value in torchs.items():
        if isinstance(value, torch.Tensor):
            assert isinstance(ours[what], torch.Tensor), f"{what}: {type(ours[what])} instead of a tensor"
            close(ours[what], value, UPDATES, what)
        else:
            assert ours[what] == value, what
