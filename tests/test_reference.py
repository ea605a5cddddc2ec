# SPDX-License-Identifier: Apache-2.0
"""The eager reference, which judges everything else, is itself judged: by torch.optim and by extended precision."""

import copy
import subprocess
import sys

import pytest
import torch
from cases import OPTIMIZERS, maker, named, torch_twin

from fusedsched import reference
from fusedsched.verify import extended
from fusedsched.verify.table import Case
from fusedsched.verify.updates import run

eager = maker("reference-classes")


def _train(optimizer, params, steps):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        optimizer.step()


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("row", named(OPTIMIZERS))
def test_equals_torch_bit_for_bit(row, dtype):
    start = [torch.randn(6, 5, dtype=dtype), torch.randn(7, dtype=dtype) * 1e-3]
    results = []
    for make in (torch_twin, eager):
        params = [x.clone().requires_grad_() for x in start]
        optimizer = make(row.optimizer, params, **row.options)
        _train(optimizer, params, 20)
        results.append([(p.detach(), optimizer.state[p]) for p in params])
    for (torch_param, torch_state), (param, state) in zip(*results, strict=True):
        assert torch.equal(torch_param, param)
        assert list(torch_state) == list(state)
        for key, value in torch_state.items():
            assert value is state[key] is None or torch.equal(value, state[key])


@pytest.mark.skipif(extended.reason() is not None, reason=str(extended.reason()))
@pytest.mark.parametrize("row", OPTIMIZERS)
def test_float64_against_extended_precision(row):
    verdict = run(eager, Case(row, "float64"), steps=200)
    assert verdict.passed, verdict


@pytest.mark.parametrize("dtype", ("bfloat16", "float16", "complex64"))
@pytest.mark.parametrize("row", ("AdamW", "Adam-amsgrad", "SGD-nesterov"))
def test_low_precision_and_complex_within_the_bound(row, dtype):
    verdict = run(eager, Case(row, dtype), steps=100)
    assert verdict.passed, verdict


@pytest.mark.parametrize("row", named(OPTIMIZERS))
def test_wide_copies_follow_a_wide_parameter(row):
    """`dtype=torch.float64` on float32 is float64 throughout, rounded for show."""
    wide = torch.randn(50).double().requires_grad_()
    narrow = wide.detach().float().requires_grad_()
    for p, options in ((wide, {}), (narrow, {"dtype": torch.float64})):
        optimizer = eager(row.optimizer, [p], **row.options, **options)
        generator = torch.Generator().manual_seed(2)
        for _ in range(20):
            p.grad = torch.randn(50, generator=generator).to(p.dtype)
            optimizer.step()
    assert torch.equal(optimizer.state[narrow]["master"], wide.detach())
    assert torch.equal(narrow.detach(), wide.detach().float())


def test_a_parameter_written_from_outside_replaces_its_wide_copy():
    p = torch.ones(3, requires_grad=True)
    optimizer = reference.SGD([p], lr=0.25, dtype=torch.float64)
    p.grad = torch.ones(3)
    optimizer.step()
    with torch.no_grad():
        p.fill_(5.0)
    optimizer.step()
    assert p.tolist() == [4.75] * 3


def test_a_wide_run_resumes_bit_for_bit():
    p = torch.randn(9).requires_grad_()
    optimizer = reference.AdamW([p], dtype=torch.float64)
    _train(optimizer, [p], 3)
    saved, values = copy.deepcopy(optimizer.state_dict()), p.detach().clone()
    _train(optimizer, [p], 3)
    q = values.requires_grad_()
    resumed = reference.AdamW([q], dtype=torch.float64)
    resumed.load_state_dict(saved)
    _train(resumed, [q], 3)
    assert torch.equal(p, q)
    assert torch.equal(optimizer.state[p]["exp_avg"], resumed.state[q]["exp_avg"])


def test_schedules_in_the_place_of_numbers():
    def decay(update):
        return 0.1 / (1 + update)

    def rise(update):
        return min(0.5 + 0.01 * update, 0.9)

    results = []
    for scheduled in (True, False):
        p = torch.ones(4, requires_grad=True)
        betas = (rise if scheduled else 0.5, 0.9)
        optimizer = reference.AdamW([p], lr=decay if scheduled else 0.1, betas=betas, weight_decay=0.5)
        for update in range(10):
            p.grad = torch.arange(4.0) + update
            if not scheduled:
                optimizer.param_groups[0].update(lr=decay(update), betas=(rise(update), 0.9))
            optimizer.step()
        results.append(p.detach())
    assert torch.equal(*results)


def test_a_schedule_of_one_group_leaves_the_others_alone():
    p, q = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    optimizer = reference.SGD([{"params": [p]}, {"params": [q], "lr": 0.5}], lr=lambda update: 0.25 * (update + 1))
    p.grad, q.grad = torch.ones(1), torch.ones(1)
    optimizer.step()
    optimizer.step()
    assert (p.item(), q.item()) == (1 - 0.25 - 0.5, 0.0)


@pytest.mark.parametrize("name", ("AdamW", "Adam", "SGD"))
def test_differentiable(name):
    """The derivative by every scalar and by the parameter is the derivative of the update."""

    def after(w, lr, weight_decay, *betas):
        p = w.clone()
        extra = {"betas": betas} if betas else {"momentum": 0.5, "nesterov": True}
        optimizer = eager(name, [p], lr=lr, weight_decay=weight_decay, differentiable=True, **extra)
        for update in range(3):
            p.grad = w * w - update
            optimizer.step()
        return p

    scalars = (0.1, 0.3) + ((0.6, 0.7) if name != "SGD" else ())
    inputs = [torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)]
    inputs += [torch.tensor(x, dtype=torch.float64) for x in scalars]
    assert torch.autograd.gradcheck(after, [x.requires_grad_() for x in inputs])


@pytest.mark.parametrize("name", ("AdamW", "SGD"))
def test_a_skipped_update_changes_nothing(name):
    p = torch.ones(3, requires_grad=True)
    optimizer = eager(name, [p], lr=lambda update: 0.1 * (update + 1))
    p.grad = torch.tensor([1.0, float("inf"), 0.0])
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert p.tolist() == [1.0] * 3 and not optimizer.state and float(optimizer.param_groups[0]["lr"]) == 0.1


def test_sparse_gradients_are_refused_before_anything_changes():
    p, q = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = reference.Adam([p, q])
    p.grad, q.grad = torch.ones(2), torch.ones(2).to_sparse()
    with pytest.raises(RuntimeError, match="Adam does not support sparse gradients"):
        optimizer.step()
    assert p.tolist() == [1.0, 1.0] and not optimizer.state


def test_never_calls_compiled_code():
    code = "import sys, fusedsched.reference; sys.exit('fusedsched._C' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
