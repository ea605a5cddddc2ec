# SPDX-License-Identifier: Apache-2.0
"""The valid objects and texts that the fuzzers (fuzzing.py) start from."""

import torch
from cases import VISIBLE

import fusedsched as fs
from fusedsched import lr_scheduler, schedules as S

TEXTS = (
    "warmup_cosine(peak=3e-4, warmup_steps=20, total_steps=1_000, final=3e-5)",
    "warmup(20) >> linear(1.0, 0.0, steps=100)",
    "0.5 * join([1, S.step(1, 2, gamma=0.5)], boundaries=[10])",
    "warmup_stable_decay(0.1, warmup_steps=10, stable_steps=100, decay_steps=20)",
    "one_cycle(0.1, total_steps=50)",
    "noam(d_model=512, warmup_steps=4000)",
    "polynomial(1.0, 0.1, steps=10, power=2.0)",
    "exponential(0.5, gamma=0.99) * cosine(1.0, 0.1, steps=30)",
    "multistep(0.1, [3, 5], gamma=0.1)",
    "inverse_sqrt(0.1, warmup_steps=10)",
)


def optimizer_of(rng):
    """One that has made two steps, of any class, on a backend of the host."""
    name = rng.choice(sorted(VISIBLE))
    params = [torch.linspace(-1, 1, n).requires_grad_() for n in (3, 4, 5)]
    options = VISIBLE[name] | {"lr": rng.choice([0.1, torch.tensor(0.1), S.linear(0.5, 0.0, steps=10)])}
    groups = [{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.1}]
    optimizer = getattr(fs, name)(groups, backend=rng.choice(["cpu", "reference"]), **options)
    for _ in range(2):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    return optimizer


def _chained(m, o):
    return m.ChainedScheduler([m.ExponentialLR(o, 0.9), m.StepLR(o, 3)])


def _sequence(m, o):
    return m.SequentialLR(o, [m.LinearLR(o, 0.1, total_iters=3), m.CosineAnnealingLR(o, 10)], milestones=[3])


MAKERS = {
    "StepLR": lambda m, o: m.StepLR(o, 3),
    "MultiStepLR": lambda m, o: m.MultiStepLR(o, [2, 5]),
    "CosineAnnealingLR": lambda m, o: m.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda m, o: m.CosineAnnealingWarmRestarts(o, 4),
    "OneCycleLR": lambda m, o: m.OneCycleLR(o, 0.5, total_steps=20),
    "CyclicLR": lambda m, o: m.CyclicLR(o, 0.01, 0.1, step_size_up=4),
    "LambdaLR": lambda m, o: m.LambdaLR(o, lambda e: 0.9**e),
    "PolynomialLR": lambda m, o: m.PolynomialLR(o, 10),
    "ReduceLROnPlateau": lambda m, o: m.ReduceLROnPlateau(o, patience=0),
    "GreedyLR": lambda m, o: m.GreedyLR(o, patience=0),
    "ChainedScheduler": _chained,
    "SequentialLR": _sequence,
}
SCHEDULERS = sorted(MAKERS)


def scheduler_of(name, rng):
    """One that has made two steps."""
    params = [torch.ones(3).requires_grad_()]
    optimizer = fs.SGD(params, lr=rng.choice([0.1, torch.tensor(0.1)]), momentum=0.9, backend="cpu")
    scheduler = MAKERS[name](lr_scheduler, optimizer)
    for _ in range(2):
        params[0].grad = torch.ones(3)
        optimizer.step()
        step(scheduler, name)
    return scheduler


def step(scheduler, name):
    scheduler.step(0.5) if name in ("ReduceLROnPlateau", "GreedyLR") else scheduler.step()
