# SPDX-License-Identifier: Apache-2.0
"""Laws: what a graph would freeze is refused by name; states, copies, other steps and other groups are right after
replays; a compiled step is the eager one.
"""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from cases_rates import (
    DTYPES,
    F16,
    F32,
    F64,
    LAMBDA,
    LRS,
    PLACES,
    SCHEDULERS,
    emulated,
    optimizer,
    pair,
    tensors,
    values,
    warmed_up,
)

from fusedsched import _native, lr_scheduler as ours
from fusedsched.runtime import hyperparameters

if "triton" in PLACES:
    from interpreted import interpreter as interpreter

pytestmark = pytest.mark.skipif(_native.module() is None, reason="the emulated device needs fusedsched._C")
kinds = pytest.mark.parametrize("kind", ("torch", "ours"))
schedules = pytest.mark.parametrize("name", SCHEDULERS)


def mixed(place="cuda"):
    return optimizer("torch", place, [torch.tensor(0.3), 0.2])


REFUSED = {
    "a function": (lambda: LAMBDA["LambdaLR"], lambda: optimizer("torch", "cuda", tensors(LRS)), "no closed form"),
    "numbers": (lambda: SCHEDULERS["StepLR"], lambda: optimizer("torch", "cuda", LRS), "the lr of AdamW is a number"),
    "some numbers": (lambda: SCHEDULERS["StepLR"], mixed, "is a tensor, of another a number"),
    "another dtype": (
        lambda: SCHEDULERS["ExponentialLR"],
        lambda: optimizer("torch", "cuda", tensors(LRS, F16)),
        "is a tensor that no kernel here can write",
    ),
    "a metric": (lambda: lambda o: ours.ReduceLROnPlateau(o), lambda: optimizer("torch", "cuda", tensors(LRS)), "metr"),
    "beta1 as a number": (
        lambda: lambda o: ours.OneCycleLR(o, 0.2, total_steps=30),
        lambda: optimizer("torch", "cuda", tensors(LRS)),
        "it cycles beta1, which is a number",
    ),
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_would_freeze_is_refused_by_name(row, monkeypatch):
    monkeypatch.setattr(hyperparameters, "DTYPES", tuple(t for t in DTYPES if t != F16))
    schedule, opt, words = (f() if k < 2 else f for k, f in enumerate(REFUSED[row]))
    sched = schedule(opt)
    arguments = (1.0,) if row == "a metric" else ()
    for _ in range(3):
        sched.step(*arguments)
    before = copy.deepcopy(vars(sched).get("last_epoch")), values(opt)
    with pytest.raises(RuntimeError, match=words) as error:
        emulated().record(lambda: sched.step(*arguments))
    assert type(sched).__name__ in str(error.value)
    assert (sched.last_epoch, values(opt)) == before


@schedules
def test_a_capture_before_the_tables_are_there_is_refused(name):
    opt, sched = pair(name, "torch", "cuda")
    with pytest.raises(RuntimeError, match=r"cannot be captured yet.* Call step\(\) once outside"):
        emulated().record(sched.step)
    sched.step()
    emulated().record(sched.step)


def test_several_schedulers_in_graphs_are_refused_and_alternate_outside():
    opt, twin = optimizer("torch", "cuda", tensors(LRS)), optimizer("torch", "auto", LRS)
    pairs = [[SCHEDULERS[name](o) for name in ("ExponentialLR", "MultiStepLR")] for o in (opt, twin)]
    for _ in range(12):
        for schedulers in pairs:
            for sched in schedulers:
                sched.step()
        assert values(opt) == pytest.approx(values(twin), rel=1e-12)
    first, second = pairs[0]
    emulated().record(first.step)
    with pytest.raises(RuntimeError, match=r"MultiStepLR.step\(\) cannot be captured: another scheduler"):
        emulated().record(second.step)


def loaded(opt, sched, name, kind):
    other = pair(name, kind, "cuda")
    other[0].load_state_dict(copy.deepcopy(opt.state_dict()))
    other[1].load_state_dict(copy.deepcopy(sched.state_dict()))
    return other


def copied(opt, sched, name, kind):
    twin = copy.deepcopy(sched)
    twin.optimizer._fusedsched_backend = "cuda"
    return twin.optimizer, twin


def pickled(opt, sched, name, kind):
    twin = pickle.loads(pickle.dumps(sched))
    twin.optimizer._fusedsched_backend = "cuda"
    return twin.optimizer, twin


@kinds
@schedules
@pytest.mark.parametrize("way", (loaded, copied, pickled))
@pytest.mark.parametrize("edited", (False, True), ids=("", "edited"))
def test_copies_go_on_to_the_same_bits(name, kind, way, edited):
    opt, sched = warmed_up(*pair(name, kind, "cuda", F32))
    graph = emulated().record(sched.step)
    for step in range(5):
        if edited and step == 2:
            opt.param_groups[1]["lr"].mul_(0.5)
        emulated().replay(graph)
    other, twin = way(opt, sched, name, kind)
    assert values(other) == values(opt) and getattr(twin, "last_epoch", 0) == getattr(sched, "last_epoch", 0)
    for _ in range(12):
        emulated().replay(graph)
        twin.step()
        assert values(other) == pytest.approx(values(opt), rel=2e-7)


@pytest.mark.parametrize("name", [n for n in SCHEDULERS if n not in ("SequentialLR", "ChainedScheduler")])
def test_another_step_is_followed_by_the_graph(name):
    """A scheduler that is set to another step or state: the next replay starts there."""
    opt, sched = warmed_up(*pair(name, "torch", "cuda"))
    saved = copy.deepcopy(sched.state_dict())
    graph = emulated().record(sched.step)
    expected = []
    for _ in range(4):
        emulated().replay(graph)
        expected.append(values(opt))
    sched.load_state_dict(saved)
    assert sched.last_epoch == 3
    seen = []
    for _ in range(4):
        emulated().replay(graph)
        seen.append(values(opt))
    assert seen == [pytest.approx(row, rel=1e-14) for row in expected]
    sched.last_epoch = 20
    emulated().replay(graph)
    assert sched.last_epoch == 21


@pytest.mark.parametrize("kind", ["ours", "number"])
@pytest.mark.parametrize("name", ["CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR", "in a sequence", "StepLR"])
def test_the_first_update_of_a_group_that_joins_after_replays(name, kind):
    """Law: it has the rate of the step that replays have come to; from the present rate, the one that it brings."""

    def build(opt):
        if name in SCHEDULERS:
            return SCHEDULERS[name](opt)
        return ours.SequentialLR(opt, [ours.StepLR(opt, 9), ours.CosineAnnealingWarmRestarts(opt, 4, 2)], [2])

    lrs = [0.3, 0.2]
    opt = optimizer(kind, "cuda", lrs[:1] if kind == "number" else tensors(lrs[:1]))
    sched = build(opt)
    graph = emulated().record((warmed_up(opt, sched), sched.step)[1])
    for _ in range(3):
        emulated().replay(graph)
    late = 0.2 if kind == "number" else torch.tensor(0.2, dtype=F64)
    opt.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": late})
    twin = optimizer("torch", "auto", lrs)
    rival = build(twin)
    for _ in range(6):
        rival.step()
    assert values(opt) == pytest.approx(values(twin) if name != "StepLR" else [values(twin)[0], 0.2], rel=1e-12)
    assert sched.last_epoch == 6
    for t in range(5):
        opt.step(), sched.step(), rival.step()
        expected = values(twin) if name != "StepLR" else [values(twin)[0], values(opt)[1]]
        assert values(opt) == pytest.approx(expected, rel=1e-12), t
    emulated().replay(emulated().record(sched.step)), rival.step()
    assert values(opt)[0] == pytest.approx(values(twin)[0], rel=1e-12) and sched.last_epoch == 12


def test_a_group_that_joins_after_a_capture_needs_another_one():
    opt, sched = warmed_up(*pair("CosineAnnealingLR", "torch", "cuda"))
    graph = emulated().record(sched.step)
    emulated().replay(graph)
    lr = torch.tensor(0.4, dtype=F64)
    opt.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr})
    twin = optimizer("torch", "auto", LRS)
    rival = SCHEDULERS["CosineAnnealingLR"](twin)
    for _ in range(4):
        rival.step()
    twin.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.4})
    sched.step()
    rival.step()  # from the rate that it brings
    assert values(opt) == pytest.approx(values(twin), rel=1e-13) and sched.last_epoch == 5
    again = emulated().record(sched.step)
    emulated().replay(again)
    rival.step()
    assert values(opt) == pytest.approx(values(twin), rel=1e-13) and sched.last_epoch == 6


def test_replays_past_the_last_step_are_told():
    opt = optimizer("torch", "cuda", tensors(LRS))
    sched = ours.OneCycleLR(opt, 0.2, total_steps=8, cycle_momentum=False)
    graph = emulated().record((warmed_up(opt, sched), sched.step)[1])
    for _ in range(5):
        emulated().replay(graph)
    assert sched.last_epoch == 8
    end = values(opt)
    emulated().replay(graph)
    assert values(opt) == end
    with pytest.raises(RuntimeError, match="stepped past its last step"):
        sched.step()


@kinds
@schedules
def test_nothing_is_kept_alive(name, kind):
    opt, sched = warmed_up(*pair(name, kind, "cuda"))
    graph = emulated().record(sched.step)  # the graph keeps tables and tensors, and no scheduler
    emulated().replay(graph)
    gc.collect()
    gc.disable()
    try:
        seen, tensor = [weakref.ref(sched), weakref.ref(opt)], opt.param_groups[0]["lr"]
        del sched, opt
        assert seen[0]() is None and seen[1]() is None
    finally:
        gc.enable()
    before = tensor.item()
    emulated().replay(graph)
    assert tensor.item() != before or name in ("StepLR", "MultiStepLR", "ConstantLR")


# "aot_eager" hands copies of what is written; one class of each kind, since Dynamo takes most of the time.
COMPILED = [("cuda", kind, name, "eager") for kind in ("torch", "ours") for name in SCHEDULERS]
COMPILED += [("cuda", "torch", name, "aot_eager") for name in ("CosineAnnealingLR", "SequentialLR", "OneCycleLR")]
COMPILED += [("triton", "torch", "LinearLR", "aot_eager")] if "triton" in PLACES else []


@pytest.mark.parametrize(("place", "kind", "name", "backend"), COMPILED)
@pytest.mark.filterwarnings("ignore:.*lru_cache", "ignore:.*Detected call")
def test_a_compiled_step_is_one_graph_and_the_same(place, kind, name, backend):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    (opt, sched), (twin, rival) = (pair(name, kind, place, F32) for _ in range(2))
    step = torch.compile(lambda: sched.step(), backend=backend, fullgraph=True)
    for t in range(12):
        if t in (4, 7):
            for o in (opt, twin):
                o.param_groups[1]["lr"].mul_(0.5)
        step()
        rival.step()
        assert values(opt) == values(twin) and sched.get_last_lr() == rival.get_last_lr()
        assert getattr(sched, "last_epoch", None) == getattr(rival, "last_epoch", None)
    assert sched._driver.on_device
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
