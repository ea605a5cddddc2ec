# SPDX-License-Identifier: Apache-2.0
"""What tensors lie in: memory that is exchanged, shared, held in circles, used by several threads."""

import collections
import copy
import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from compared import compared
from tiers import full

import fusedsched
from fusedsched import schedules

named = pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD"])
as_torch = compared(fusedsched, torch.optim)


def made(m, name, params, **options):
    """An optimizer of the package `m`, with state for each parameter."""
    return getattr(m, name)(params, lr=0.1, **({"momentum": 0.9} if name == "SGD" else {}), **options)


def state_tensors(opt):
    return [v for state in opt.state.values() for v in state.values() if isinstance(v, torch.Tensor)]


def to_other_processes(opt):
    torch.multiprocessing.SimpleQueue().put(opt.state_dict())


def to_shared_memory(opt):
    [tensor.share_memory_() for tensor in state_tensors(opt)]


def to_another_place(opt):
    for tensor in state_tensors(opt):
        tensor.data = tensor.data.clone()


def to_another_storage(opt):
    for tensor in state_tensors(opt):
        tensor.set_(tensor.clone())


def to_another_count(opt):
    for state in opt.state.values():
        if "step" in state:
            state["step"].data = torch.tensor(10.0)


MOVES = [to_other_processes, to_shared_memory, to_another_place, to_another_storage, to_another_count]


@named
@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)
@as_torch(bound=1e-6)
def test_state_whose_memory_is_exchanged(m, name, move):
    """Steps continue from what the state's tensors hold, wherever that lies now."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(4)) for _ in range(20)]
    opt = made(m, name, params)
    for t in range(6):
        if t == 3:
            move(opt)
            others = [torch.full((1,), 7.0) for _ in range(100)]  # where freed memory would go
        for p in params:
            p.grad = torch.ones_like(p)
        opt.step()
    assert all(float(other) == 7.0 for other in others)
    return params, [float(state.get("step", 0.0)) for state in opt.state.values()]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("how", ["shared", "elsewhere"])
def test_a_shown_number_whose_memory_is_exchanged(backend, how):
    """a schedule goes on being shown in the tensor of its group, wherever that lies now."""
    p = torch.nn.Parameter(torch.ones(4))
    opt = fusedsched.AdamW([p], lr=schedules.linear(0.5, 0.0, steps=10), backend=backend)
    for t in range(4):
        if t == 1:
            shown = opt.param_groups[0]["lr"]
            shown.share_memory_() if how == "shared" else setattr(shown, "data", shown.data.clone())
        p.grad = torch.ones(4)
        opt.step()
    assert float(opt.param_groups[0]["lr"]) == pytest.approx(0.3)


def whole(n):
    a = torch.linspace(1.0, 2.0, n, dtype=torch.float64)
    return a, [torch.nn.Parameter(a), torch.nn.Parameter(a)]


def with_gaps(n):
    a = torch.linspace(1.0, 2.0, n, dtype=torch.float64)
    return a, [a[: n // 2].detach().requires_grad_(), a[::3].detach().requires_grad_()]


@named
@pytest.mark.parametrize("make", [whole, with_gaps], ids=lambda make: make.__name__)
@pytest.mark.parametrize("n", [12, 300_000])
@pytest.mark.parametrize("late", [False, True])
@as_torch(bound=1e-6)
def test_parameters_that_share_memory(m, name, make, n, late):
    """They are updated one after the other, at the end of a run that began apart too."""
    a, params = make(n)
    targets = [p.data for p in params]
    if late:
        params[1].data = params[1].data.clone()
    opt = getattr(m, name)(params, lr=0.1, weight_decay=0.1)
    for t in range(4):
        if t == 2:
            params[1].data = targets[1]
        for k, p in enumerate(params):
            p.grad = torch.full_like(p, 1.0 + t + k)
        opt.step()
    return a


@pytest.mark.parametrize("name", ["AdamW", full("Adam"), "SGD"])
@pytest.mark.parametrize("where", ["parameter", "group", "state"])
def test_circles_are_collected(name, where):
    """what holds its optimizer goes with it."""
    net = torch.nn.Linear(3, 3)
    params = list(net.parameters())
    opt = getattr(fusedsched, name)(params, lr=0.1)
    for t in range(3):
        if t == 1:
            {"parameter": params[0].__dict__, "group": opt.param_groups[0], "state": opt.state[params[0]]}[
                where
            ].update({"net": net, "opt": opt})
            net.opt = opt
        for p in params:
            p.grad = torch.ones_like(p)
        opt.step()
        gc.collect()
    seen = [weakref.ref(thing) for thing in (params[0], opt, net)]
    del net, params, opt, p
    gc.collect()
    assert [ref() for ref in seen] == [None] * 3


@pytest.mark.parametrize("transposed", [False, True])
def test_threads_take_turns(transposed):
    """several threads may step one optimizer; each makes whole steps."""
    params = [torch.nn.Parameter(torch.zeros(200, 300)) for _ in range(10)]
    opt = fusedsched.AdamW(params, lr=1e-3, weight_decay=0.0)
    for p in params:
        p.grad = torch.ones(300, 200).t() if transposed else torch.ones(200, 300)
    opt.step()
    threads = [threading.Thread(target=lambda: [opt.step() for _ in range(50)]) for _ in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert {float(state["step"]) for state in opt.state.values()} == {151.0}
    for p in params:
        torch.testing.assert_close(p, torch.full_like(p, -0.151), rtol=1e-6, atol=1e-6)


@named
@pytest.mark.parametrize("stepped", [False, True])
@as_torch(bound=1e-6)
def test_a_gapped_parameter_that_is_laid_out_anew(m, name, stepped):
    """State follows the layout of its parameter, whether or not there was any."""
    torch.manual_seed(0)
    p = torch.randn(4, 3, 2)[..., 0].detach().requires_grad_()
    opt = made(m, name, [p])
    for t in range(4):
        if t == 1:
            p.data = p.data.t().contiguous().t()
        p.grad = torch.arange(12.0).view(4, 3) if t or stepped else None
        opt.step()
    return p


EDITS = {
    "tuple of parameters": lambda group: group.update(params=tuple(group["params"])),
    "tensor of betas": lambda group: group.update(betas=torch.tensor([0.5, 0.6])),
    "no flag": lambda group: group.update(amsgrad=None, maximize=None),
    "a word for a flag": lambda group: group.update(maximize="yes"),
    "an array, in place": lambda group: group["lr"].__imul__(10.0),
}


@pytest.mark.parametrize("edit", EDITS)
@as_torch(bound=1e-6)
def test_types_that_torch_takes(m, edit):
    """A group may hold whatever torch's own steps can read."""
    p = torch.nn.Parameter(torch.ones(3))
    opt = m.Adam([p], lr=np.array(0.01) if "array" in edit else 0.01)
    for t in range(4):
        if t == 2:
            EDITS[edit](opt.param_groups[0])
        p.grad = torch.ones(3)
        opt.step()
    return p


def test_state_that_is_no_dict():
    p = torch.nn.Parameter(torch.ones(3))
    opt = fusedsched.AdamW([p])
    opt.state[p], p.grad = collections.UserDict(), torch.ones(3)
    with pytest.raises(TypeError, match="must be a dict"):
        opt.step()


@pytest.mark.parametrize("between", ["set_schedule", "advance"])
def test_an_edit_that_no_step_has_seen(between):
    """a scheduled number that was written to stays, whatever comes before the next step."""
    p = torch.nn.Parameter(torch.ones(3))
    opt = fusedsched.AdamW([p], lr=schedules.linear(0.5, 0.0, steps=10), weight_decay=schedules.constant(0.1))
    p.grad = torch.ones(3)
    opt.step()
    opt.param_groups[0]["lr"].fill_(0.125)
    opt.advance(tokens=3) if between == "advance" else opt.set_schedule("weight_decay", schedules.constant(0.2))
    with pytest.warns(UserWarning, match="'lr'"):
        opt.step()
    assert float(opt.param_groups[0]["lr"]) == 0.125


@pytest.mark.parametrize("how", ["copy", "group", "load"])
def test_sgd_with_a_scheduled_momentum_goes_on(how):
    """a plan that is made anew knows that there is momentum."""
    p = torch.nn.Parameter(torch.ones(3))
    opt = fusedsched.SGD([p], lr=0.1, momentum=schedules.linear(0.9, 0.5, steps=9))
    p.grad = torch.ones(3)
    opt.step()
    if how == "copy":
        opt = copy.deepcopy(opt)
    elif how == "group":
        opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    else:
        opt.load_state_dict(opt.state_dict())
    for q in [q for group in opt.param_groups for q in group["params"]]:
        q.grad = torch.ones_like(q)
    opt.step()
    assert float(opt.param_groups[0]["momentum"]) == pytest.approx(0.9 - 2 * 0.4 / 9)
