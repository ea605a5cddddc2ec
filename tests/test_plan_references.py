# SPDX-License-Identifier: Apache-2.0
"""Law: the compiled plans keep nothing alive that a user replaces between two steps, and read what takes its place."""

import gc
import random
import weakref

import pytest
import torch
from cases import BACKENDS, VISIBLE, maker
from tolerances import close

pytestmark = pytest.mark.skipif(not {"cpu", "cuda"} & set(BACKENDS), reason="needs the compiled extension")
compiled = pytest.mark.parametrize("backend", [b for b in ("cpu", "cuda") if b in BACKENDS])


def trained(backend, name="AdamW", sizes=(4, 5, 300_000), steps=2, **options):
    params = [torch.linspace(-1, 1, n).requires_grad_() for n in sizes]
    groups = [{"params": [p]} for p in params]
    optimizer = maker(backend)(name, groups, **{**VISIBLE[name], **options})
    for _ in range(steps):
        step(optimizer)
    return params, optimizer


def step(optimizer):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = p.detach().cos()
    optimizer.step()


def replace_state(params, optimizer):
    gone = [weakref.ref(state[k]) for state in optimizer.state.values() for k in state]
    for p in params:
        optimizer.state[p] = {k: v.clone() for k, v in optimizer.state[p].items()}
    return gone


def replace_arrays(params, optimizer):
    gone = [weakref.ref(optimizer.state[p]["exp_avg"]) for p in params]
    for p in params:
        optimizer.state[p]["exp_avg"] = optimizer.state[p]["exp_avg"].clone()
    return gone


def clear_state(params, optimizer):
    gone = [weakref.ref(value) for state in optimizer.state.values() for value in state.values()]
    optimizer.state.clear()
    return gone


def remove_a_group(params, optimizer):
    optimizer.state.pop(params[1])
    gone = [weakref.ref(params.pop(1))]
    del optimizer.param_groups[1]
    return gone


def replace_parameters(params, optimizer):
    gone = [weakref.ref(p) for p in params]
    for group in optimizer.param_groups:
        (old,) = group["params"]
        new = old.detach().clone().requires_grad_()
        optimizer.state[new] = optimizer.state.pop(old)
        group["params"] = [new]
    params[:] = [group["params"][0] for group in optimizer.param_groups]
    return gone


def replace_groups(params, optimizer):
    gone = [weakref.ref(optimizer.param_groups[0]["lr"])]
    optimizer.param_groups[0] = {**optimizer.param_groups[0], "lr": torch.tensor(0.1)}
    return gone


def with_tensor_rates(params, optimizer):
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.1)
    step(optimizer)
    return params, optimizer


@compiled
@pytest.mark.parametrize(
    "edit",
    [replace_state, replace_arrays, clear_state, remove_a_group, replace_parameters, replace_groups],
    ids=lambda edit: edit.__name__,
)
def test_what_is_replaced_is_freed_at_once(edit, backend):
    params, optimizer = with_tensor_rates(*trained(backend))
    twins, twin = with_tensor_rates(*trained("reference"))
    gone = edit(params, optimizer)
    gc.disable()  # by counts of references alone
    try:
        assert gone and [ref for ref in gone if ref() is not None] == []
    finally:
        gc.enable()
    edit(twins, twin)
    for opt in (optimizer, twin):
        for _ in range(2):
            step(opt)
    for ours, theirs in zip(params, twins, strict=True):
        close(ours, theirs, 5, "param")


@compiled
def test_parameters_may_be_swapped(backend):
    """Two objects exchange their tensors, which torch refuses where anything else refers to one of those."""
    params, optimizer = trained(backend)
    twins, twin = trained("reference")
    for owners, opt in ((params, optimizer), (twins, twin)):
        owners[0].grad = None
        torch.utils.swap_tensors(owners[0], (owners[0].detach() * 2.0).requires_grad_())
        for _ in range(2):
            step(opt)
    for ours, theirs in zip(params, twins, strict=True):
        close(ours, theirs, 4, "param")


@compiled
def test_state_is_not_swapped_under_a_plan(backend):
    """It reads state by weak references, so torch refuses, as it does where other code holds such a tensor."""
    params, optimizer = trained(backend)
    moment = optimizer.state[params[0]]["exp_avg"]
    with pytest.raises(RuntimeError, match="Expected no weakrefs"):
        torch.utils.swap_tensors(moment, moment * 2.0)
    step(optimizer)
    assert optimizer.state[params[0]]["exp_avg"] is moment


@compiled
@pytest.mark.parametrize("seed", range(6))
def test_memory_that_is_handed_out_again_is_read_anew(seed, backend):
    """Objects of the same size take each other's addresses, so that no address tells one from another."""
    pairs = [trained(backend, sizes=(3, 3, 3, 3)), trained("reference", sizes=(3, 3, 3, 3))]
    for owners, opt in pairs:
        draw = random.Random(seed)
        for _ in range(25):
            edit = draw.choice((replace_state, replace_arrays, replace_parameters, replace_groups, clear_state))
            edit(owners, opt) if edit is not replace_groups else replace_floats(opt, draw)
            step(opt)
    for ours, theirs in zip(pairs[0][0], pairs[1][0], strict=True):
        close(ours, theirs, 30, "param")


def replace_floats(optimizer, draw):
    for group in optimizer.param_groups:
        for _ in range(3):
            group["lr"] = group["lr"] * draw.choice((0.5, 0.75, 1.25))


@compiled
def test_calls_between_steps_find_a_plan_out_of_date(backend):
    params, optimizer = trained(backend)
    optimizer.param_groups.clear()
    optimizer.state.clear()
    params.clear()
    assert optimizer._runtime.plan.exact_counts() == []
    optimizer._runtime.plan.adopt([(0, 0)])
    optimizer.advance(samples=3)
