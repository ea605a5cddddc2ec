# SPDX-License-Identifier: Apache-2.0
"""Scripts about gradients: late, missing, replaced, zeroed, scaled."""

import torch
from cases import VISIBLE
from scripting import bare_script, give_gradients, parameters, script, train


@script(4, (2, 3), 5)
def late_gradients(optimizer, params, name):
    for update in range(4):
        give_gradients(params, update)
        params[2].grad = None
        if update < 2:
            params[1].grad = None
        optimizer.step()


@script(4, 5)
def gradients_that_come_and_go(optimizer, params, name):
    for update in range(6):
        give_gradients(params, update)
        params[update % 2].grad = None
        optimizer.step()


@script(4)
def no_gradients_at_all(optimizer, params, name):
    result = optimizer.step()
    return dict(result=result)


@script(4, 300)
def gradients_replaced_each_time(optimizer, params, name):
    for update in range(4):
        optimizer.zero_grad()
        give_gradients(params, update)
        optimizer.step()


@script(4, 300)
def gradients_written_in_place(optimizer, params, name):
    give_gradients(params)
    for update in range(4):
        for p in params:
            p.grad.mul_(0.5).add_(update)
        optimizer.step()


@script((3, 3), 3)
def backward_passes(optimizer, params, name):
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = (params[0] @ params[1]).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return dict(losses=torch.stack(losses))


@script(4, 5, steps=1)
def zero_grad_to_none(optimizer, params, name):
    result = optimizer.zero_grad()
    return dict(result=result, grads=[p.grad for p in params])


@script(4, (2, 3))
def zero_grad_in_place(optimizer, params, name):
    give_gradients(params)
    before = [p.grad for p in params]
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    same = [p.grad is b for p, b in zip(params, before, strict=True)]
    optimizer.step()
    return dict(same=same, zero=[bool((p.grad == 0).all()) for p in params])


@bare_script
def zero_grad_detaches(make, name):
    params = parameters(4)
    optimizer = make(name, params, **VISIBLE[name])
    params[0].grad = params[0] * 2
    optimizer.zero_grad(set_to_none=False)
    return {"grad_fn": params[0].grad.grad_fn, "requires_grad": params[0].grad.requires_grad}


@bare_script
def versions_counted(make, name):
    params = parameters(4, 5)
    optimizer = make(name, params, **VISIBLE[name])
    train(optimizer, params, 1)
    before, gradients = [p._version for p in params], [p.grad._version for p in params]
    optimizer.step()
    return {
        "parameters count it": [b < p._version for b, p in zip(before, params, strict=True)],
        "gradients do not": [g == p.grad._version for g, p in zip(gradients, params, strict=True)],
    }


@bare_script
def a_stale_graph_is_noticed(make, name):
    params = parameters(4)
    optimizer = make(name, params, **VISIBLE[name])
    loss = params[0].square().sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    try:
        loss.backward()
    except RuntimeError as error:
        return {"error": "modified by an inplace operation" in str(error)}
    return {"error": None}


@bare_script
def differentiable(make, name):
    start = torch.tensor([1.0, 2.0], requires_grad=True)
    p = start.clone()
    optimizer = make(name, [p], **{**VISIBLE[name], "differentiable": True})
    p.grad = start * 3
    optimizer.step()
    (gradient,) = torch.autograd.grad(p.sum(), start)
    return {"p": p.detach(), "gradient": gradient}


@script(4, 5)
def gradient_scaler(optimizer, params, name):
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)
    scales = []
    for update in range(5):
        optimizer.zero_grad()
        loss = sum(p.square().sum() for p in params) * (float("inf") if update in (0, 3) else 1.0)
        scaler.scale(loss).backward()
        if update == 2:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return dict(scales=scales)


@script(4, 5, steps=1)
def parameter_frozen_and_thawed(optimizer, params, name):
    params[0].requires_grad_(False)
    params[0].grad = None
    give_gradients(params[1:], 1)
    optimizer.step()
    params[0].requires_grad_(True)
    train(optimizer, params, 1)


@script(4)
def closures(optimizer, params, name):
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = params[0].square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        first = optimizer.step(closure)
    second = optimizer.step(closure=closure)
    return dict(calls=calls, first=first.detach(), second=second.detach())
