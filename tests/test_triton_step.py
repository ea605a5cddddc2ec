# SPDX-License-Identifier: Apache-2.0
"""Laws of a Triton step: where numbers lie does not matter, a skipped step changes nothing, counters are exact."""

import copy

import pytest
import test_geometry
import torch
from cases import LAYOUTS, REAL_DTYPES, VISIBLE
from interpreted import interpreter as interpreter, jit, make, step, tuning
from test_geometry import assert_each_element_alone, assert_layout_does_not_matter
from tolerances import close
from triton import language as tl

import fusedsched as fs
from fusedsched import schedules as S

BLOCK = 32  # of the kernel, so that short tensors have several tiles
AROUND = (0, 1, 2, 15, 16, 17, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 17)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(tuning, "BLOCK", BLOCK)
    monkeypatch.setattr(tuning, "PREPARE_BLOCK", 8)
    monkeypatch.setattr(test_geometry, "STEPS", 2)


def test_every_length(monkeypatch):
    monkeypatch.setattr(test_geometry, "STEPS", 1)
    assert_each_element_alone(make, "SGD", torch.float32, range(2 * BLOCK + 2), shift=0)


@pytest.mark.parametrize("shift", (0, 1))
@pytest.mark.parametrize("name, dtype", [*zip(("AdamW", "SGD", "Adam", "SGD"), REAL_DTYPES, strict=True)], ids=str)
def test_lengths_around_the_tiles_and_alignments(name, dtype, shift):
    assert_each_element_alone(make, name, dtype, AROUND, shift)


LAID_OUT = [
    pytest.param(layout, dtype, id=f"{key}-{dtype}")
    for i, (key, layout) in enumerate(LAYOUTS.items())
    for dtype in (layout.of[i % len(layout.of)],)
]


@pytest.mark.parametrize("layout, dtype", LAID_OUT)
def test_every_layout(layout, dtype):
    assert_layout_does_not_matter(make, "SGD" if layout.shape == (67,) else "AdamW", dtype, layout)


def _trained(name="AdamW", dtype=torch.float32, steps=0, **options):
    params = [torch.linspace(-1, 1, n).to(dtype).requires_grad_() for n in (5, 40)]
    optimizer = make(name, params, **{**VISIBLE[name], **options})
    for _ in range(steps):
        _give(params)
        optimizer.step()
    return params, optimizer


def _give(params, scale=1.0):
    for p in params:
        p.grad = (torch.cos(p.detach().float()) * scale).to(p.dtype)


def _everything(params, optimizer):
    tensors = [*params, *(p.grad for p in params), *optimizer.param_groups[0].values()]
    tensors += [t for p in params for t in optimizer.state.get(p, {}).values()]
    tensors = [t.detach().clone() for t in tensors if isinstance(t, torch.Tensor)]
    runtime = optimizer._runtime
    return [*tensors, torch.tensor(runtime.clocks.read()[:3]), runtime.plan._prepared.counts.clone()]


def _amp(optimizer, scale, found):
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.tensor(found)
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf


@pytest.mark.parametrize("name", VISIBLE)
@pytest.mark.parametrize("before", (0, 2))
def test_a_skipped_step_changes_nothing(name, before):
    params, optimizer = _trained(name, steps=before, lr=S.linear(0.5, 0.1, steps=10))
    _give(params, 8.0)
    params[0].grad[0] = float("inf")
    _amp(optimizer, 8.0, 1.0)  # makes no state either
    kept, skipped = _everything(params, optimizer), optimizer.skipped_steps
    _amp(optimizer, 8.0, 1.0)
    assert all(map(torch.equal, kept, _everything(params, optimizer)))
    assert (skipped, optimizer.skipped_steps) == (1, 2)
    twins, twin = _trained(name, steps=before, lr=S.linear(0.5, 0.1, steps=10))
    for parameters, opt in ((params, optimizer), (twins, twin)):
        _give(parameters)
        opt.step()
    assert all(map(torch.equal, params, twins))


@pytest.mark.parametrize("name, dtype", [("AdamW", torch.float32), ("SGD", torch.bfloat16)], ids=str)
def test_gradients_are_unscaled_in_place(name, dtype):
    params, optimizer = _trained(name, dtype, maximize=True)
    twins, twin = _trained(name, dtype, maximize=True)
    _give(params, 1024.0)
    _give(twins)
    _amp(optimizer, 1024.0, 0.0)
    twin.step()
    assert all(map(torch.equal, params, twins))
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(params, twins, strict=True))


def test_a_gradient_of_several_parameters_is_unscaled_once():
    params = [torch.ones(20, requires_grad=True) for _ in range(2)]
    optimizer = make("SGD", params, lr=1.0)
    params[0].grad = params[1].grad = torch.full((20,), 8.0)
    _amp(optimizer, 4.0, 0.0)
    assert torch.equal(params[0].grad, torch.full((20,), 2.0))
    assert all(torch.equal(p, torch.full((20,), -1.0)) for p in params)


def test_gradients_and_state_of_other_types():
    p = torch.linspace(-1, 1, 40).bfloat16().requires_grad_()
    optimizer = make("AdamW", [p], **VISIBLE["AdamW"])
    for n, dtype in enumerate((torch.bfloat16, torch.float32)):
        p.grad = None
        p.grad_dtype = dtype
        p.grad = torch.cos(p.detach()).to(dtype)
        optimizer.step()
        if n == 0:
            state = optimizer.state[p]
            state.update({key: state[key].float() for key in ("exp_avg", "exp_avg_sq")})
    assert float(optimizer.state[p]["step"]) == 2.0 and optimizer.state[p]["exp_avg"].dtype == torch.float32


def test_counts_are_exact_past_float32():
    params, optimizer = _trained(steps=1)
    for p in params:
        optimizer.state[p]["step"].fill_(2.0**24)  # written to: then it is the count
    for _ in range(3):
        _give(params)
        optimizer.step()
    assert [n for _, n in optimizer._runtime.plan.exact_counts()] == [2**24 + 3] * 2
    assert float(optimizer.state[params[0]]["step"]) == 2.0**24 + 4  # float32 has no 2**24 + 3


def test_a_parameter_without_a_gradient_does_not_count():
    params, optimizer = _trained(steps=1)
    params[1].grad = None
    optimizer.step()
    steps = [float(optimizer.state[p]["step"]) for p in params]
    assert steps == [2.0, 1.0] and optimizer._runtime.clocks.read()[0] == 2


@pytest.mark.parametrize("source", ("float", "float32", "float64", "bfloat16"))
def test_a_number_may_be_edited_wherever_it_lies(source):
    lr = 0.25 if source == "float" else torch.tensor(0.25, dtype=getattr(torch, source))
    p = torch.zeros(3, requires_grad=True)
    optimizer = make("SGD", [p], lr=lr)
    p.grad = torch.ones(3)
    optimizer.step()
    if source == "float":
        optimizer.param_groups[0]["lr"] = 0.5
    else:
        lr.fill_(0.5)
    optimizer.step()
    assert torch.equal(p.detach(), torch.full((3,), -0.75))


def test_a_schedule_is_shown_and_gives_way_to_an_edit():
    params, optimizer = _trained("SGD", lr=S.linear(0.5, 0.0, steps=4))
    shown = optimizer.param_groups[0]["lr"]
    seen = [float(shown)]
    for edit in (None, None, 0.75, None):
        if edit is not None:
            with pytest.warns(UserWarning, match="written to"):
                shown.fill_(edit)
                _give(params)
                optimizer.step()
        else:
            _give(params)
            optimizer.step()
        seen.append(float(shown))
    assert seen == [0.5, 0.375, 0.25, 0.75, 0.75]


def test_samples_move_schedules_of_that_unit():
    _, optimizer = _trained(lr=S.linear(0.5, 0.0, steps=1000, unit="sample"))
    optimizer.advance(samples=500)
    assert float(optimizer.param_groups[0]["lr"]) == 0.25


def test_past_the_end_is_an_error_if_asked_for():
    params, optimizer = _trained("SGD", lr=S.linear(0.5, 0.1, steps=2, past_end="error"))
    for _ in range(3):
        _give(params)
        optimizer.step()
    kept = copy.deepcopy(params)
    with pytest.raises(RuntimeError, match="ends at step 2"):
        optimizer.step()
    assert all(map(torch.equal, params, kept))


def test_one_launch_for_each_mixture_of_types_and_none_of_its_tables_twice(monkeypatch):
    launched = []
    kernel = step.update_kernel

    class Spy:
        def __getitem__(self, grid):
            launched.append(grid)
            return kernel[grid]

    params = [torch.ones(n, dtype=d, requires_grad=True) for n in (5, 70) for d in (torch.float32, torch.bfloat16)]
    optimizer = make("AdamW", [{"params": params[:2]}, {"params": params[2:], "lr": 0.1}])
    monkeypatch.setattr(step, "update_kernel", Spy())
    for _ in range(2):
        _give(params)
        optimizer.step()
        tables = [launch.arrays for launch in optimizer._runtime.plan._launches._launches]
    assert len(launched) == 4 and len(tables) == 2
    assert all(a is b.arrays for a, b in zip(tables, optimizer._runtime.plan._launches._launches, strict=True))


def test_autograd_learns_that_a_parameter_changed():
    p = torch.ones(3, requires_grad=True)
    optimizer = make("SGD", [p], lr=0.1)
    loss = (p * p).sum()
    p.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_triton_agrees_with_the_compiled_backend():
    if fs.optim.backends()["cpu"] is not None:
        pytest.skip(fs.optim.backends()["cpu"])
    params = [torch.linspace(-1, 1, 40).requires_grad_() for _ in range(2)]
    native = fs.AdamW(params[1:], backend="cpu", **VISIBLE["AdamW"])
    _give(params)
    for _ in range(3):
        native.step()
    interpreted = make("AdamW", params[:1], **VISIBLE["AdamW"])
    for _ in range(3):
        interpreted.step()
    close(params[0], params[1], 3, "param")


# The laws can fail.


@jit
def _one_too_many(
    param, grad, state0, state1, state2, scalars, offsets, mask,
    RULE: tl.constexpr, STATES: tl.constexpr, A: tl.constexpr, WRITE_GRAD: tl.constexpr,
):  # fmt: skip
    _right(param, grad, state0, state1, state2, scalars, offsets, offsets < 18, RULE, STATES, A, WRITE_GRAD)


@jit
def _one_forgotten(
    param, grad, state0, state1, state2, scalars, offsets, mask,
    RULE: tl.constexpr, STATES: tl.constexpr, A: tl.constexpr, WRITE_GRAD: tl.constexpr,
):  # fmt: skip
    last = int(mask.handle.data.sum()) - 1  # the interpreter's numbers
    mask = mask & (offsets != last)
    _right(param, grad, state0, state1, state2, scalars, offsets, mask, RULE, STATES, A, WRITE_GRAD)


_right = step.update_elements


@pytest.mark.parametrize("mutant", (_one_too_many, _one_forgotten), ids=("one too many", "one forgotten"))
def test_a_careless_mask_fails(mutant, monkeypatch):
    monkeypatch.setattr(step, "update_elements", mutant)
    with pytest.raises(AssertionError):
        assert_each_element_alone(make, "SGD", torch.float32, (17, 12), shift=1)


@jit
def _careless_write(programs, written, edited, clocks, past_horizon, n_programs, coming):
    tl.store(clocks, tl.load(clocks) + 1)


def test_a_skip_that_counts_fails(monkeypatch):
    monkeypatch.setattr(step, "write_current", _careless_write)
    with pytest.raises(AssertionError):
        test_a_skipped_step_changes_nothing("SGD", 2)


def test_tables_of_numbers_stay_where_graphs_read_them():
    params, optimizer = _trained(steps=1)
    plan = optimizer._runtime.plan
    before = plan._prepared.values.tensor.data_ptr()
    optimizer.param_groups[0]["lr"] = 0.75
    assert plan.sync_hparams(optimizer.param_groups)
    assert plan._prepared.values.tensor.data_ptr() == before and float(plan._prepared.values.tensor[0]) == 0.75


@pytest.mark.parametrize("set_to_none", (True, False))
def test_gradients_are_reset(set_to_none):
    params, optimizer = _trained(steps=1)
    optimizer.zero_grad(set_to_none)
    assert all(p.grad is None if set_to_none else not p.grad.any() for p in params)
