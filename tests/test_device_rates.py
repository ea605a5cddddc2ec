# SPDX-License-Identifier: Apache-2.0
"""Learning rates on a device: replays equal eager steps to the bit, edits have torch's effect, and where lr is a tensor
`sched.step()` is one launch for any optimizer, and nothing waits.
"""

import math

import pytest
import torch
from cases_lr_schedulers import CONFIGURED
from cases_rates import (
    DTYPES,
    EVERYWHERE,
    F32,
    F64,
    LRS,
    PLACES,
    SCHEDULERS,
    edit,
    emulated,
    optimizer,
    pair,
    params,
    recorded,
    step,
    tensors,
    values,
    warmed_up,
)
from tiers import full
from torch.optim import lr_scheduler as theirs
from torch.utils._python_dispatch import TorchDispatchMode

from fusedsched import _native, lr_scheduler as ours
from fusedsched.lr_scheduler import driver
from fusedsched.runtime import device_schedule
from fusedsched.schedules import torch_classes
from fusedsched.schedules.edit import EditKind, EditRule

if "triton" in PLACES:
    from interpreted import interpreter as interpreter

COMPILED = getattr(_native.module(), "HostDriver", None)
pytestmark = pytest.mark.skipif(_native.module() is None, reason="the emulated device needs fusedsched._C")


def on_both(rows):
    """Those rows on the emulated CUDA, and on the interpreted Triton, where all but the first are of the full tier."""
    found = [("cuda", *row) for row in rows]
    return found + [(full if i else pytest.param)("triton", *row) for i, row in enumerate(rows) if "triton" in PLACES]


everywhere = pytest.mark.parametrize(("place", "kind", "name"), EVERYWHERE)


def with_kinds(*kinds):
    return [row for row in EVERYWHERE if getattr(row, "values", row)[1] in kinds]


kinds = pytest.mark.parametrize("kind", ("torch", "ours"))
schedules = pytest.mark.parametrize("name", SCHEDULERS)


def on_torch(name):
    """torch's optimizer and scheduler on the host, with tensors, after three steps."""
    twin = optimizer("torch", "auto", tensors(LRS))
    rival = SCHEDULERS[name](twin, theirs)
    for _ in range(3):
        rival.step()
    return twin, rival


def ulps(a, b):
    return 0.0 if a == b else abs(a - b) / math.ulp(b)


@pytest.mark.parametrize(("place", "kind", "name"), with_kinds("torch", "ours"))
def test_values_are_the_evaluators(name, kind, place):
    """To 4 ulp per factor of those that the same scheduler gives a number on the CPU."""
    opt, sched = pair(name, kind, place)
    twin = optimizer("torch", "auto", LRS)
    rival = SCHEDULERS[name](twin)
    for t in range(40 if place == "cuda" else 12):
        sched.step()
        rival.step()
        for a, b in zip(values(opt), values(twin), strict=True):
            # Near the end of a wave torch's first steps, which are recursive, differ by more than the evaluators do.
            assert ulps(a, b) <= 8 or abs(a - b) < 1e-16, t
        assert [x.item() for x in sched.get_last_lr()] == values(opt)
        assert getattr(sched, "last_epoch", 0) == getattr(rival, "last_epoch", 0)
    assert sched._driver.on_device


@pytest.mark.parametrize(("place", "dtype"), on_both([(dtype,) for dtype in DTYPES]), ids=str)
def test_each_dtype_is_rounded_once(dtype, place):
    opt, sched = pair("PolynomialLR", "torch", place, dtype)
    twin = optimizer("torch", "auto", [lr.item() for lr in tensors(LRS, dtype)])
    rival = SCHEDULERS["PolynomialLR"](twin)
    for _ in range(12):
        sched.step()
        rival.step()
        assert values(opt) == [torch.tensor(v, dtype=F64).to(F32).to(dtype).item() if dtype != F64 else v
                               for v in values(twin)]  # fmt: skip


class Nothing(TorchDispatchMode):
    """No tensor is touched by an operator of torch, so none is waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} in a step")


@kinds
@schedules
@pytest.mark.parametrize("n", (1, 40))
def test_a_step_is_one_launch_and_nothing_else(name, kind, n):
    opt, sched = pair(name, kind, "cuda", lrs=[0.1 + i / 100 for i in range(n)])
    warmed_up(opt, sched)
    before = emulated().launches()
    with Nothing():
        for _ in range(5):
            sched.step()
    opt.param_groups[0]["lr"].mul_(0.5)
    with Nothing():
        sched.step()  # an edit too is the kernel's to see
    assert emulated().launches() == before + 6


@everywhere
def test_replays_equal_eager_steps(name, kind, place):
    """Edits between them included; counters and states are right when they are read. To the bit, but for numbers: the
    host computes them, and parameters are the same to the bit."""
    graphed, eager = (warmed_up(*pair(name, kind, place, F32)) for _ in range(2))
    before = params(graphed[0])
    replay = recorded(place, lambda: step(*graphed), graphed[1])
    assert torch.equal(before, params(graphed[0]))  # a capture runs nothing
    if place == "triton":
        graphed[1]._driver._is_counted = True
    exact = 0.0 if kind in ("torch", "ours") else 1e-13
    for t in range(3, 30 if place == "cuda" else 14):
        if t in (6, 7, 15, 21):
            for opt, _ in (graphed, eager):
                edit(opt, 1, lambda lr: lr * 0.5)
        replay()
        step(*eager)
        if not exact or t % 4 == 0:  # not always: reading a number brings the host up to date
            assert values(graphed[0]) == pytest.approx(values(eager[0]), rel=exact, abs=0), t
        if t in (10, 25):  # eager steps continue where the replays left off
            step(*graphed)
            step(*eager)
        if t == 12:
            last = [[float(lr) for lr in sched.get_last_lr()] for _, sched in (graphed, eager)]
            assert last[0] == pytest.approx(last[1], rel=exact, abs=0)
            ours_, theirs_ = graphed[1].state_dict(), eager[1].state_dict()
            assert ours_.keys() == theirs_.keys()
            for key in ("last_epoch", "_step_count", "T_cur", "T_i"):
                assert ours_.get(key) == theirs_.get(key), key
    assert torch.equal(params(graphed[0]), params(eager[0]))
    assert values(graphed[0]) == pytest.approx(values(eager[0]), rel=exact, abs=0)
    assert getattr(graphed[1], "last_epoch", None) == getattr(eager[1], "last_epoch", None)


@pytest.mark.parametrize(("place", "kind", "name"), with_kinds("torch", "number"))
@pytest.mark.parametrize("replayed", (False, True), ids=("eager", "replayed"))
def test_edits_have_torchs_effect(name, kind, place, replayed):
    graphed, rival = warmed_up(*pair(name, kind, place)), on_torch(name)
    call = lambda: step(*graphed)  # noqa: E731
    call = recorded(place, call, graphed[1]) if replayed else call
    for t in range(3, 45 if place == "cuda" else 16):
        if t in (4, 6, 7, 12, 13, 19, 20, 30):
            for opt in (graphed[0], rival[0]):
                edit(opt, 1, lambda lr: 0.02 * (t % 5 + 1))  # noqa: B023
                edit(opt, 2, lambda lr: lr * 1.5)
        call()
        step(*rival)
        assert values(graphed[0]) == pytest.approx(values(rival[0]), rel=1e-11, abs=1e-15), t


@schedules
def test_replaced_tensors_and_changed_attributes_are_taken_in(name):
    opt, sched = warmed_up(*pair(name, "torch", "cuda"))
    twin, rival = on_torch(name)
    for t in range(3, 20):
        if t == 6:
            for o in (opt, twin):
                o.param_groups[0]["lr"] = torch.tensor(0.05, dtype=F64)
        for s in (sched, rival):
            if t == 9 and hasattr(s, "gamma") and name != "CyclicLR":
                s.gamma = 0.7
            s.step()
        assert values(opt) == pytest.approx(values(twin), rel=1e-11, abs=1e-15), t
    assert sched._driver.on_device


CYCLED = on_both([("OneCycleLR", "torch"), ("OneCycleLR", "ours"), ("CyclicLR", "torch")])


@pytest.mark.parametrize(("place", "name", "kind"), CYCLED)
def test_momenta_that_are_tensors_are_written_in_place(name, kind, place):
    make = CONFIGURED[name]
    beta1 = torch.tensor(0.9, dtype=F64)
    opt = optimizer(kind, place, tensors(LRS), **({} if kind == "torch" else {"betas": (0.9, 0.99)}))
    opt.param_groups[0]["betas"] = (beta1, opt.param_groups[0]["betas"][1])
    sched = make(opt)
    twin = optimizer("torch", "auto", LRS)
    rival = make(twin)
    for _ in range(12):
        sched.step()
        rival.step()
        assert opt.param_groups[0]["betas"][0] is beta1 and type(opt.param_groups[1]["betas"][0]) is float
        momenta = [float(group["betas"][0]) for group in opt.param_groups]
        assert momenta == pytest.approx([group["betas"][0] for group in twin.param_groups], rel=1e-15)
        assert values(opt) == pytest.approx(values(twin), rel=1e-15)


def test_views_of_one_tensor_and_a_shared_one():
    base = torch.tensor(LRS, dtype=F64)
    opt, twin = optimizer("torch", "cuda", list(base.unbind())), optimizer("torch", "auto", LRS)
    sched, rival = (SCHEDULERS["CosineAnnealingLR"](o) for o in (opt, twin))
    one = torch.tensor(0.3, dtype=F64)
    shared = optimizer("torch", "cuda", [one, one])
    third = SCHEDULERS["CosineAnnealingLR"](shared)
    for _ in range(9):
        for s in (sched, rival, third):
            s.step()
        assert base.tolist() == values(opt) == pytest.approx(values(twin), rel=1e-15)
        assert one.item() == pytest.approx(values(twin)[0], rel=1e-15)
    assert sched._driver.on_device and len(third._device_schedule) == 1


def test_a_shared_tensor_that_two_groups_want_otherwise_is_torchs():
    one = torch.tensor(0.3, dtype=F64)
    opt, twin = optimizer("torch", "cuda", [one, one]), optimizer("torch", "auto", [one.clone()])
    twin.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": twin.param_groups[0]["lr"]})
    sched, rival = ours.SWALR(opt, [0.1, 0.2], 5), torch.optim.swa_utils.SWALR(twin, [0.1, 0.2], 5)
    for _ in range(4):
        sched.step()
        rival.step()
        assert values(opt) == pytest.approx(values(twin), rel=1e-12)
    with pytest.raises(RuntimeError, match="cannot be captured yet"):
        emulated().record(sched.step)


@pytest.mark.parametrize("name", [n for n in SCHEDULERS if n not in ("SequentialLR", "ChainedScheduler")])
@pytest.mark.skipif(COMPILED is None, reason="fusedsched._C has not been built")
def test_both_host_drivers_do_the_same(name, monkeypatch):
    runs = []
    for kind in (driver.PythonHostDriver, COMPILED):
        monkeypatch.setattr(driver, "host_driver_class", lambda kind=kind: kind)
        opt, sched = pair(name, "torch", "cuda", F32)
        seen = []
        for t in range(20):
            if t == 7:
                opt.param_groups[0]["lr"].mul_(0.5)
            sched.step()
            seen.append((values(opt), sched.last_epoch, sched._driver is not None and sched._driver.edits()))
        runs.append(seen)
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", ("StepLR", "CosineAnnealingLR", "SWALR", "SequentialLR"))
@pytest.mark.parametrize("place", ("cuda",))
def test_a_forgotten_edit_is_found(name, place, monkeypatch):
    """Mutant: all classes continue edits as those do that forget them."""
    for kind, entry in list(torch_classes.CLASSES.items()):
        forgetful = entry._replace(edit_rule=lambda s, i, base: EditRule(EditKind.DISCARD))
        monkeypatch.setitem(torch_classes.CLASSES, kind, forgetful)
    with pytest.raises(AssertionError):
        test_edits_have_torchs_effect(name, "torch", place, False)


def test_a_late_counter_is_found(monkeypatch):
    """Mutant: tables that begin one step late."""
    before = device_schedule.DeviceSchedule.seek
    monkeypatch.setattr(device_schedule.DeviceSchedule, "seek", lambda self, clock: before(self, clock - 1))
    with pytest.raises(AssertionError):
        test_values_are_the_evaluators("PolynomialLR", "torch", "cuda")
