# SPDX-License-Identifier: Apache-2.0
"""Random programs that are run twice, with torch's optimizer on its plain path and with ours: whatever they do, both
must agree. `python tests/random_runs.py FIRST LAST [BACKEND]` runs many and says which seed differs.
"""

import copy
import pickle
import random
import sys
import warnings

import torch
from cases import BACKENDS, maker, torch_twin
from torch import Tensor
from torch.optim import lr_scheduler as theirs
from torch.optim.swa_utils import SWALR

from fusedsched import lr_scheduler as ours

SHAPES = ((5, 3), (17,), (), (0,), (2, 3, 4), (40,))
SCHEDULERS = {
    "StepLR": lambda m, o: m.StepLR(o, 3, 0.7),
    "MultiStepLR": lambda m, o: m.MultiStepLR(o, [2, 5, 5], 0.6),
    "ConstantLR": lambda m, o: m.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda m, o: m.LinearLR(o, 0.25, total_iters=6),
    "ExponentialLR": lambda m, o: m.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda m, o: m.PolynomialLR(o, 30, 2.0),
    "CosineAnnealingLR": lambda m, o: m.CosineAnnealingLR(o, 31, 0.001),
    "CosineAnnealingWarmRestarts": lambda m, o: m.CosineAnnealingWarmRestarts(o, 5, 2),
    "CyclicLR": lambda m, o: m.CyclicLR(o, 0.01, 0.1, 3),
    "OneCycleLR": lambda m, o: m.OneCycleLR(o, 0.1, total_steps=200),
    "LambdaLR": lambda m, o: m.LambdaLR(o, lambda t: 1 / (t + 1)),
    "MultiplicativeLR": lambda m, o: m.MultiplicativeLR(o, lambda t: 0.9),
    "SWALR": lambda m, o: (SWALR if m is theirs else m.SWALR)(o, 0.05, anneal_epochs=4),
    "SequentialLR": lambda m, o: m.SequentialLR(o, [m.LinearLR(o, 0.1), m.ExponentialLR(o, 0.9)], [4]),
    "ChainedScheduler": lambda m, o: m.ChainedScheduler([m.LinearLR(o, 0.1), m.ExponentialLR(o, 0.9)], o),
    "ReduceLROnPlateau": lambda m, o: m.ReduceLROnPlateau(o, factor=0.5, patience=1),
}
PICKLED = [name for name in SCHEDULERS if "Lambda" not in name and "Multiplicative" not in name]


class World:
    """One of the two: parameters, optimizer, schedulers, a scaler."""

    def __init__(self, make, module):
        self.make, self.module = make, module
        self.schedulers, self.hooks, self.scaler = [], [], None

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
    world.name, world.dtypes = name, rng.choice([[torch.float64], [torch.float32], [torch.float64, torch.float32]])
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


# What may happen between two steps. Each is done in both worlds, with the same random numbers.


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
        if p.grad is None and draw >= 0.15:
            p.grad = fresh


def edit_rate(world, rng):
    group, value = rng.choice(world.optimizer.param_groups), rng.uniform(0.01, 0.1)
    draw = rng.random()
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(value) if draw < 0.6 else group["lr"].mul_(0.9)
    elif draw < 0.7:
        group["lr"] = value
    else:
        group["lr"] *= 0.9


def edit_number(world, rng):
    group = rng.choice(world.optimizer.param_groups)
    group["weight_decay"] = rng.choice([0.0, 0.1, 0.3])
    if world.name == "SGD":
        if not group["nesterov"]:
            group["momentum"] = rng.choice([0.0, 0.5, 0.9])
            group["dampening"] = rng.choice([0.0, 0.2])
    else:
        group["betas"] = rng.choice([(0.5, 0.8), (0.6, 0.7), (0.0, 0.5)])
        group["eps"] = rng.choice([1e-2, 1e-1])
    group["maximize"] = rng.random() < 0.3


def add_group(world, rng):
    group = new_group(world, rng)
    if not world.schedulers:  # torch's own fail with a group that they do not know
        world.optimizer.add_param_group(group)


def new_scheduler(world, rng):
    name = rng.choice(list(SCHEDULERS))
    if len(world.schedulers) < 2:
        world.schedulers.append(SCHEDULERS[name](world.module, world.optimizer))


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


def reload_schedulers(world, rng):
    for scheduler in world.schedulers:
        scheduler.load_state_dict(copy.deepcopy(scheduler.state_dict()))


def copy_everything(world, rng):
    if world.hooks:
        return
    through_pickle = rng.random() < 0.5 and not any("Lambda" in type(s).__name__ for s in world.schedulers)
    pair = world.optimizer, world.schedulers
    by_pickle = through_pickle and not any("Multiplicative" in type(s).__name__ for s in world.schedulers)
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
    edit_rate, edit_rate, edit_number, add_group, new_scheduler, new_scheduler, drop_scheduler, reload,
    reload_schedulers, copy_everything, toggle_hook, write_parameters, write_state, reorder, zero, clip,
]  # fmt: skip


def update(world, rng):
    """One step, in one of the ways in which users make it, and those of the schedulers."""
    gradients(world, rng)
    way = rng.random()
    if way < 0.2:
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
    for scheduler in world.schedulers:
        if rng.random() < 0.9:
            metric = rng.uniform(0.5, 1.5)
            scheduler.step(metric) if isinstance(scheduler, theirs.ReduceLROnPlateau) else scheduler.step()


def step_behind_scaler(world, rng):
    if world.scaler is None:
        world.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
        world.scaler.scale(torch.ones(()))
    scale, broken = world.scaler.get_scale(), rng.random() < 0.4 and not world.hooks  # they are called, as torch's fused do
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


def differs(mine, other):
    """What is not alike, in words; None."""
    a, b = mine.optimizer, other.optimizer
    numbers = [g["lr"] for g in b.param_groups] + [p for p in other.params]
    loose = any(isinstance(x, Tensor) and x.dtype == torch.float32 for x in numbers)
    limit = 2e-4 if loose else 1e-10
    for i, (p, q) in enumerate(zip(mine.params, other.params, strict=True)):
        pairs = {"value": (p.detach(), q.detach())}
        s, t = a.state.get(p, {}), b.state.get(q, {})
        if {k for k, v in s.items() if v is not None} != {k for k, v in t.items() if v is not None}:
            return f"parameter {i} has the state {sorted(s)}, torch's {sorted(t)}"
        pairs |= {key: (s[key], t[key]) for key in s if t[key] is not None}
        for key, (x, y) in pairs.items():
            if x.shape != y.shape or x.dtype != y.dtype:
                return f"{key} of parameter {i}: {x.dtype} {x.shape}, torch {y.dtype} {y.shape}"
            if x.numel() and not torch.allclose(x, y, rtol=limit, atol=limit):
                return f"{key} of parameter {i} is off by {float((x - y).abs().max()):.3g}"
    for i, (g, h) in enumerate(zip(a.param_groups, b.param_groups, strict=True)):
        for key in ("lr", "initial_lr", "momentum", "betas", "weight_decay", "eps", "maximize"):
            if key in h:
                x, y = ([float(v) for v in (d[key] if key == "betas" else (d[key],))] for d in (g, h))
                if any(abs(v - w) > 1e-6 * max(abs(w), 1e-3) for v, w in zip(x, y, strict=True)):
                    return f"{key} of group {i}: {x}, torch {y}"
    for s, t in zip(mine.schedulers, other.schedulers, strict=True):
        for key in ("last_epoch", "_step_count", "num_bad_epochs", "best", "T_cur"):
            if getattr(s, key, None) != getattr(t, key, None):
                return f"{type(s).__name__}.{key}: {getattr(s, key, None)}, torch {getattr(t, key, None)}"
        if any(abs(float(v) - float(w)) > 1e-6 for v, w in zip(s.get_last_lr(), t.get_last_lr(), strict=True)):
            return f"{type(s).__name__}.get_last_lr(): {s.get_last_lr()}, torch {t.get_last_lr()}"
    return None


def run(seed, backend, steps=12, told=None):
    """Raises AssertionError with what happened last where the worlds differ."""
    worlds = World(maker(backend), ours), World(torch_twin, theirs)
    master, history = random.Random(seed), []

    def both(action):
        seed = master.randrange(2**31)
        history.append(action.__name__)
        outcomes = []
        for world in worlds:
            try:
                action(world, random.Random(seed))
                outcomes.append(None)
            except Exception as error:  # noqa: BLE001
                outcomes.append(f"{type(error).__name__}: {error}")
        if any(outcomes):
            return outcomes
        return None

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raised = both(build)
        assert raised is None, raised
        for _ in range(steps):
            for _ in range(master.randrange(3)):
                raised = both(master.choice(ACTIONS))
                if raised:
                    break
            raised = raised or both(update)
            if raised:
                assert all(raised), (history, raised)
                return history  # both refuse it
            found = differs(*worlds)
            assert found is None, (history, found)
    return history


if __name__ == "__main__":
    first, last = int(sys.argv[1]), int(sys.argv[2])
    chosen = sys.argv[3:] or BACKENDS
    bad, both_raise = 0, 0
    for seed in range(first, last):
        for backend in chosen:
            try:
                run(seed, backend)
            except AssertionError as error:
                bad += 1
                print(seed, backend, str(error)[-400:])
    print(bad, "differ")
