# SPDX-License-Identifier: Apache-2.0
"""With advance_on_skip=False a scheduler holds while no update is applied, eager, replayed and compiled, and is
otherwise the very same scheduler. The flag is kept where a state is kept, and torch's keys stay torch's.
"""

import copy
import inspect
import pickle
import warnings

import pytest
import torch
from cases import BACKENDS
from cases_rates import LAMBDA, PLACES, SCHEDULERS, emulated, optimizer, recorded, tensors, values
from compiling import QUIET

from fusedsched import lr_scheduler as ours
from fusedsched.lr_scheduler import skip_guard

if "triton" in PLACES:
    from interpreted import interpreter as interpreter

BACKENDS = [*dict.fromkeys([*BACKENDS, *(["triton"] if "triton" in PLACES else [])])]
LRS = (0.3, 0.2)
# Whether each update is applied. The first one is not.
PATTERN = (0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1)
HOST = "cpu" if "cpu" in BACKENDS else "reference"
on_cuda = pytest.mark.skipif("cuda" not in BACKENDS, reason="the emulated device needs fusedsched._C")
schedules = pytest.mark.parametrize("name", SCHEDULERS)
CASES = [(b, rate, n) for b in BACKENDS if b != "triton" for rate in ("number", "tensor") for n in SCHEDULERS]
CASES += [("triton", rate, "LinearLR to 0") for rate in ("number", "tensor") if "triton" in BACKENDS]
rates = pytest.mark.parametrize("rate", ("number", "tensor"))


def build(name, backend, rate="number", schedule=None, **options):
    lrs = LRS if rate == "number" else tensors(LRS)
    opt = optimizer("ours", backend, lrs)
    opt.found_inf, opt.grad_scale = torch.zeros(()), None
    sched = (schedule or {**SCHEDULERS, **LAMBDA}[name])(opt, **{"advance_on_skip": False, **options})
    return opt, sched


def update(opt, applied):
    opt.found_inf.fill_(0.0 if applied else 1.0)
    opt.step()


def expected(name, backend, rate, pattern=PATTERN):
    """What a scheduler does that is only stepped after updates that were applied, after each of the pattern."""
    opt, sched = build(name, backend, rate, advance_on_skip=True)
    rows = []
    for applied in pattern:
        update(opt, applied)
        if applied:
            sched.step()
        rows.append((values(opt), getattr(sched, "last_epoch", None)))
    return rows


def supported(name, backend, rate):
    return not (backend == "triton" and rate == "number")


@pytest.mark.parametrize(("backend", "rate", "name"), CASES)
def test_it_holds_where_no_update_was_applied(backend, rate, name):
    if not supported(name, backend, rate):
        with pytest.raises(ValueError, match="needs an lr that is a tensor on the device"):
            build(name, backend, rate)
        return
    opt, sched = build(name, backend, rate)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for applied, (row, epoch) in zip(PATTERN, expected(name, backend, rate), strict=True):
            update(opt, applied)
            sched.step()
            assert values(opt) == pytest.approx(row, rel=1e-14)
            assert getattr(sched, "last_epoch", None) == epoch
            if applied:
                sched.step()  # no update since: nothing
                assert values(opt) == pytest.approx(row, rel=1e-14)
            assert [float(x) for x in sched.get_last_lr()] == pytest.approx(row, rel=1e-14)


@on_cuda
@rates
@schedules
def test_it_holds_in_replays(name, rate):
    rows = expected(name, "cuda", rate)
    opt, sched = build(name, "cuda", rate)
    for applied in PATTERN[:4]:
        update(opt, applied)
        sched.step()
    replay = recorded("cuda", lambda: (opt.step(), sched.step()))
    for applied, (row, epoch) in zip(PATTERN[4:], rows[4:], strict=True):
        opt.found_inf.fill_(1.0 - applied)
        replay()
        if applied or rate == "tensor":  # not always: what is read is synchronized, and that must not be needed
            assert values(opt) == pytest.approx(row, rel=1e-13)
            assert getattr(sched, "last_epoch", None) == epoch


@on_cuda
def test_nothing_waits_and_a_step_is_one_launch():
    for rate in ("number", "tensor"):
        opt, sched = build("CosineAnnealingLR", "cuda", rate)
        for applied in PATTERN[:5]:
            update(opt, applied)
            sched.step()
        before = emulated().launches()
        for _ in range(3):
            sched.step()
        assert emulated().launches() == before + 3
        assert sched.__dict__["last_epoch"] != 2 or rate == "number"  # the host has not asked
        assert sched.last_epoch == sum(PATTERN[:5])


@pytest.mark.parametrize("name", ["CosineAnnealingLR", "SequentialLR", "LambdaLR", "OneCycleLR"])
@pytest.mark.parametrize("mark", QUIET[:1])
@pytest.mark.filterwarnings("ignore:.*lru_cache")
def test_it_holds_when_compiled(name, mark):
    rows = expected(name, HOST, "number")
    opt, sched = build(name, HOST)
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    step = torch.compile(lambda: sched.step(), backend=backend, fullgraph=True)
    for applied, (row, epoch) in zip(PATTERN, rows, strict=True):
        update(opt, applied)
        step()
        assert values(opt) == pytest.approx(row, rel=1e-14) and sched.last_epoch == epoch
    assert len(graphs) == 1


@pytest.mark.parametrize("advance", (True, False))
@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "triton"])
def test_with_a_grad_scaler_as_users_write_it(backend, advance):
    """The first update is skipped. No warning about the order of calls, which is right."""
    opt = optimizer("ours", backend, LRS)
    del opt._opt_called
    sched = ours.ExponentialLR(opt, 0.5, advance_on_skip=advance)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    params = [p for group in opt.param_groups for p in group["params"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for factor in (float("inf"), 1.0, 1.0, float("nan"), 1.0):
            opt.zero_grad()
            scaler.scale(sum((p * factor).sum() for p in params)).backward()
            scaler.step(opt)
            scaler.update()
            sched.step()
    assert sched.last_epoch == (5 if advance else 3) and opt.skipped_steps == 2


def test_a_metric_is_not_taken_where_no_update_was_applied():
    opt, sched = build("", HOST, schedule=lambda o, **k: ours.ReduceLROnPlateau(o, factor=0.5, patience=0, **k))
    for applied in (1, 0, 0, 1):
        update(opt, applied)
        sched.step(1.0)
    assert sched.last_epoch == 2 and values(opt) == [0.15, 0.1]


ALL = {**SCHEDULERS, **LAMBDA, "ReduceLROnPlateau": lambda o, **k: ours.ReduceLROnPlateau(o, **k)}


@pytest.mark.parametrize("name", ALL)
def test_signature_and_refusals(name):
    kind = getattr(ours, name.split(",")[0].split(" ")[0])
    parameter = inspect.signature(kind).parameters["advance_on_skip"]
    assert parameter.kind is parameter.KEYWORD_ONLY and parameter.default is True
    theirs = optimizer("torch", "auto", LRS)
    before = values(theirs)
    if name not in ("SequentialLR", "ChainedScheduler"):
        with pytest.raises(ValueError, match="needs an optimizer that counts its updates; AdamW does not"):
            ALL[name](theirs, advance_on_skip=False)
        assert values(theirs) == before and "initial_lr" not in theirs.param_groups[0]
    with pytest.raises(TypeError, match="advance_on_skip must be True or False, got 1"):
        ALL[name](optimizer("ours", "auto", LRS), advance_on_skip=1)


@on_cuda
def test_a_function_on_a_device_is_refused():
    with pytest.raises(ValueError, match="LambdaLR: advance_on_skip=False needs rates in closed form"):
        build("LambdaLR", "cuda")


@pytest.mark.parametrize("name", ALL)
def test_the_flag_is_in_states_and_copies(name):
    opt, sched = build(name, HOST, schedule=ALL[name])
    plain = ALL[name](optimizer("ours", HOST, LRS))
    state = sched.state_dict()
    assert state.keys() == {*plain.state_dict(), "fusedsched"} and state["fusedsched"]["advance_on_skip"] is False
    assert "advance_on_skip" not in state
    again = ALL[name](optimizer("ours", HOST, LRS))
    again.load_state_dict(copy.deepcopy(state))
    twins = [again, copy.deepcopy(sched), pickle.loads(pickle.dumps(sched)) if name != "LambdaLR" else again]
    for twin in twins:
        assert twin._skip_guard is not None and twin.state_dict()["fusedsched"]["advance_on_skip"] is False
        clock = twin._schedulers[0].last_epoch if name == "ChainedScheduler" else twin.last_epoch
        twin.step(*([1.0] if name == "ReduceLROnPlateau" else []))
        assert (twin._schedulers[0].last_epoch if name == "ChainedScheduler" else twin.last_epoch) == clock


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "triton"])
def test_the_outer_one_decides(backend):
    for outer, steps in ((True, 4), (False, 2)):
        opt = optimizer("ours", backend, LRS)
        opt.found_inf, opt.grad_scale = torch.zeros(()), None
        members = [ours.ExponentialLR(opt, 0.5, advance_on_skip=not outer), ours.StepLR(opt, 9, advance_on_skip=outer)]
        sched = ours.SequentialLR(opt, members, [9], advance_on_skip=outer)
        for applied in (1, 0, 0, 1):
            update(opt, applied)
            sched.step()
        assert sched.last_epoch == steps and values(opt) == [0.3 * 0.5**steps, 0.2 * 0.5**steps]


@pytest.mark.parametrize(
    ("backend", "rate"), [(HOST, "number"), (HOST, "tensor"), pytest.param("cuda", "tensor", marks=on_cuda)]
)
def test_each_of_several_has_its_own_count(backend, rate):
    opt, first = build("ExponentialLR", backend, rate)
    second = ours.StepLR(opt, 1, 0.5, advance_on_skip=False)
    for t, applied in enumerate((1, 0, 1, 0, 1)):
        update(opt, applied)
        first.step()
        if t % 2 == 0:
            second.step()
    assert (first.last_epoch, second.last_epoch) == (3, 3)
    assert values(opt) == pytest.approx([lr * 0.9**3 * 0.5**3 for lr in LRS], rel=1e-14)


@on_cuda
def test_several_that_count_on_the_device_need_tensors():
    opt, first = build("ExponentialLR", "cuda")
    second = ours.StepLR(opt, 1, 0.5, advance_on_skip=False)
    update(opt, 1)
    first.step()
    with pytest.raises(RuntimeError, match="another scheduler of the same optimizer already is"):
        second.step()


def test_a_skip_guard_that_never_holds_is_found(monkeypatch):
    """Mutant."""
    monkeypatch.setattr(skip_guard.SkipGuard, "has_moved", lambda self: True)
    with pytest.raises(AssertionError):
        test_it_holds_where_no_update_was_applied(HOST, "number", "ExponentialLR")
