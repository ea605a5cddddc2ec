# SPDX-License-Identifier: Apache-2.0
"""What a random composition says of itself is what eager steps do."""

import random

import pytest
import torch

from fusedsched import lr_scheduler as L
from fusedsched.schedules import Schedule

QUICK, ALL, STEPS = 20, 500, 15
MEMBERS = [
    lambda o, rng: L.ConstantLR(o, rng.choice((0.25, 0.5)), total_iters=rng.choice((0, 1, 3))),
    lambda o, rng: L.ConstantLR(o, 0.5, total_iters=0),
    lambda o, rng: L.LinearLR(o, rng.choice((0.25, 0.5)), 1.0, total_iters=rng.choice((1, 4))),
    lambda o, rng: L.StepLR(o, rng.randint(1, 4), 0.5),
    lambda o, rng: L.MultiStepLR(o, [1, 3], 0.5),
    lambda o, rng: L.ExponentialLR(o, 0.9),
    lambda o, rng: L.PolynomialLR(o, rng.randint(1, 6), 2.0),
    lambda o, rng: L.CosineAnnealingLR(o, rng.randint(1, 6), 0.01),
    lambda o, rng: L.CosineAnnealingWarmRestarts(o, rng.randint(1, 4)),
    lambda o, rng: L.LambdaLR(o, lambda t: 1 / (1 + t)),
]


def composition(rng, optimizer, depth=0):
    count = rng.randint(1, 3)
    members = [
        composition(rng, optimizer, 1) if depth == 0 and rng.random() < 0.3 else rng.choice(MEMBERS)(optimizer, rng)
        for _ in range(count)
    ]
    if rng.random() < 0.4:
        return L.ChainedScheduler(members, optimizer)
    return L.SequentialLR(optimizer, members, milestones=sorted(rng.sample(range(1, 9), count - 1)))


def assert_property(seed):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = composition(random.Random(seed), optimizer)
    curve = scheduler.expressions(steps=STEPS)[0].curve(STEPS)
    eager = [optimizer.param_groups[0]["lr"]]
    optimizer.step()
    for _ in range(STEPS - 1):
        scheduler.step()
        eager.append(optimizer.param_groups[0]["lr"])
    assert curve == pytest.approx(eager, rel=0, abs=1e-11)


def test_expressions_are_what_steps_do():
    for seed in range(QUICK):
        assert_property(seed)


@pytest.mark.full
def test_expressions_of_many_more_are_what_steps_do():
    for seed in range(QUICK, ALL):
        assert_property(seed)


def test_the_property_can_fail(monkeypatch):
    curve = Schedule.curve
    monkeypatch.setattr(Schedule, "curve", lambda self, steps: [0.5 * value for value in curve(self, steps)])
    with pytest.raises(AssertionError):
        test_expressions_are_what_steps_do()
