# SPDX-License-Identifier: Apache-2.0
"""What the random programs of memory (memory_runs.py) are run in: a module, its optimizer and schedulers; a step."""

import torch
from torch import Tensor, nn

SHAPES = ((5, 3), (17,), (), (0,), (2, 3, 4), (700,))
NAMES = ("AdamW", "Adam", "SGD")


class World:
    """One of the two: a module that owns the parameters, their optimizer, schedulers."""

    def __init__(self, make, module):
        self.make, self.module = make, module
        self.schedulers, self.made, self.forks = [], 0, True
        self.rounded = False  # read by `differs`

    @property
    def params(self):
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def arrays(self):
        """Pairs of a name and a tensor that users see."""
        for i, p in enumerate(self.params):
            yield f"parameter {i}", p
            if p.grad is not None:
                yield f"the gradient of parameter {i}", p.grad
            for key, value in self.optimizer.state.get(p, {}).items():
                if isinstance(value, Tensor):
                    yield f"state['{key}'] of parameter {i}", value
        for g, group in enumerate(self.optimizer.param_groups):
            if isinstance(group["lr"], Tensor):
                yield f"the rate of group {g}", group["lr"]

    def replace(self, old, new):
        """Puts a parameter in the place of another, in the group and the module. The state goes along."""
        for group in self.optimizer.param_groups:
            group["params"] = [new if p is old else p for p in group["params"]]
        for name, p in self.owner.named_parameters():
            if p is old:
                setattr(self.owner, name, new)
        if old in self.optimizer.state:
            self.optimizer.state[new] = self.optimizer.state.pop(old)


def generator(rng):
    return torch.Generator().manual_seed(rng.randrange(2**31))


def fresh(rng, shape=None):
    shape = rng.choice(SHAPES) if shape is None else shape
    return nn.Parameter(torch.randn(shape, generator=generator(rng), dtype=torch.float64))


def build(world, rng):
    name = rng.choice(NAMES)
    options = {"lr": rng.choice([0.01, 0.1]), "weight_decay": rng.choice([0.0, 0.3])}
    options |= {"momentum": 0.9} if name == "SGD" else {"betas": (0.6, 0.7), "eps": 1e-2}
    if name != "SGD" and rng.random() < 0.3:
        options["amsgrad"] = True
    if rng.random() < 0.3:
        options["lr"] = torch.tensor(options["lr"], dtype=torch.float64)
    world.name, world.owner = name, nn.Module()
    groups = [{"params": [new_parameter(world, rng) for _ in range(rng.randint(1, 3))]} for _ in range(2)]
    world.optimizer = world.make(name, groups, **options)


def new_parameter(world, rng):
    p = fresh(rng)
    setattr(world.owner, f"p{world.made}", p)
    world.made += 1
    return p


def stepped(world, rng):
    """A step in one of the ways in which gradients come, and those of the schedulers."""
    give_gradients(world, rng)
    world.optimizer.step()
    for scheduler in world.schedulers:
        scheduler.step()


def give_gradients(world, rng):
    numbers, draw = generator(rng), rng.random()
    if draw < 0.1:  # views of one buffer, as data parallel training has them
        sizes = [p.numel() for p in world.params]
        flat = torch.randn(sum(sizes), generator=numbers, dtype=torch.float64)
        for p, part in zip(world.params, flat.split(sizes), strict=True):
            p.grad = part.view(p.shape)
        return
    for p in world.params:
        value, draw = torch.randn(p.shape, generator=numbers, dtype=torch.float64), rng.random()
        if draw < 0.15:
            p.grad = None
        elif draw < 0.3 and p.grad is not None:
            p.grad.copy_(value)
        elif draw < 0.5 and p.requires_grad:
            (p * value).sum().backward()
        else:
            p.grad = value
