# SPDX-License-Identifier: Apache-2.0
"""What a graph would freeze, or repeat for ever, is refused by name within a capture; nothing changes, and eager steps
continue.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from cases_lr_schedulers import CONFIGURED, METRIC
from cases_rates import DTYPES, F16, LRS, emulated, optimizer, tensors, values

from fusedsched import _native, lr_scheduler as L
from fusedsched.runtime import hyperparameters

pytestmark = pytest.mark.skipif(_native.module() is None, reason="the emulated device needs fusedsched._C")


def ours():
    opt = optimizer("SGD", "cuda", LRS)
    opt.step()
    return opt


def torchs(lrs=LRS):
    return lambda: optimizer("torch", "cuda", lrs() if callable(lrs) else lrs)


def metric():
    return torch.ones((), dtype=torch.float64)


def by_metric(sched):
    sched.step(metric())


def by_number(sched):
    sched.step(1.0)


def step(sched):
    sched.step()


def edit(opt):
    opt.param_groups[0]["lr"] = 0.5


class Refused(NamedTuple):
    """`eager`: calls before the capture; `then`: what is done to the optimizer before it."""

    optimizer: Callable[[], Any]
    build: Callable[[Any], Any]
    words: str
    call: Callable[[Any], None] = step
    eager: int = 3
    then: Callable[[Any], None] = lambda opt: None


def sequence(*members, at=3):
    return lambda o: L.SequentialLR(o, [member(o) for member in members], [at])


def of(name, **options):
    return lambda o: getattr(L, name)(o, **options)


def beside_another(opt):
    """The first of two that follow a metric steps on the device."""
    opt.first = L.ReduceLROnPlateau(opt)
    by_metric(opt.first)
    return L.ReduceLROnPlateau(opt)


WARMED = CONFIGURED["warmup, plateau"]
NO_FORM, NUMBER = "(its rates have|a member has) no closed form", "a graph would repeat the decision on this number"
WRITTEN = "written to after the last step"
REFUSED = {
    "a function": Refused(ours, CONFIGURED["LambdaLR"], NO_FORM),
    "a function of tensors": Refused(torchs(lambda: tensors(LRS)), CONFIGURED["LambdaLR"], NO_FORM),
    "members that work against each other": Refused(
        ours, lambda o: L.ChainedScheduler([L.ExponentialLR(o, 0.9), L.CosineAnnealingLR(o, 9)]), NO_FORM
    ),
    "numbers of torch's": Refused(torchs(), CONFIGURED["StepLR"], "the lr of AdamW is a number"),
    "some numbers": Refused(
        torchs(lambda: [torch.tensor(0.3), 0.2]), CONFIGURED["StepLR"], "is a tensor, of another a number"
    ),
    "a dtype that no kernel writes": Refused(
        torchs(lambda: tensors(LRS, F16)), CONFIGURED["ExponentialLR"], "is a tensor that no kernel here can write"
    ),
    "beta1 as a number": Refused(
        torchs(lambda: tensors(LRS)), CONFIGURED["OneCycleLR"], "it cycles beta1, which is a number"
    ),
    "an edit before the first capture": Refused(ours, METRIC["ReduceLROnPlateau"], WRITTEN, by_metric, then=edit),
    "an edit of a warmup": Refused(ours, WARMED, WRITTEN, by_metric, eager=1, then=edit),
    "a number": Refused(ours, METRIC["ReduceLROnPlateau"], NUMBER, by_number, eager=0),
    "a number for tensors": Refused(torchs(lambda: tensors(LRS)), METRIC["ReduceLROnPlateau"], NUMBER, by_number),
    "a number for GreedyLR": Refused(ours, METRIC["GreedyLR"], NUMBER, by_number),
    "a number for a sequence": Refused(ours, WARMED, NUMBER, by_number, eager=0),
    "no metric for a sequence": Refused(ours, WARMED, NUMBER, eager=0),
    "an epoch": Refused(
        ours, METRIC["ReduceLROnPlateau"], "Leave it out", lambda s: s.step(metric(), s.last_epoch + 1), eager=0
    ),
    "a guard": Refused(
        ours, of("ReduceLROnPlateau", patience=0, advance_on_skip=False), "the host looks", by_metric, eager=1
    ),
    "messages": Refused(ours, of("GreedyLR", verbose=True), "it decides, or prints", by_metric),
    "a metric in a chain": Refused(
        ours, lambda o: L.ChainedScheduler([L.ExponentialLR(o, 0.5), L.ReduceLROnPlateau(o)]), "", by_metric, eager=0
    ),
    "a function before a plateau": Refused(
        ours, sequence(CONFIGURED["LambdaLR"], METRIC["ReduceLROnPlateau"]), NO_FORM, by_metric, eager=0
    ),
    "two that follow a metric": Refused(
        ours,
        sequence(METRIC["ReduceLROnPlateau"], METRIC["GreedyLR"]),
        "one member that follows a metric",
        by_metric,
        eager=0,
    ),
    "one beside another": Refused(ours, beside_another, "another scheduler of the same", by_metric, eager=0),
    "an end that changes": Refused(
        ours, CONFIGURED["CosineAnnealingLR"], "the decision of now for ever", lambda s: s.extend(60), eager=0
    ),
    "a branch": Refused(
        ours, CONFIGURED["CosineAnnealingLR"], "the decision of now for ever", lambda s: s.branch(5), eager=0
    ),
}


def after_eager_calls(row):
    opt = row.optimizer()
    sched = row.build(opt)
    for _ in range(row.eager):
        row.call(sched)
    row.then(opt)
    return opt, sched


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("name", REFUSED)
def test_what_would_freeze_is_refused_by_name(name, monkeypatch):
    monkeypatch.setattr(hyperparameters, "DTYPES", tuple(dtype for dtype in DTYPES if dtype != F16))
    row = REFUSED[name]
    (opt, sched), (twin, untouched) = after_eager_calls(row), after_eager_calls(row)
    refused = r"\.\w+\([\w, ]*\) cannot be captured.*" if row.words != WRITTEN else ".* "
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"(?s){type(sched).__name__}{refused}{row.words}"):
            emulated().record(lambda: row.call(sched))
    for _ in range(2):
        assert (sched.state_dict(), values(opt)) == (untouched.state_dict(), values(twin))
        row.call(sched)
        row.call(untouched)


def test_a_second_scheduler_in_a_capture_is_refused():
    for opt in (ours(), torchs(lambda: tensors(LRS))()):
        first, second = CONFIGURED["ExponentialLR"](opt), CONFIGURED["MultiStepLR"](opt)
        for sched in (first, second):
            sched.step()
        emulated().record(first.step)
        with pytest.raises(RuntimeError, match=r"MultiStepLR.step\(\) cannot be .*: another scheduler of the same"):
            emulated().record(second.step)


def test_a_refused_first_step_of_an_optimizer_makes_no_state():
    """On a GPU zeros that a capture makes are zeros in replays alone."""
    opt = optimizer("ours", "cuda", LRS)
    with pytest.raises(RuntimeError, match="first step"):
        emulated().record(opt.step)
    assert not any(opt.state.values())
