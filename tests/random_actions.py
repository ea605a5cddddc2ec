# SPDX-License-Identifier: Apache-2.0
"""What random programs are made of (random_runs.py): how they begin, and what may happen between two steps.

Each action is done in both worlds, with the same random numbers.
"""

import copy
import pickle

import torch
from cases_lr_schedulers import CLOSED_FORM, CONFIGURED, FUNCTIONS
from torch import Tensor
from torch.optim import lr_scheduler as theirs

SHAPES = ((5, 3), (17,), (), (0,), (2, 3, 4), (40,))
DTYPES = [[torch.float64], [torch.float32], [torch.float64, torch.float32], [torch.complex128, torch.float64]]
# At a low point of a wave torch divides by nearly nothing, so programs end before one.
ENDS = {"CosineAnnealingLR": 31, "SequentialLR": 31, "PolynomialLR": 30, "OneCycleLR": 200}
SCHEDULERS = [name for name in (*CLOSED_FORM, *FUNCTIONS, "ReduceLROnPlateau") if name != "CosineAnnealingLR of 1"]


class World:
    """One of the two: parameters, optimizer, schedulers, a scaler."""

    def __init__(self, make, module):
        self.make, self.module = make, module
        self.schedulers, self.hooks, self.scaler = [], [], None
        self.rounded = False  # something was a float32

    @property
    def params(self):
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def build(world, rng):
    name = rng.choice(["AdamW", "Adam", "SGD", "SGD"])
    options = {"lr": rng.uniform(0.01, 0.1), "weight_decay": rng.choice([0.0, 0.3]), "maximize": rng.random() < 0.2}
    if name == "SGD":
        options["momentum"] = rng.choice([0.0, 0.6, 0.9])
        if options["momentum"] and rng.random() < 0.4:
            options["nesterov"] = True
        elif rng.random() < 0.5:
            options["dampening"] = 0.3
    else:
        options.update(betas=(0.6, 0.7), eps=1e-2, amsgrad=rng.random() < 0.3)
    if rng.random() < 0.25:
        options["lr"] = torch.tensor(options["lr"], dtype=rng.choice([torch.float64, torch.float32]))
    world.name, world.dtypes = name, rng.choice(DTYPES)
    groups = [new_group(world, rng) for _ in range(rng.randint(1, 3))]
    world.optimizer = world.make(name, groups, **options)


def new_group(world, rng):
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    params = []
    for _ in range(rng.randint(1, 3)):
        value = torch.randn(rng.choice(SHAPES), generator=generator, dtype=torch.float64).to(rng.choice(world.dtypes))
        params.append((value.t().clone().t() if value.dim() == 2 and rng.random() < 0.3 else value).requires_grad_())
    group = {"params": params}
    if rng.random() < 0.4:
        group["lr"] = rng.uniform(0.01, 0.1)
    if rng.random() < 0.3:
        group["weight_decay"] = rng.choice([0.0, 0.2])
    return group


def gradients(world, rng):
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    for p in world.params:
        fresh = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        draw = rng.random()
        if draw < 0.15:
            p.grad = None
        elif draw < 0.3 and p.grad is not None:
            p.grad.copy_(fresh)
        elif draw < 0.4 and p.dim() == 2:
            p.grad = fresh.t().contiguous().t()
        elif draw < 0.45 and p.dim() == 1 and p.numel():
            p.grad = fresh[:1].expand(p.shape)
        else:
            p.grad = fresh


def edit_rate(world, rng):
    group, value = rng.choice(world.optimizer.param_groups), rng.uniform(0.01, 0.1)
    if rng.random() < 0.3:
        group["lr"] *= 0.9
    elif isinstance(group["lr"], Tensor):
        group["lr"].fill_(value)
    else:
        group["lr"] = value


def edit_number(world, rng):
    group = rng.choice(world.optimizer.param_groups)
    group["weight_decay"] = rng.choice([0.0, 0.1, 0.3])
    if world.name == "SGD":
        if not group["nesterov"]:
            group["momentum"] = rng.choice([0.0, 0.5, 0.9])
            group["dampening"] = rng.choice([0.0, 0.2])
    else:
        group["betas"] = rng.choice([(0.5, 0.8), (0.6, 0.7), (0.0, 0.5)])
        if rng.random() < 0.2:
            group["betas"] = tuple(torch.tensor(beta, dtype=torch.float64) for beta in group["betas"])
        group["eps"] = rng.choice([1e-2, 1e-1])
    if rng.random() < 0.2:
        group["weight_decay"] = torch.tensor(group["weight_decay"], dtype=torch.float64)
    group["maximize"] = rng.random() < 0.3


def change_kind_of_rate(world, rng):
    group = rng.choice(world.optimizer.param_groups)
    if isinstance(group["lr"], Tensor):
        group["lr"] = float(group["lr"])
    elif not world.schedulers:
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)


def freeze(world, rng):
    p = rng.choice(world.params)
    p.requires_grad_(not p.requires_grad)


def add_group(world, rng):
    group = new_group(world, rng)
    if not world.schedulers:  # torch's own fail with a group that they do not know
        world.optimizer.add_param_group(group)


def new_scheduler(world, rng):
    name = rng.choice(SCHEDULERS)
    options = {"end": ENDS[name]} if name in ENDS else {}
    if len(world.schedulers) < 2:
        world.schedulers.append(CONFIGURED[name](world.optimizer, world.module, **options))


def drop_scheduler(world, rng):
    if world.schedulers:
        world.schedulers.pop(rng.randrange(len(world.schedulers)))


def reload(world, rng):
    """The state goes through a state dict, into the same optimizer or a new one."""
    state = copy.deepcopy(world.optimizer.state_dict())
    if rng.random() < 0.5 and not world.schedulers and not world.hooks:
        groups = [{"params": group["params"]} for group in world.optimizer.param_groups]
        world.optimizer = world.make(world.name, groups, lr=0.5)
    world.optimizer.load_state_dict(state)


def swap_states(world, rng):
    """What the other one saved is loaded here."""
    world.optimizer.load_state_dict(world.saved_by_other[0])
    for scheduler, state in zip(world.schedulers, world.saved_by_other[1], strict=True):
        scheduler.load_state_dict(state)


def reload_schedulers(world, rng):
    for scheduler in world.schedulers:
        scheduler.load_state_dict(copy.deepcopy(scheduler.state_dict()))


def copy_everything(world, rng):
    if world.hooks:
        return
    by_pickle = rng.random() < 0.5 and not any(hasattr(s, "lr_lambdas") for s in world.schedulers)
    pair = world.optimizer, world.schedulers
    grads = [p.grad for p in world.params]
    world.optimizer, world.schedulers = pickle.loads(pickle.dumps(pair)) if by_pickle else copy.deepcopy(pair)
    for p, grad in zip(world.params, grads, strict=True):  # neither copies them
        p.grad = grad


def toggle_hook(world, rng):
    if world.hooks:
        world.hooks.pop().remove()
    elif rng.random() < 0.5:
        world.hooks.append(world.optimizer.register_step_post_hook(_shrink))
    else:
        world.hooks.append(world.optimizer.register_step_pre_hook(_halve))


@torch.no_grad()
def _shrink(optimizer, args, kwargs):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.mul_(0.99)


@torch.no_grad()
def _halve(optimizer, args, kwargs):
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                p.grad = p.grad * 0.5


@torch.no_grad()
def write_parameters(world, rng):
    p = rng.choice(world.params)
    if rng.random() < 0.5:
        p.mul_(0.9)
    else:
        p.data = p.data.clone() * 0.9


@torch.no_grad()
def write_state(world, rng):
    p, draw = rng.choice(world.params), rng.random()
    state = world.optimizer.state
    if p in state and draw < 0.3:
        del state[p]
    elif p in state:
        for key, value in list(state[p].items()):
            if isinstance(value, Tensor) and key != "step" and draw < 0.6:
                value.mul_(0.5)
            elif isinstance(value, Tensor) and key != "step":
                state[p][key] = value.clone() * 0.5


def reorder(world, rng):
    groups = world.optimizer.param_groups
    if len(groups) > 1 and not world.schedulers and rng.random() < 0.5:
        groups.reverse()
    else:
        group = rng.choice(groups)
        group["params"].reverse()


def zero(world, rng):
    world.optimizer.zero_grad(set_to_none=rng.random() < 0.5)


def clip(world, rng):
    torch.nn.utils.clip_grad_norm_([p for p in world.params if p.numel()], 0.5, foreach=False)


ACTIONS = [
    edit_rate, edit_rate, edit_number, change_kind_of_rate, freeze, add_group, new_scheduler, new_scheduler,
    drop_scheduler, reload, swap_states, reload_schedulers, copy_everything, toggle_hook, write_parameters,
    write_state, reorder, zero, clip,
]  # fmt: skip


def update(world, rng):
    """One step, in one of the ways in which users make it, and those of the schedulers."""
    gradients(world, rng)
    way = rng.random()
    if way < 0.2 and not any(p.is_complex() for p in world.params):
        step_behind_scaler(world, rng)
    elif way < 0.35:
        kept = [p.grad for p in world.params]

        def closure():
            for p, grad in zip(world.params, kept, strict=True):
                p.grad = grad
            return torch.ones(())

        assert float(world.optimizer.step(closure)) == 1.0
    else:
        world.optimizer.step()
    for p in world.params:
        if p.grad is not None and 0 in p.grad.stride():
            p.grad = p.grad.clone()  # an expanded one cannot be written to
    for scheduler in world.schedulers:
        if rng.random() < 0.9:
            metric = rng.uniform(0.5, 1.5)
            scheduler.step(metric) if isinstance(scheduler, theirs.ReduceLROnPlateau) else scheduler.step()


def step_behind_scaler(world, rng):
    if world.scaler is None:
        world.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
        world.scaler.scale(torch.ones(()))
    scale, broken = world.scaler.get_scale(), rng.random() < 0.4 and not world.hooks  # called even then
    for p in world.params:
        if p.grad is not None:
            p.grad = p.grad * (float("inf") if broken else scale)
    unscale = rng.random() < 0.4
    if not any(p.grad is not None and p.numel() for p in world.params):
        return  # torch's scaler has nothing to look at, and says so
    if unscale:
        world.scaler.unscale_(world.optimizer)
    world.scaler.step(world.optimizer)
    world.scaler.update()
