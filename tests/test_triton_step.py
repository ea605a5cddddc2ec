# SPDX-License-Identifier: Apache-2.0
"""A step of the Triton backend, interpreted: lengths, layouts, types, launches."""

import copy

import pytest
import test_geometry
import torch
from cases import LAYOUTS, REAL_DTYPES, VISIBLE
from interpreted import interpreter as interpreter, jit, make, step, tuning
from test_geometry import assert_each_element_alone, assert_layout_does_not_matter
from triton import language as tl

from fusedsched import schedules as S
from fusedsched.optim import state
from fusedsched.runtime.launching import launching

BLOCK = 32  # of the kernel, so that short tensors have several tiles
AROUND = (0, 1, 2, 15, 16, 17, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 17)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(tuning, "BLOCK", BLOCK)
    monkeypatch.setattr(tuning, "PREPARE_BLOCK", 8)
    monkeypatch.setattr(test_geometry, "STEPS", 2)


def test_interpreted_kernels_refuse_a_gpu():
    with pytest.raises(RuntimeError, match="are interpreted, since TRITON_INTERPRET=1 was set"):
        with launching(torch.device("cuda")):
            raise AssertionError("the kernels would have been launched")


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


def _give(params):
    for p in params:
        p.grad = torch.cos(p.detach().float()).to(p.dtype)


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


# The properties can fail.


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
    # What it writes behind a moment must hit no other memory.
    monkeypatch.setattr(state, "zeros", lambda p, array: torch.zeros(len(p) + 64, dtype=p.dtype)[: len(p)])
    with pytest.raises(AssertionError):
        assert_each_element_alone(make, "SGD", torch.float32, (17, 12), shift=1)


def test_tables_of_numbers_stay_where_graphs_read_them():
    params, optimizer = _trained(steps=1)
    plan = optimizer._runtime.plan
    before = plan._prepared.values.tensor.data_ptr()
    optimizer.param_groups[0]["lr"] = 0.75
    assert plan.sync_hparams(optimizer.param_groups)
    assert plan._prepared.values.tensor.data_ptr() == before and float(plan._prepared.values.tensor[0]) == 0.75
