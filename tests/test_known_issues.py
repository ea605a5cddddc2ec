# SPDX-License-Identifier: Apache-2.0
"""What docs/known-issues.md says of torch.compile and of tensor learning rates, shown with the installed torch and with
this package. CUDA graphs and GradScaler: test_known_issues_graphs.py."""

import ast
import copy
import logging
import re
from pathlib import Path

import pytest
import torch
from cases import VISIBLE, torch_twin
from cases_lr_schedulers import CONFIGURED, FUNCTIONS
from compiling import QUIET
from pages import read
from scripting import give_gradients, parameters
from torch._dynamo.exc import Unsupported
from torch._dynamo.utils import counters
from watching import Recording

import fusedsched as fs
from fusedsched import lr_scheduler as L

pytestmark = QUIET
T = torch.optim.lr_scheduler
TORCH = {"foreach": dict(foreach=True), "fused": dict(fused=True), "single": dict(foreach=False, fused=False)}
HERE = Path(__file__).parent
LISTED = "".join(line for line in read("docs/known-issues.md").splitlines() if line.startswith("- Tests: "))
NAMED = re.findall(r"`(\w+)::(test_\w+)`", LISTED)


def torch_fused(name, params, **options):
    return getattr(torch.optim, name)(params, fused=True, **options)


def named_in(name):
    tree = ast.parse((HERE / f"test_{name}.py").read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.skipif(not NAMED, reason="needs the source tree")
def test_the_page_names_tests_that_exist_and_all_of_these_files():
    sections = read("docs/known-issues.md").split("\n### ")[1:]
    assert len(sections) > 20 and all("\n- torch: " in text and "\n- Tests: " in text for text in sections)
    assert [(file, test) for file, test in NAMED if test not in named_in(file)] == []
    ours = {(file, test) for file in ("known_issues", "known_issues_graphs") for test in named_in(file)}
    about_the_page = {"test_the_page_names_tests_that_exist_and_all_of_these_files"}
    assert {test for _, test in ours - set(NAMED)} <= about_the_page | {"test_the_model_of_a_capture_is_right"}


# torch.compile


@pytest.fixture
def quiet():
    logging.getLogger("torch._logging").setLevel(logging.ERROR)  # "Profiler record function will be ignored"


def graphs(optimizer, scheduler=None, steps=8):
    """How many graphs Dynamo makes of `step()` while a scheduler moves the rate."""
    torch._dynamo.reset()
    counters.clear()
    params = optimizer.param_groups[0]["params"]
    compiled = torch.compile(lambda: optimizer.step(), backend="eager")
    for update in range(steps):
        give_gradients(params, update)
        compiled()
        if scheduler is not None:
            scheduler.step(torch.ones(())) if isinstance(scheduler, T.ReduceLROnPlateau) else scheduler.step()
    return counters["stats"]["unique_graphs"]


MOVES = {  # what moves, whether torch's lr is a tensor, and how many graphs torch makes
    "a float lr": ("ExponentialLR", False, 2),
    "a tensor lr": ("ExponentialLR", True, 1),
    "momentum of OneCycleLR": ("OneCycleLR", True, 2),
    "momentum of CyclicLR": ("CyclicLR", True, 2),
    "a tensor lr, by a metric": ("ReduceLROnPlateau", True, 1),
}


@pytest.mark.parametrize("move", MOVES)
def test_a_number_that_moves_is_compiled_again(move, quiet):
    name, tensor, torchs = MOVES[move]
    lr = torch.tensor(0.1) if tensor else 0.1
    optimizer = torch.optim.AdamW(parameters((5, 3), 7), lr=lr, foreach=None if tensor else True)
    assert graphs(optimizer, CONFIGURED[name](optimizer, T)) == torchs
    assert not tensor or optimizer.param_groups[0]["lr"] is lr
    ours = fs.AdamW(parameters((5, 3), 7), lr=0.1)
    assert graphs(ours, CONFIGURED[name](ours)) == 1


@pytest.mark.parametrize("name", ("AdamW", "Adam", "SGD"))
def test_a_fused_step_gives_no_graph_at_all(name, quiet):
    """torch turns the compiler off around it. Its other implementations give one, between two breaks."""
    for cls, option, expected in ((torch.optim, "fused", 0), (torch.optim, "foreach", 1), (fs, "fused", 1)):
        assert graphs(getattr(cls, name)(parameters(4), lr=0.1, **{option: True})) == expected
        assert bool(counters["graph_break"]) is (cls is torch.optim)


@pytest.mark.parametrize("implementation", TORCH)
@pytest.mark.parametrize("name", ("AdamW", "SGD"))
@pytest.mark.parametrize("part", (0, 1), ids=("step", "scheduler"))
def test_fullgraph_raises(part, name, implementation, quiet):
    optimizer = getattr(torch.optim, name)(parameters(4), lr=0.1, **TORCH[implementation])
    give_gradients(optimizer.param_groups[0]["params"])
    optimizer.step()
    torch._dynamo.reset()
    call = (optimizer, T.CosineAnnealingLR(optimizer, 9))[part]
    with pytest.raises(Unsupported):
        torch.compile(lambda: call.step(), fullgraph=True, backend="eager")()


def test_a_step_compiled_before_the_scheduler_is_built():
    """torch wraps the step of its optimizers, for which it needs a method. Ours need no wrapper."""
    for module in (T, L):
        optimizer = torch.optim.AdamW(parameters(4), lr=0.1)
        optimizer.step = torch.compile(optimizer.step, backend="eager")
        with pytest.raises(AttributeError, match="__func__"):
            module.StepLR(optimizer, 3)
        optimizer = fs.AdamW(parameters(4), lr=0.1)
        optimizer.step = torch.compile(optimizer.step, fullgraph=True, backend="eager")
        scheduler = module.StepLR(optimizer, 1, 0.5)
        give_gradients(optimizer.param_groups[0]["params"])
        optimizer.step()
        scheduler.step()  # would warn if it missed the step before
        assert optimizer.param_groups[0]["lr"] == 0.05


# Tensor learning rates, and numbers that are read from the device

NAMES = [name for name in CONFIGURED if name != "GreedyLR" and " " not in name]
RATES = {  # of two groups
    "tensor": lambda: [torch.tensor(0.1, dtype=torch.float64) for _ in range(2)],
    "one tensor for both": lambda: [torch.tensor(0.1, dtype=torch.float64)] * 2,
    "views of one tensor": lambda: list(torch.full((2,), 0.1, dtype=torch.float64)),
}


def built(module, name, rates):
    groups = [{"params": [p], "lr": rate} for p, rate in zip(parameters(2, 3), rates, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.5)
    optimizer._opt_called = True
    return optimizer, CONFIGURED[name](optimizer, module)


def curve(optimizer, scheduler, steps=9):
    values = []
    for _ in range(steps):
        values.append([float(group["lr"]) for group in optimizer.param_groups])
        scheduler.step(1.0) if isinstance(scheduler, T.ReduceLROnPlateau) else scheduler.step()
    return values


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "ReduceLROnPlateau"])
def test_a_tensor_rate_moves_as_a_float_does(name, rates):
    """An earlier torch compounded LambdaLR: `initial_lr` was the tensor that it wrote."""
    expected = curve(*built(T, name, [0.1, 0.1]))
    for module in (T, L):
        assert curve(*built(module, name, RATES[rates]())) == [pytest.approx(row, rel=1e-9) for row in expected]


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_rate_stays_the_same_tensor_and_is_not_handed_out(name):
    """An earlier torch returned it from get_last_lr(), and SequentialLR stored it as initial_lr."""
    for module in (T, L):
        rates = RATES["tensor"]()
        optimizer, scheduler = built(module, name, rates)
        for _ in range(3):
            curve(optimizer, scheduler, 2)
            last, group = scheduler.get_last_lr()[0], optimizer.param_groups[0]
            assert group["lr"] is rates[0] and last is not rates[0] and group.get("initial_lr") is not rates[0]
            before = float(rates[0])
            last.mul_(7.0)
            assert float(rates[0]) == before


@pytest.mark.parametrize("name", VISIBLE)
def test_a_step_reads_no_number_from_a_tensor(name, product):
    """torch's plain Adam reads each parameter's step, once or more; on a GPU each read waits."""

    def step(make):
        params = parameters(4, 5, 6)
        optimizer = make(name, params, **VISIBLE[name])
        for update in range(3):
            give_gradients(params, update)
            optimizer.step()
        return Recording(optimizer.step)

    torchs, ours = step(torch_twin), step(product)
    assert torchs.waits >= (3 if name in ("Adam", "AdamW") else 0) and torchs.count() >= 3 * 3
    if product.args != ("reference",):
        assert ours.waits == ours.count() == 0


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FUNCTIONS])
def test_a_schedulers_step_does_no_arithmetic_on_the_device(name):
    counts = {}
    for module in (T, L):
        optimizer, scheduler = built(module, name, RATES["tensor"]())
        curve(optimizer, scheduler, 6)
        step = (lambda: scheduler.step(1.0)) if name == "ReduceLROnPlateau" else scheduler.step  # noqa: B023
        recording = Recording(step)
        counts[module] = recording.count("mul", "add", "sub", "div", "fill_")
    assert counts[T] >= 2
    assert name in ("ChainedScheduler", "ReduceLROnPlateau") or counts[L] == recording.waits == 0


def test_the_count_of_updates_stops_at_two_to_the_24(product):
    """torch counts in float32. Ours shows such a tensor beside an exact integer."""
    for make, counted in ((product, 2**24 + 4), (torch_fused, 2**24)):
        params = parameters(4)
        optimizer = make("AdamW", params, **VISIBLE["AdamW"])
        give_gradients(params)
        optimizer.step()
        optimizer.state[params[0]]["step"].fill_(2.0**24)
        for _ in range(4):
            optimizer.step()
        assert float(optimizer.state[params[0]]["step"]) == counted


@pytest.mark.parametrize("step", (2.0, 2, torch.tensor(2.0, dtype=torch.float64), torch.tensor(2), torch.tensor([2.0])))
def test_a_step_of_whatever_kind_can_be_loaded(step, product):
    """Checkpoints have it as a number, on another device, of another type. An earlier torch refused some."""

    def resumed(make, step):
        params = parameters(4)
        optimizer = make("AdamW", params, **VISIBLE["AdamW"])
        for update in range(2):
            give_gradients(params, update)
            optimizer.step()
        state = copy.deepcopy(optimizer.state_dict())
        state["state"][0]["step"] = copy.deepcopy(step)
        optimizer.load_state_dict(state)
        give_gradients(params, 2)
        optimizer.step()
        return params[0].detach()

    for make in (product, torch_fused):
        assert torch.equal(resumed(make, step), resumed(make, torch.tensor(2.0)))
