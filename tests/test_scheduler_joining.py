# SPDX-License-Identifier: Apache-2.0
"""Groups that are added after the scheduler. By class they continue from the rate that they bring, or get the one that
the others have from the base rate that they bring. torch raises for most, sooner or later.
"""

import math
import random
from typing import Any, NamedTuple

import pytest
import torch
from cases_lr_schedulers import SCHEDULERS, SEED, near, numbers, optimizer, rate, run
from scheduler_pairs import as_torch
from torch.optim import lr_scheduler as theirs
from torch.optim.swa_utils import SWALR

from fusedsched import lr_scheduler as ours
from fusedsched.lr_scheduler import param_groups


class Late(NamedTuple):
    """A group that joins an optimizer of base rate 1.0 after `late` steps, with the rate 0.2 and `initial_lr`. `ours`:
    its next rates. `torchs`: how many of them torch's class gives it; `raises`: what it raises then."""

    name: str
    arguments: dict[str, Any]
    late: int
    initial_lr: float | None
    ours: list[float]
    torchs: int = 6
    raises: type[Exception] | None = None


F, Z = {"lr_lambda": lambda t: 1 / (t + 1)}, ValueError
ROWS = [
    # The present rate decays from there; `initial_lr` says nothing but where a wave begins anew.
    Late("StepLR", {"step_size": 2, "gamma": 0.1}, 4, None, [0.2, 0.02, 0.02, 0.002, 0.002, 0.0002]),
    Late("StepLR", {"step_size": 2, "gamma": 0.1}, 4, 0.7, [0.2, 0.02, 0.02, 0.002, 0.002, 0.0002]),
    Late("MultiStepLR", {"milestones": [2, 6], "gamma": 0.1}, 4, None, [0.2, 0.02, 0.02, 0.02, 0.02, 0.02]),
    Late("ConstantLR", {"factor": 0.5, "total_iters": 6}, 4, None, [0.2, 0.4, 0.4, 0.4, 0.4, 0.4]),
    Late("LinearLR", {"start_factor": 0.25, "total_iters": 8}, 4, None, [0.23, 0.26, 0.29, 0.32, 0.32, 0.32]),
    Late("ExponentialLR", {"gamma": 0.5}, 4, None, [0.1, 0.05, 0.025, 0.0125, 0.00625, 0.003125]),
    Late("ExponentialLR", {"gamma": 0.5}, 3, 1.6, [0.1, 0.05, 0.025, 0.0125, 0.00625, 0.003125]),
    Late("PolynomialLR", {"total_iters": 9, "power": 2.0}, 4, None, [0.128, 0.072, 0.032, 0.008, 0.0, 0.0]),
    Late("PolynomialLR", {"total_iters": 9, "power": 2.0}, 12, None, [0.2] * 6),
    Late("SWALR", {"swa_lr": 0.05, "anneal_epochs": 4, "anneal_strategy": "linear"}, 2, None, [0.125] + [0.05] * 5),
    Late("CosineAnnealingLR", {"T_max": 6, "eta_min": 0.01}, 4, None,
         [0.0609103485, 0.01, 0.0227275865, 0.0575, 0.105, 0.1525], 2, Z),
    Late("CosineAnnealingLR", {"T_max": 6, "eta_min": 0.01}, 4, 0.7,
         [0.0609103485, 0.01, 0.0562212364, 0.1825, 0.355, 0.5275], 2, Z),
    Late("MultiplicativeLR", {"lr_lambda": lambda t: 0.9}, 4, None,
         [0.18, 0.162, 0.1458, 0.13122, 0.118098, 0.1062882], 0, Z),
    # The base rate: that of the others at the same step, from `initial_lr` if it brings one.
    Late("LambdaLR", F, 4, None, [0.2 / (t + 1) for t in range(5, 11)], 0, Z),
    Late("LambdaLR", F, 4, 0.7, [0.7 / (t + 1) for t in range(5, 11)], 0, Z),
    Late("CosineAnnealingWarmRestarts", {"T_0": 4}, 4, None,
         [0.1707106781, 0.1, 0.0292893219, 0.2, 0.1707106781, 0.1], 0, Z),
    Late("CosineAnnealingWarmRestarts", {"T_0": 4}, 4, 0.7,
         [0.5974873734, 0.35, 0.1025126266, 0.7, 0.5974873734, 0.35], 0, Z),
    # The scheduler's own argument gives the base.
    Late("CyclicLR", {"base_lr": 0.1, "max_lr": 0.3, "step_size_up": 4}, 4, 0.7,
         [0.25, 0.2, 0.15, 0.1, 0.15, 0.2], 0, Z),
    Late("OneCycleLR", {"max_lr": 0.3, "total_steps": 11, "anneal_strategy": "linear"}, 4, 0.7,
         [0.3 + (1.2e-6 - 0.3) * (t - 2.3) / 7.7 for t in range(5, 11)], 0, KeyError),
]  # fmt: skip


def late_rates(module, row):
    """The rates that the group has after its first steps, and what is raised then."""
    opt = optimizer([1.0])
    sched = (SWALR if module is theirs and row.name == "SWALR" else getattr(module, row.name))(opt, **row.arguments)
    for _ in range(row.late):
        sched.step()
    group = {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.2, "swa_lr": 0.05}
    opt.add_param_group(group if row.initial_lr is None else {**group, "initial_lr": row.initial_lr})
    seen = []
    for _ in row.ours:
        try:
            sched.step()
        except (ValueError, KeyError) as error:
            return seen, type(error)
        seen.append(rate(opt, 1))
    return seen, None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name}-{row.late}-{row.initial_lr}")
def test_a_group_that_joins_late(row):
    """It continues from its present rate or from its base rate, by class; as in torch, as far as that goes on."""
    seen, raised = late_rates(ours, row)
    assert seen == pytest.approx(row.ours, rel=1e-6, abs=1e-9) and raised is None
    seen, raised = late_rates(theirs, row)
    assert seen == pytest.approx(row.ours[: row.torchs], rel=1e-6, abs=1e-9) and raised is row.raises
    assert len(seen) == row.torchs


def add(opt, lr, **options):
    opt.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr, **options})


COMPOSITIONS = {
    # name: (how it is built, late, what the group brings, its next rate)
    "restarts, then a factor": (
        lambda m, o: m.ChainedScheduler(
            [m.CosineAnnealingWarmRestarts(o, 4), m.MultiplicativeLR(o, lambda t: 1.5)]
        ), 4, {"lr": 0.5}, 0.5 * 1.5 * (1 + math.cos(math.pi / 4)) / 2,
    ),
    "a function, then stairs": (
        lambda m, o: m.ChainedScheduler([m.LambdaLR(o, lambda t: 0.75), m.StepLR(o, 3, 0.1)]), 3, {"lr": 0.5}, 0.375,
    ),
    "the active member of a sequence": (
        lambda m, o: m.SequentialLR(o, [m.ExponentialLR(o, 0.9), m.MultiplicativeLR(o, lambda t: 0.9)], [3]),
        5, {"lr": 0.5}, 0.45,
    ),
    "the next member of a sequence": (
        lambda m, o: m.SequentialLR(o, [m.ExponentialLR(o, 0.5), m.StepLR(o, 9)], [5]), 4, {"lr": 0.1}, 0.1,
    ),
    "the next member, from initial_lr": (
        lambda m, o: m.SequentialLR(o, [m.ExponentialLR(o, 0.5), m.StepLR(o, 9)], [5]),
        4, {"lr": 0.1, "initial_lr": 0.3}, 0.3,
    ),
    "a chain of factors": (
        lambda m, o: m.ChainedScheduler([m.ExponentialLR(o, 0.9), m.StepLR(o, 2, 0.5)]), 3, {"lr": 0.4}, 0.18,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_late_group_in_a_composition(name):
    """In a chain the members in their order, in a sequence the active one, each by its rule."""
    build, late, group, expected = COMPOSITIONS[name]
    opt = optimizer([1.0])
    sched = build(ours, opt)
    for _ in range(late):
        sched.step()
    add(opt, **group)
    sched.step()
    assert rate(opt, 1) == near(expected) and sched.get_last_lr()[1] == rate(opt, 1)


@as_torch(bound=1e-12)
def test_a_wave_and_a_ramp_in_a_chain(m):
    """Where torch's chain continues with a late group, ours has its values."""
    opt = optimizer([1.0])
    sched = m.ChainedScheduler([m.CosineAnnealingLR(opt, 20, eta_min=0.1), m.LinearLR(opt, 0.5, total_iters=9)])
    before = run(opt, sched, 4)
    add(opt, 0.5)
    return before, run(opt, sched, 8)


@as_torch
def test_a_state_of_torch_in_which_a_group_joined_late(m):
    """It has fewer base rates than groups; those groups have the rates that they have."""
    opt = optimizer([1.0])
    sched = theirs.ExponentialLR(opt, 0.5)
    run(opt, sched, 4)
    add(opt, 0.35)
    sched.step()
    fresh = optimizer([1.0, 0.35])
    other = m.ExponentialLR(fresh, 0.5)
    fresh.load_state_dict(opt.state_dict())
    other.load_state_dict(sched.state_dict())
    assert len(other.base_lrs) == 1 and rate(fresh, 1) == 0.175
    other.step()
    assert (rate(fresh), rate(fresh, 1)) == (0.5**6, 0.0875)
    return rate(fresh), rate(fresh, 1)


@pytest.mark.parametrize("row", SCHEDULERS, ids=lambda row: row.name)
@pytest.mark.parametrize("edited", [False, True])
def test_a_group_that_is_split_off(row, edited):
    """Parameters that move to a group of their own keep the rates that they had with the others."""
    rng = random.Random(SEED + 3)
    arguments = {k: v[0] if isinstance(v, list) and k != "milestones" else v for k, v in row.configure(rng, 1).items()}
    arguments.update({"total_steps": 999} if "total_steps" in arguments else {})
    opt = optimizer([0.3])
    scheds = [row.ours(opt, **arguments), ours.ExponentialLR(opt, 0.99)]
    for t in range(30):
        if t == 5 and edited:
            opt.param_groups[0]["lr"] *= 0.5
        if t == 7:
            opt.add_param_group({**opt.param_groups[0], "params": [torch.nn.Parameter(torch.zeros(1))]})
        for sched in scheds:
            sched.step()
        assert numbers(opt)[-1] == near(numbers(opt)[0]), t


def test_a_late_group_of_a_plateau():
    opt = optimizer([0.4])
    sched = ours.ReduceLROnPlateau(opt, factor=0.5, patience=0)
    sched.step(1.0)
    opt.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.2})
    sched.step(1.0)
    assert [rate(opt, 0), rate(opt, 1)] == sched.get_last_lr() == [0.2, 0.1]


@pytest.mark.parametrize(
    "name, arguments, where",
    [
        ("LambdaLR", {"lr_lambda": [abs, lambda t: 1.0]}, "lr_lambdas"),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": [0.3, 0.4]}, "max_lrs"),
        ("OneCycleLR", {"max_lr": [0.3, 0.4], "total_steps": 9}, "max_lr"),
        ("SWALR", {"swa_lr": [0.3, 0.4]}, "swa_lr"),
    ],
)
def test_a_late_group_where_each_has_its_own(name, arguments, where):
    """Nobody said what the new group gets: an error that says where to say it, and nothing is changed."""
    opt = optimizer([0.1, 0.2])
    sched = getattr(ours, name)(opt, **arguments)
    opt.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.4})
    before, lists = numbers(opt), {k: v for k, v in sched.__dict__.items() if isinstance(v, list)}
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"^{where} must have the same length.*before the next scheduler\.step"):
            sched.step()
    assert numbers(opt) == before and lists == {k: sched.__dict__[k] for k in lists}
    if name == "CyclicLR":
        sched.max_lrs.append(0.5)
        sched.step()
        assert rate(opt, 2) == near(0.1 + 0.4 / 2000)


@pytest.mark.parametrize("name", ["LambdaLR", "ExponentialLR"])
def test_a_group_of_the_wrong_rate_is_found(name, monkeypatch):
    """Mutants: a base rate that is not its own; a rate that is decayed twice."""
    broken = {
        "LambdaLR": lambda s, i, group: group.update(initial_lr=s.optimizer.param_groups[0]["lr"] / 2),
        "ExponentialLR": lambda s, i, group: group.update(lr=group["lr"] * 0.5**s.last_epoch),
    }
    monkeypatch.setattr(param_groups, "_prepare", lambda s, i, group: (prepare(s, i, group), broken[name](s, i, group)))
    with pytest.raises(AssertionError):
        test_a_group_that_joins_late(next(row for row in ROWS if row.name == name))


prepare = param_groups._prepare
