# SPDX-License-Identifier: Apache-2.0
"""Stopping and going on: torch's format in both directions, nothing lost, bit for bit in a new process."""

import copy
import io
import json
import subprocess
import sys
import textwrap

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


_PROGRAM = """
    import sys, torch
    sys.path.insert(0, {tests!r})
    from scripting import parameters, train
    from test_checkpoint import SCHEDULED, VISIBLE
    import fusedsched as fs

    def run(updates, loaded=None):
        params = parameters((3, 4), 500, dtype=torch.{dtype})
        options = {{**VISIBLE[{name!r}], **(SCHEDULED[{name!r}] if {scheduled} else {{}})}}
        optimizer = fs.{name}(params, backend={backend!r}, **options)
        scheduler = None if {scheduled} else fs.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)
        if loaded is not None:
            with torch.no_grad():
                for p, value in zip(params, loaded["params"]):
                    p.copy_(value)
            optimizer.load_state_dict(loaded["optimizer"])
            if scheduler is not None:
                scheduler.load_state_dict(loaded["scheduler"])
        for _ in range(updates):
            train(optimizer, params, 1)
            if scheduler is not None:
                scheduler.step()
        done = {{"params": [p.detach() for p in params], "optimizer": optimizer.state_dict()}}
        return done if scheduler is None else {{**done, "scheduler": scheduler.state_dict()}}
"""


@pytest.mark.parametrize("name, scheduled, dtype", (("AdamW", True, "bfloat16"), ("SGD", False, "float32")))
@pytest.mark.parametrize("backend", BACKENDS)
def test_resumes_bit_for_bit_in_a_new_process(backend, name, scheduled, dtype, tmp_path, request):
    here = str(request.path.parent)
    program = textwrap.dedent(_PROGRAM.format(tests=here, name=name, backend=backend, scheduled=scheduled, dtype=dtype))
    namespace = {}
    exec(program, namespace)
    torch.save(namespace["run"](4), tmp_path / "saved.pt")
    program += f"loaded = torch.load({str(tmp_path / 'saved.pt')!r}, weights_only=True)\n"
    program += f"torch.save(run(4, loaded), {str(tmp_path / 'done.pt')!r})\n"
    subprocess.run([sys.executable, "-c", program], check=True)
    straight, resumed = namespace["run"](8), torch.load(tmp_path / "done.pt", weights_only=True)
    for a, b in zip(straight["params"], resumed["params"], strict=True):
        assert torch.equal(a, b)
    states = (run["optimizer"]["state"] for run in (straight, resumed))
    for a, b in zip(*(state.values() for state in states), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


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


@pytest.mark.parametrize("state_dtype", (torch.float32, torch.bfloat16, torch.float64), ids=str)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_loading_never_narrows_state(dtype, state_dtype, product):
    """torch casts it to the dtype of the parameter, and loses float32 moments of a bfloat16 model."""
    params = parameters(6, dtype=dtype)
    optimizer = product("AdamW", params, **VISIBLE["AdamW"])
    train(optimizer, params, 1)
    saved = copy.deepcopy(optimizer.state_dict())
    moments = {key: torch.rand(6).to(state_dtype) for key in ("exp_avg", "exp_avg_sq")}
    saved["state"][0].update(moments)
    optimizer.load_state_dict(saved)
    wide = torch.promote_types(dtype, state_dtype)
    for key, value in moments.items():
        assert optimizer.state[params[0]][key].dtype == wide
        assert torch.equal(optimizer.state[params[0]][key], value.to(wide))
    train(optimizer, params, 1)
    assert optimizer.state[params[0]]["exp_avg"].dtype == wide


def test_a_narrow_state_does_not_stick(product):
    """In bfloat16, 0.999 times a second moment is that moment again."""
    p, q = (torch.ones(6).requires_grad_() for _ in range(2))
    ours, torchs = product("AdamW", [p]), torch.optim.AdamW([q], foreach=False)
    for optimizer, param in ((ours, p), (torchs, q)):
        param.grad = torch.full((6,), 0.1)
        optimizer.step()
        saved = copy.deepcopy(optimizer.state_dict())
        saved["state"][0]["exp_avg"] = torch.full((6,), 0.1, dtype=torch.bfloat16)
        saved["state"][0]["exp_avg_sq"] = torch.full((6,), 3e-3, dtype=torch.bfloat16)
        optimizer.load_state_dict(saved)
        param.grad = torch.full((6,), 0.01)
        for _ in range(300):
            optimizer.step()
    moments = ours.state[p]["exp_avg_sq"], torchs.state[q]["exp_avg_sq"]
    assert moments[0].dtype == torch.float32 and moments[0][0] < 2.4e-3
    torch.testing.assert_close(*moments, rtol=1e-5, atol=0.0)


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
    """Law: what torch's class trained in between counts, though it hands on the clock as it got it."""
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
    """Law: a clock is resumed as it was saved where the state is as it was saved, or has less."""
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
