# SPDX-License-Identifier: Apache-2.0
"""The plans keep nothing alive that a user replaces between two steps, and read what takes its place.

Memory is watched, not objects: a plan that holds no tensor may still hold its storage.
"""

import gc
import random

import pytest
import torch
from cases import BACKENDS, VISIBLE, maker
from tolerances import close
from torch.multiprocessing.reductions import StorageWeakRef

SIZES = (4, 5, 3_000)  # of parameters
RELEASED = (4, 5, 300_000)  # long enough for the compiled plans to release the interpreter
reference = maker("reference")


def trained(make, name="AdamW", sizes=SIZES, steps=2, **options):
    params = [torch.linspace(-1, 1, n).requires_grad_() for n in sizes]
    groups = [{"params": [p]} for p in params]
    optimizer = make(name, groups, **{**VISIBLE[name], **options})
    for _ in range(steps):
        step(optimizer)
    return params, optimizer


def step(optimizer):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = p.detach().cos()
    optimizer.step()


def memory(*tensors):
    return [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors]


def states(optimizer):
    return [value for state in optimizer.state.values() for value in state.values()]


# Each edit returns the memory that nothing has to hold any more.


def replace_state(params, optimizer):
    gone = memory(*states(optimizer))
    for p in params:
        optimizer.state[p] = {k: v.clone() for k, v in optimizer.state[p].items()}
    return gone


def replace_arrays(params, optimizer):
    gone = memory(*(optimizer.state[p][k] for p in params for k in ("exp_avg", "step")))
    for p in params:
        for k in ("exp_avg", "step"):
            optimizer.state[p][k] = optimizer.state[p][k].clone()
    return gone


def replace_one_array(params, optimizer):
    """Arrays of one parameter do not hold those of the others."""
    gone = memory(optimizer.state[params[1]]["exp_avg_sq"])
    optimizer.state[params[1]]["exp_avg_sq"] = optimizer.state[params[1]]["exp_avg_sq"].clone()
    return gone


def replace_data(params, optimizer):
    gone = memory(*params, *states(optimizer))
    for p in params:
        p.data = p.detach().clone()
        for value in optimizer.state[p].values():
            value.data = value.clone()
    return gone


def clear_state(params, optimizer):
    gone = memory(*states(optimizer))
    optimizer.state.clear()
    return gone


def load(params, optimizer):
    gone = memory(*(optimizer.state[p][k] for p in params for k in ("exp_avg", "exp_avg_sq")))
    saved = optimizer.state_dict()
    for state in saved["state"].values():
        state.update({k: v.clone() for k, v in state.items()})
    optimizer.load_state_dict(saved)
    return gone


def remove_a_group(params, optimizer):
    gone = memory(params[1], *optimizer.state.pop(params[1]).values())
    params.pop(1)
    del optimizer.param_groups[1]
    return gone


def replace_parameters(params, optimizer):
    gone = memory(*params)
    for group in optimizer.param_groups:
        (old,) = group["params"]
        new = old.detach().clone().requires_grad_()
        optimizer.state[new] = optimizer.state.pop(old)
        group["params"] = [new]
    params[:] = [group["params"][0] for group in optimizer.param_groups]
    return gone


def prune_parameters(params, optimizer):
    """To fewer elements, in the same objects."""
    gone = memory(params[2], *(optimizer.state[params[2]][k] for k in ("exp_avg", "exp_avg_sq")))
    params[2].grad = None
    params[2].data = params[2].detach()[:7].clone()
    for k in ("exp_avg", "exp_avg_sq"):
        optimizer.state[params[2]][k] = optimizer.state[params[2]][k][:7].clone()
    return gone


def replace_groups(params, optimizer):
    gone = memory(optimizer.param_groups[0]["lr"])
    optimizer.param_groups[0] = {**optimizer.param_groups[0], "lr": torch.tensor(0.1)}
    return gone


def reset_gradients(params, optimizer):
    gone = memory(*(p.grad for p in params))
    optimizer.zero_grad()
    return gone


def replace_gradients(params, optimizer):
    gone = memory(*(p.grad for p in params))
    for p in params:
        p.grad = p.grad.clone()
    return gone


EDITS = [
    replace_state, replace_arrays, replace_one_array, replace_data, clear_state, load, remove_a_group,
    replace_parameters, prune_parameters, replace_groups, reset_gradients, replace_gradients,
]  # fmt: skip


def with_tensor_rates(params, optimizer):
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.1)
    step(optimizer)
    return params, optimizer


def alive(gone):
    assert gone
    return [ref for ref in gone if not ref.expired()]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_what_is_replaced_is_freed_at_once(edit, everywhere):
    freed_at_once(edit, everywhere, SIZES)


@pytest.mark.parametrize("backend", [b for b in ("cpu", "cuda") if b in BACKENDS])
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_the_same_after_steps_without_the_interpreter(edit, backend):
    freed_at_once(edit, maker(backend), RELEASED)


def freed_at_once(edit, make, sizes):
    params, optimizer = with_tensor_rates(*trained(make, sizes=sizes))
    twins, twin = with_tensor_rates(*trained(reference, sizes=sizes))
    gc.collect()
    gc.disable()  # by counts of references alone
    try:
        assert alive(edit(params, optimizer)) == []
    finally:
        gc.enable()
    edit(twins, twin)
    for opt in (optimizer, twin):
        for _ in range(2):
            step(opt)
    for ours, theirs in zip(params, twins, strict=True):
        close(ours, theirs, 5, "param")


@pytest.mark.parametrize("backend,beside", [("cpu", False), ("cpu", True), ("cuda", False), ("reference", False)])
def test_a_step_that_refuses_keeps_nothing(backend, beside):
    if backend not in BACKENDS:
        pytest.skip(f"there is no backend {backend}")
    params, optimizer = trained(maker(backend))
    if beside:  # shared memory: updated by the reference, after the plan has checked its own parameters
        whole = torch.ones(8)
        twins = [torch.nn.Parameter(whole[:5]), torch.nn.Parameter(whole[3:])]
        optimizer = maker("auto")("AdamW", [*params, *twins])
        step(optimizer)
        wrong = twins[0]
    else:
        wrong = params[2]
    for p in params:
        p.grad = torch.ones_like(p)
    wrong.grad = torch.ones_like(wrong).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    gone = memory(*(p.grad for p in params[:2]))
    params[0].grad = params[1].grad = None
    gone += memory(*(optimizer.state[params[0]].values()))
    optimizer.state.clear()
    assert alive(gone) == []


def test_tensors_may_be_swapped(everywhere):
    """Two objects exchange their tensors, which torch refuses where anything else refers to one of those."""
    params, optimizer = trained(everywhere)
    twins, twin = trained(reference)
    for owners, opt in ((params, optimizer), (twins, twin)):
        owners[0].grad = None
        torch.utils.swap_tensors(owners[0], (owners[0].detach() * 2.0).requires_grad_())
        for _ in range(2):
            step(opt)
        for key in ("exp_avg", "step"):
            moment = opt.state[owners[2]][key]
            torch.utils.swap_tensors(moment, moment * 2.0)
        for _ in range(2):
            step(opt)
    for ours, theirs in zip(params, twins, strict=True):
        close(ours, theirs, 6, "param")
    assert [float(s["step"]) for s in optimizer.state.values()] == [float(s["step"]) for s in twin.state.values()]


def test_each_array_of_state_has_a_storage_of_its_own(everywhere):
    """Of its true size: other code frees, resizes and saves one without the others."""
    for name, dtype in (("AdamW", torch.float32), ("Adam", torch.bfloat16), ("SGD", torch.float64)):
        params = [torch.ones(n, dtype=dtype).requires_grad_() for n in (1, 10, 1000, 5_000)]
        optimizer = everywhere(name, params, **VISIBLE[name])
        step(optimizer)
        arrays = states(optimizer)
        assert len({a.untyped_storage().data_ptr() for a in arrays}) == len(arrays) >= len(params)
        for a in arrays:
            assert a.untyped_storage().nbytes() == a.numel() * a.element_size() and a.untyped_storage().resizable()


@pytest.mark.parametrize("seed", range(6))
def test_memory_that_is_handed_out_again_is_read_anew(seed, everywhere):
    """Objects of the same size take each other's addresses, so that no address tells one from another."""
    pairs = [trained(everywhere, sizes=(3, 3, 3, 3)), trained(reference, sizes=(3, 3, 3, 3))]
    for owners, opt in pairs:
        draw = random.Random(seed)
        for _ in range(4 if everywhere.__module__ == "interpreted" else 25):  # interpreted steps take their time
            edit = draw.choice((replace_state, replace_arrays, replace_parameters, replace_groups, clear_state))
            edit(owners, opt) if edit is not replace_groups else replace_floats(opt, draw)
            step(opt)
    for ours, theirs in zip(pairs[0][0], pairs[1][0], strict=True):
        close(ours, theirs, 30, "param")


def replace_floats(optimizer, draw):
    for group in optimizer.param_groups:
        for _ in range(3):
            group["lr"] = group["lr"] * draw.choice((0.5, 0.75, 1.25))


def test_calls_between_steps_find_a_plan_out_of_date(everywhere):
    params, optimizer = trained(everywhere)
    optimizer.param_groups.clear()
    optimizer.state.clear()
    params.clear()
    plan = optimizer._runtime.plan
    assert plan.exact_counts() == []
    if plan.name != "reference":  # which makes state in the step
        plan.adopt([(0, 0)])
    optimizer.advance(samples=3)
