# SPDX-License-Identifier: Apache-2.0
"""Stopping and going on: torch's format in both directions, nothing lost, bit for bit in a new process."""

import copy
import io
import json
import subprocess
import sys

import pytest
import torch
from cases import BACKENDS, OPTIMIZERS, VISIBLE, named, torch_twin
from scripting import assert_same, give_gradients, parameters, seen, train

import fusedsched
from fusedsched import schedules as S

SCHEDULED = {
    **{name: dict(lr=S.linear(0.1, 0.0, steps=8), weight_decay=S.cosine(0.5, 0.0, steps=8)) for name in VISIBLE},
    "AdamW": dict(
        lr=S.warmup_cosine(peak=0.1, warmup_steps=3, total_steps=9),
        betas=(S.linear(0.5, 0.9, steps=6), 0.7),
        weight_decay=S.cosine(0.5, 0.0, steps=8),
    ),
    "Adam": dict(lr=S.step(0.1, step_size=2, gamma=0.5), betas=(0.6, S.linear(0.5, 0.9, steps=6))),
    "SGD": dict(lr=S.linear(0.1, 0.0, steps=8), momentum=S.linear(0.5, 0.9, steps=6)),
}


def through_a_file(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("direction", ("ours to torch", "torch to ours"))
@pytest.mark.parametrize("row", named(OPTIMIZERS))
def test_exchanged_with_torch(row, direction, product):
    first, second = (product, torch_twin) if direction == "ours to torch" else (torch_twin, product)
    params = parameters((3, 4), 5)
    optimizer = first(row.optimizer, params, **row.options)
    train(optimizer, params, 3)
    theirs = [p.detach().clone().requires_grad_() for p in params]
    other = second(row.optimizer, theirs, lr=0.7)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    train(optimizer, params, 3)
    train(other, theirs, 3)
    assert_same(*((seen(other, theirs), seen(optimizer, params))[:: 1 if second is product else -1]))


@pytest.mark.parametrize("name", VISIBLE)
def test_a_plain_configuration_has_torchs_layout(name, product):
    layouts = []
    for make in (product, torch_twin):
        params = parameters((3, 4), 5)
        optimizer = make(name, params, **VISIBLE[name])
        train(optimizer, params, 2)
        saved = optimizer.state_dict()
        layouts.append(
            (
                list(saved),
                [sorted(group) for group in saved["param_groups"]],
                {i: {k: (v.dtype, v.shape) for k, v in s.items()} for i, s in saved["state"].items()},
            )
        )
    assert layouts[0] == layouts[1]


@pytest.mark.parametrize("scheduled", (False, True), ids=("numbers", "schedules"))
@pytest.mark.parametrize("name", VISIBLE)
def test_resumes_bit_for_bit(name, scheduled, product):
    options = {**VISIBLE[name], **(SCHEDULED[name] if scheduled else {})}
    params = parameters((3, 4), 500)
    optimizer = product(name, params, **options)
    train(optimizer, params, 3)
    saved, values = through_a_file(optimizer.state_dict()), [p.detach().clone() for p in params]
    train(optimizer, params, 5)
    again = [x.requires_grad_() for x in values]
    resumed = product(name, again, **options)
    for _ in range(2):  # loading is idempotent
        resumed.load_state_dict(copy.deepcopy(saved))
    train(resumed, again, 5)
    ours, theirs = seen(resumed, again), seen(optimizer, params)
    for what, value in theirs.items():
        assert torch.equal(ours[what], value) if isinstance(value, torch.Tensor) else ours[what] == value, what


def part(backend, name, scheduled, dtype, updates, loaded=None):
    """What a run has come to, from the start or from what it loads."""
    params = parameters((3, 4), 500, dtype=getattr(torch, dtype))
    options = {**VISIBLE[name], **(SCHEDULED[name] if scheduled else {})}
    optimizer = getattr(fusedsched, name)(params, backend=backend, **options)
    parts = [optimizer] if scheduled else [optimizer, fusedsched.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)]
    if loaded is not None:
        with torch.no_grad():
            for p, value in zip(params, loaded["params"], strict=True):
                p.copy_(value)
        for one, state in zip(parts, loaded["parts"], strict=True):
            one.load_state_dict(state)
    for _ in range(updates):
        train(optimizer, params, 1)
        [scheduler.step() for scheduler in parts[1:]]
    return {"params": [p.detach() for p in params], "parts": [one.state_dict() for one in parts]}


RUNS = [(b, *row) for b in BACKENDS for row in (("AdamW", True, "bfloat16"), ("SGD", False, "float32"))]
RESUMING = """
import sys, torch
sys.path.insert(0, {here!r})
from test_checkpoint import part
loaded = torch.load({file!r}, weights_only=True)
torch.save([part(*run, 4, state) for run, state in zip({runs!r}, loaded)], {file!r})
"""


def test_resumes_bit_for_bit_in_a_new_process(tmp_path, request):
    file = str(tmp_path / "state.pt")
    torch.save([part(*run, 4) for run in RUNS], file)
    program = RESUMING.format(here=str(request.path.parent), file=file, runs=RUNS)
    subprocess.run([sys.executable, "-c", program], check=True)
    for run, resumed in zip(RUNS, torch.load(file, weights_only=True), strict=True):
        straight = part(*run, 8)
        assert all(map(torch.equal, straight["params"], resumed["params"])), run
        states = (one["parts"][0]["state"] for one in (straight, resumed))
        for a, b in zip(*(state.values() for state in states), strict=True):
            assert all(torch.equal(a[key], b[key]) for key in a), run


@pytest.mark.parametrize("first", ("optimizer", "scheduler", "scheduler alone"))
@pytest.mark.parametrize("name", ("CosineAnnealingLR", "StepLR", "OneCycleLR", "LinearLR"))
def test_the_order_of_loading_does_not_matter(name, first, product):
    arguments = {
        "CosineAnnealingLR": dict(T_max=7),
        "StepLR": dict(step_size=2, gamma=0.5),
        "OneCycleLR": dict(max_lr=0.3, total_steps=20),
        "LinearLR": dict(start_factor=0.5, total_iters=6),
    }[name]

    def new():
        params = parameters(4)
        optimizer = product("AdamW", params, **VISIBLE["AdamW"])
        return params, optimizer, getattr(fusedsched.lr_scheduler, name)(optimizer, **arguments)

    params, optimizer, scheduler = new()
    for _ in range(3):
        train(optimizer, params, 1)
        scheduler.step()
    saved = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(scheduler.state_dict())
    theirs, resumed, its_scheduler = new()
    if first == "optimizer":
        resumed.load_state_dict(saved[0])
    its_scheduler.load_state_dict(saved[1])
    if first == "scheduler":
        resumed.load_state_dict(saved[0])
    give_gradients(theirs)
    resumed.step()
    for _ in range(4):
        assert resumed.param_groups[0]["lr"] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        scheduler.step()
        its_scheduler.step()


def test_schedules_are_saved_as_expressions(product):
    params = parameters(4)
    optimizer = product("AdamW", params, **{**VISIBLE["AdamW"], **SCHEDULED["AdamW"]})
    train(optimizer, params, 2)
    group = optimizer.state_dict()["param_groups"][0]
    assert isinstance(group["lr"], float) and all(isinstance(beta, float) for beta in group["betas"])
    entry = json.loads(json.dumps(group["fusedsched"]["schedules"]["lr"]))
    schedule = SCHEDULED["AdamW"]["lr"]
    assert S.Schedule.from_json(entry["expression"]) == schedule and entry["hash"] == schedule.fingerprint
    assert group["lr"] == schedule(2)
    other = parameters(4)
    resumed = product("AdamW", other)  # the schedules come with the checkpoint
    resumed.load_state_dict(optimizer.state_dict())
    train(optimizer, params, 3)
    train(resumed, other, 3)
    assert float(resumed.param_groups[0]["lr"]) == float(optimizer.param_groups[0]["lr"]) == schedule(5)


@pytest.mark.parametrize("override", ("checkpoint", "present"))
def test_another_schedule_is_reported_and_override_decides(override, product):
    saved_one, present = S.linear(0.1, 0.0, steps=10), S.cosine(0.2, 0.0, steps=10)
    params = parameters(4)
    optimizer = product("SGD", params, lr=saved_one)
    train(optimizer, params, 2)
    saved = optimizer.state_dict()
    other = product("SGD", params, lr=present)
    if override == "checkpoint":
        with pytest.warns(UserWarning, match="The saved schedule of 'lr' in group 0 is not the present one"):
            other.load_state_dict(saved, override=override)
    else:
        other.load_state_dict(saved, override=override)
    assert float(other.param_groups[0]["lr"]) == (saved_one if override == "checkpoint" else present)(2)


def test_torch_goes_on_with_the_number_where_a_schedule_was(product):
    params = parameters(4)
    optimizer = product("AdamW", params, **{**VISIBLE["AdamW"], "lr": S.linear(0.1, 0.0, steps=10)})
    train(optimizer, params, 5)
    other = torch_twin("AdamW", params)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    assert other.param_groups[0]["lr"] == pytest.approx(0.05)
    train(other, params, 1)


@pytest.mark.parametrize("updates", (1, 2))
@pytest.mark.parametrize("name", ("AdamW", "Adam"))
def test_schedules_go_on_where_torch_left_off(name, updates, product):
    """What torch's class trained in between counts, though it hands on the clock as it got it."""
    params = parameters(4)
    optimizer = product(name, params, **{**VISIBLE[name], **SCHEDULED[name]})
    train(optimizer, params, 3)
    optimizer.advance(tokens=70)
    other = torch_twin(name, params)
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    train(other, params, updates)
    optimizer.load_state_dict(through_a_file(other.state_dict()))
    assert optimizer._runtime.clocks.read() == [3 + updates, 0, 70, 0]
    assert float(optimizer.param_groups[0]["lr"]) == SCHEDULED[name]["lr"](3 + updates)
    assert float(optimizer.state[params[0]]["step"]) == 3 + updates


@pytest.mark.parametrize("name", VISIBLE)
def test_the_clock_may_be_ahead_of_every_step(name, product):
    """A clock is resumed as it was saved where the state is as it was saved, or has less."""
    params = parameters(4)
    optimizer = product(name, params, **{**VISIBLE[name], **SCHEDULED[name]})
    train(optimizer, params, 3)
    optimizer.state.clear()
    train(optimizer, params, 1)
    saved = optimizer.state_dict()
    for state in (saved["state"], {}):
        optimizer.load_state_dict({**saved, "state": state})
        assert optimizer._runtime.clocks.read()[0] == 4


def test_counts_past_what_float32_holds(product):
    params = parameters(4)
    optimizer = product("AdamW", params, **VISIBLE["AdamW"])
    train(optimizer, params, 1)
    optimizer.state[params[0]]["step"].fill_(2.0**24)
    train(optimizer, params, 3)
    saved = through_a_file(optimizer.state_dict())
    assert saved["param_groups"][0]["fusedsched"]["steps"] == {0: 2**24 + 3}
    other = product("AdamW", params, **VISIBLE["AdamW"])
    other.load_state_dict(saved)
    train(other, params, 2)
    assert other.state_dict()["param_groups"][0]["fusedsched"]["steps"] == {0: 2**24 + 5}
    assert copy.deepcopy(other).state_dict()["param_groups"][0]["fusedsched"]["steps"] == {0: 2**24 + 5}


def test_names_of_parameters_are_saved(product):
    params = parameters(4, 5)
    optimizer = product("AdamW", [("w", params[0]), ("b", params[1])])
    train(optimizer, params, 1)
    assert through_a_file(optimizer.state_dict())["param_groups"][0]["param_names"] == ["w", "b"]


def test_the_comparison_notices_a_lost_moment(product):
    params = parameters(4)
    optimizer = product("AdamW", params, **VISIBLE["AdamW"])
    train(optimizer, params, 2)
    before = seen(optimizer, params)
    optimizer.state[params[0]]["exp_avg"].zero_()
    with pytest.raises(AssertionError, match="exp_avg"):
        assert_same(seen(optimizer, params), before)
