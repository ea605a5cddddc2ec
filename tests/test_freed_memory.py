# SPDX-License-Identifier: Apache-2.0
"""A step that would read memory which other code has freed raises an error that names the tensor, and changes
nothing. With the memory back, training goes on as if nothing had been."""

import pytest
import torch
from cases import BACKENDS, DROP_INS, VISIBLE, maker

SIZES = (5, 700)  # of two groups


@pytest.fixture
def make(everywhere):
    return everywhere


def trained(make, name="AdamW"):
    params = [torch.linspace(-1, 1, n).requires_grad_() for n in SIZES]
    optimizer = make(name, [{"params": [p]} for p in params], **VISIBLE[name])
    for _ in range(2):
        step(optimizer)
    return params, optimizer


def give_gradients(optimizer):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = p.detach().cos()


def step(optimizer):
    give_gradients(optimizer)
    optimizer.step()


def everything(params, optimizer):
    return [t for p in params for t in (p.detach(), *(optimizer.state[p][k] for k in sorted(optimizer.state[p])))]


def role_of(optimizer, p, role):
    return {"param": p, "grad": p.grad}[role] if role in ("param", "grad") else optimizer.state[p][role]


WORDS = {"param": "memory of parameter", "grad": "memory of the gradient of parameter"}


@pytest.mark.parametrize("left", (0, 8), ids=("freed", "shrunk"))
@pytest.mark.parametrize("which", (0, 1))
@pytest.mark.parametrize("role", ("param", "grad", "exp_avg", "exp_avg_sq", "step"))
def test_a_step_names_the_array_whose_memory_is_gone(role, which, left, make):
    params, optimizer = trained(make)
    twins, twin = trained(make)
    if left and role == "step":
        left = 2
    give_gradients(optimizer)
    before = [t.clone() for t in everything(params, optimizer)]
    victim = role_of(optimizer, params[which], role)
    kept, storage = victim.detach().clone(), victim.untyped_storage()
    size = storage.nbytes()
    storage.resize_(left)
    for _ in range(2):
        words = WORDS.get(role, rf"memory of state\['{role}'\] of parameter")
        with pytest.raises(RuntimeError, match=rf"The {words} 0 of group {which} .*is gone"):
            optimizer.step()
    storage.resize_(size)
    with torch.no_grad():
        victim.detach().copy_(kept)
    after = everything(params, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    optimizer.step()
    step(twin)
    for _ in range(2):
        step(optimizer)
        step(twin)
    for ours, expected in zip(everything(params, optimizer), everything(twins, twin), strict=True):
        assert torch.equal(ours, expected)


ROLES = [("SGD", "momentum_buffer"), ("Adam", "max_exp_avg_sq")]
ROLES += [(name, "exp_avg") for name in VISIBLE if name not in DROP_INS]


@pytest.mark.parametrize("name,role", ROLES)
def test_every_kind_of_state(name, role, make):
    params, optimizer = trained(make, name)
    if role not in optimizer.state[params[1]]:
        optimizer.param_groups[1]["amsgrad"] = True
        step(optimizer)
    give_gradients(optimizer)
    optimizer.state[params[1]][role].untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=rf"state\['{role}'\] of parameter 0 of group 1"):
        optimizer.step()


@pytest.mark.parametrize("role", ("param", "exp_avg", "step"))
def test_what_a_step_does_not_read_may_be_gone(role, make):
    """An offloaded layer that is not trained now, before a plan is built and after."""
    params, optimizer = trained(make)
    role_of(optimizer, params[1], role).untyped_storage().resize_(0)
    params[1].grad = None
    for rebuilt in (False, True):
        if rebuilt:
            optimizer.param_groups[0] = dict(optimizer.param_groups[0])
        params[0].grad = torch.ones_like(params[0])
        before = params[0].detach().clone()
        optimizer.step()
        assert not torch.equal(params[0], before)


def test_a_first_step_reads_no_memory_that_is_gone(make):
    p = torch.ones(5).requires_grad_()
    optimizer = make("AdamW", [p])
    p.grad = torch.ones(5)
    p.grad.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="memory of the gradient of parameter 0 of group 0"):
        optimizer.step()
    assert not optimizer.state.get(p) and torch.equal(p.detach(), torch.ones(5))


def test_views_into_a_storage_that_is_gone(make):
    """An address that is not null, of memory that is not there."""
    whole = torch.ones(64)
    p = torch.nn.Parameter(whole[32:])
    optimizer = make("AdamW", [p])
    step(optimizer)
    give_gradients(optimizer)
    whole.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="memory of parameter 0 of group 0"):
        optimizer.step()


@pytest.mark.skipif("cpu" not in BACKENDS, reason="needs the compiled extension")
def test_gradients_are_not_cleared_where_there_are_none():
    params, optimizer = trained(maker("cpu"))
    give_gradients(optimizer)
    params[1].grad.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError):
        optimizer.zero_grad(set_to_none=False)
    optimizer.zero_grad()
    step(optimizer)


def test_a_rate_whose_memory_is_gone(make):
    params, optimizer = trained(make)
    optimizer.param_groups[1]["lr"] = torch.tensor(0.1)
    step(optimizer)
    optimizer.param_groups[1]["lr"].untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="lr"):
        step(optimizer)
