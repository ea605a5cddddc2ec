# SPDX-License-Identifier: Apache-2.0
"""`from_torch(scheduler)` gives what torch's scheduler writes into the group when it is stepped, for every class,
in closed form where there is one, and it changes nothing of the scheduler, its optimizer or the user's model."""

from __future__ import annotations

import copy

import pytest
import torch
from cases import named
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.swa_utils import SWALR

from fusedsched import schedules as S

N = 60


class HalfOfHalf(torch_schedulers.LRScheduler):
    """A user's own class, with a state of its own and a model that must not be copied."""

    def __init__(self, optimizer, model=None):
        self.model = model
        super().__init__(optimizer)

    def get_lr(self):
        return [group["lr"] * (0.5 if self.last_epoch % 7 == 3 else 1.0) for group in self.optimizer.param_groups]


class Overridden(torch_schedulers.StepLR):
    def get_lr(self):
        return [1.0 / (2 + self.last_epoch) for _ in self.base_lrs]


def of(name, **options):
    return lambda opt: getattr(torch_schedulers, name)(opt, **options)


def chain(*makers):
    return lambda opt: torch_schedulers.ChainedScheduler([make(opt) for make in makers], optimizer=opt)


def sequence(milestones, *makers):
    return lambda opt: torch_schedulers.SequentialLR(opt, [make(opt) for make in makers], milestones=milestones)


CLOSED = {
    "StepLR": of("StepLR", step_size=7, gamma=0.3),
    "MultiStepLR": of("MultiStepLR", milestones=[5, 5, 20], gamma=0.5),
    "MultiStepLR-never": of("MultiStepLR", milestones=[-3, 2.5, 9], gamma=0.5),
    "ConstantLR": of("ConstantLR", factor=0.3, total_iters=7),
    "ConstantLR-of-none": of("ConstantLR", factor=0.3, total_iters=0),
    "ConstantLR-for-ever": of("ConstantLR", factor=0.3, total_iters=7.5),
    "LinearLR": of("LinearLR", start_factor=0.1, total_iters=20),
    "LinearLR-of-none": of("LinearLR", start_factor=0.1, total_iters=0),
    "ExponentialLR": of("ExponentialLR", gamma=0.9),
    "PolynomialLR": of("PolynomialLR", total_iters=30, power=2.0),
    "CosineAnnealingLR": of("CosineAnnealingLR", T_max=25, eta_min=0.01),
    "CosineAnnealingWarmRestarts": of("CosineAnnealingWarmRestarts", T_0=5, T_mult=2, eta_min=0.01),
    "CyclicLR": of("CyclicLR", base_lr=0.1, max_lr=0.9, step_size_up=5, step_size_down=8, mode="triangular2"),
    "CyclicLR-range": of("CyclicLR", base_lr=0.1, max_lr=0.9, step_size_up=5, mode="exp_range", gamma=0.9),
    "OneCycleLR": of("OneCycleLR", max_lr=0.8, total_steps=N),
    "SWALR": lambda opt: SWALR(opt, swa_lr=0.05, anneal_epochs=12),
    "SequentialLR": sequence([10], of("LinearLR", start_factor=0.1, total_iters=10), of("CosineAnnealingLR", T_max=40)),
    "SequentialLR-cut": sequence([4, 30], of("LinearLR", total_iters=10), of("StepLR", step_size=9), of("ConstantLR")),
    "ChainedScheduler": chain(
        of("LinearLR", total_iters=10), of("StepLR", step_size=7), of("ExponentialLR", gamma=0.99)
    ),
}
TABULATED = {
    "LambdaLR": of("LambdaLR", lr_lambda=lambda t: 1 / (1 + t)),
    "MultiplicativeLR": of("MultiplicativeLR", lr_lambda=lambda t: 0.9 + 0.01 * (t % 3)),
    "user": HalfOfHalf,
    "overridden": lambda opt: Overridden(opt, step_size=3),
    "chain-with-offset": chain(of("ConstantLR", total_iters=9), of("CosineAnnealingLR", T_max=25, eta_min=0.1)),
    "sequence-with-lambda": sequence([9], of("LambdaLR", lr_lambda=lambda t: 0.5), of("StepLR", step_size=9)),
    "CyclicLR-own-scale": of("CyclicLR", base_lr=0.1, max_lr=0.9, step_size_up=5, scale_fn=lambda x: 1 / x),
}


def optimizer():
    net = torch.nn.Linear(2, 2)
    return torch.optim.SGD(
        [{"params": [net.weight], "lr": 0.7}, {"params": [net.bias], "lr": 0.3}], lr=1.0, momentum=0.9
    )


def stepped(make, group):
    opt = optimizer()
    scheduler = make(opt)
    values = [opt.param_groups[group]["lr"]]
    while len(values) < N:
        opt.step()
        scheduler.step()
        values.append(opt.param_groups[group]["lr"])
    return values


def assert_close(values, wanted):
    assert values == pytest.approx(wanted, abs=1e-11)


@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("make", named(CLOSED))
def test_known_classes_in_closed_form(make, group):
    schedule = S.from_torch(make(optimizer()), group=group)
    assert all(row[1] != S.Shape.TABLE for row in schedule.lower().rows)
    assert_close(schedule.curve(N), stepped(make, group))
    assert S.Schedule.from_json(schedule.to_json()) == schedule


@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("make", named(TABULATED))
def test_anything_else_is_tabulated(make, group):
    scheduler = make(optimizer())
    with pytest.raises(ValueError, match=f"steps is missing: {type(scheduler).__name__}"):
        S.from_torch(scheduler, group=group)
    schedule = S.from_torch(scheduler, steps=N, group=group)
    assert_close(schedule.curve(N), stepped(make, group))
    with pytest.raises(ValueError, match="past_end"):
        schedule(N)


@pytest.mark.parametrize("make", named({**CLOSED, **TABULATED}))
def test_nothing_of_the_users_is_changed(make):
    opt = optimizer()
    scheduler = make(opt)
    opt.step()
    before = {k: v for k, v in vars(scheduler).items() if isinstance(v, (int, float, list))}
    before, groups = copy.deepcopy((before, [{k: v for k, v in g.items() if k != "params"} for g in opt.param_groups]))
    S.from_torch(scheduler, steps=N)
    after = {k: v for k, v in vars(scheduler).items() if k in before}
    if "_schedulers" in before:
        before.pop("_schedulers"), after.pop("_schedulers")
    assert after == before
    assert [{k: v for k, v in g.items() if k != "params"} for g in opt.param_groups] == groups
    scheduler.step()  # and it still works


@pytest.mark.parametrize("make", named({k: m for k, m in {**CLOSED, **TABULATED}.items() if "with" not in k}))
def test_the_start_is_the_schedulers_however_often_it_was_stepped(make):
    opt = optimizer()
    scheduler = make(opt)
    for _ in range(13):
        opt.step()
        scheduler.step()
    assert_close(S.from_torch(scheduler, steps=N).curve(N), stepped(make, 0))


def test_a_stepped_composition_without_a_closed_form_is_refused():
    opt = optimizer()
    scheduler = TABULATED["chain-with-offset"](opt)
    opt.step()
    scheduler.step()
    with pytest.raises(ValueError, match="cannot be put back"):
        S.from_torch(scheduler, steps=N)


def test_the_model_is_never_copied():
    class Heavy(torch.nn.Module):
        def __deepcopy__(self, memo):
            raise AssertionError("copied")

        def rate(self, t):
            return 1.0 / (1 + t)

    model = Heavy()
    assert_close(S.from_torch(HalfOfHalf(optimizer(), model), steps=N).curve(N), stepped(HalfOfHalf, 0))
    bound = torch_schedulers.LambdaLR(optimizer(), model.rate)
    assert_close(S.from_torch(bound, steps=4).curve(4), [0.7 / (1 + t) for t in range(4)])


def test_ours_are_known_like_torchs():
    ours = pytest.importorskip("fusedsched.lr_scheduler")
    for name, options in {"StepLR": {"step_size": 7}, "CosineAnnealingLR": {"T_max": 25}, "LinearLR": {}}.items():
        mine, theirs = getattr(ours, name)(optimizer(), **options), of(name, **options)(optimizer())
        assert S.from_torch(mine) == S.from_torch(theirs)
