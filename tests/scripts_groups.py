# SPDX-License-Identifier: Apache-2.0
"""Scripts about groups: their numbers as floats and tensors, edits, additions."""

import pytest
import torch
from cases import VISIBLE
from scripting import bare_script, parameters, script, seen, train


@bare_script
def groups(make, name):
    params = parameters(4, 5, 6)
    table = [
        {"params": params[:1], "lr": 0.3},
        {"params": params[1:2], "weight_decay": 0.0, "maximize": True},
        {"params": params[2]},
    ]
    optimizer = make(name, table, **VISIBLE[name])
    train(optimizer, params)
    return seen(optimizer, params)


@bare_script
def group_added_later(make, name):
    params = parameters(4, 5)
    optimizer = make(name, params[:1], **VISIBLE[name])
    train(optimizer, params, 2)
    optimizer.add_param_group({"params": params[1:], "lr": 0.2})
    train(optimizer, params, 2)
    return seen(optimizer, params, n_groups=len(optimizer.param_groups))


@script(4, 5)
def numbers_edited(optimizer, params, name):
    group = optimizer.param_groups[0]
    train(optimizer, params, 1)
    group["lr"] *= 0.5
    train(optimizer, params, 1)
    group["weight_decay"] = 0.25
    group["maximize"] = True
    train(optimizer, params, 1)
    if name == "SGD":
        group["momentum"], group["nesterov"] = 0.9, False
        train(optimizer, params, 1)
        group["momentum"] = 0.0
    else:
        group["betas"], group["eps"] = (0.5, 0.9), 0.1
    train(optimizer, params, 1)


@bare_script
def tensor_lr(make, name, dtype=torch.float32):
    params = parameters(4, 5)
    lr = torch.tensor(0.1, dtype=dtype)
    optimizer = make(name, params, **{**VISIBLE[name], "lr": lr})
    train(optimizer, params, 2)
    lr.fill_(0.3)
    train(optimizer, params, 2)
    same = optimizer.param_groups[0]["lr"] is lr
    return seen(optimizer, params, same=same)


@bare_script
def tensor_lr_of_float64(make, name):
    return tensor_lr(make, name, torch.float64)


@bare_script
def tensor_lr_with_a_dimension(make, name):
    params = parameters(4, 5)
    optimizer = make(name, params, **{**VISIBLE[name], "lr": torch.tensor([0.1])})
    train(optimizer, params, 2)
    return seen(optimizer, params)


@bare_script
def tensor_betas(make, name):
    params = parameters(4, 5)
    if name != "SGD":
        betas = {"betas": (torch.tensor(0.6), torch.tensor(0.7))}
        optimizer = make(name, params, **{**VISIBLE[name], **betas})
    else:
        optimizer = make(name, params, **VISIBLE[name])
    train(optimizer, params, 2)
    return seen(optimizer, params)


@bare_script
def named_parameters(make, name):
    params = parameters(4, 5)
    optimizer = make(name, [("weight", params[0]), ("bias", params[1])], **VISIBLE[name])
    train(optimizer, params, 2)
    saved = optimizer.state_dict()["param_groups"][0]["param_names"]
    return seen(optimizer, params, saved=saved)


@bare_script
def amsgrad_or_dampening(make, name):
    params = parameters(4, 500)
    options = {"dampening": 0.4, "nesterov": False} if name == "SGD" else {"amsgrad": True}
    optimizer = make(name, params, **{**VISIBLE[name], **options})
    train(optimizer, params, 5)
    return seen(optimizer, params)


@bare_script
def maximize(make, name):
    params = parameters(4, 5)
    optimizer = make(name, params, **VISIBLE[name], maximize=True)
    train(optimizer, params)
    return seen(optimizer, params)


@bare_script
def parameters_of_a_group_replaced(make, name):
    params = parameters(4, 5, 6)
    optimizer = make(name, params[:2], **VISIBLE[name])
    train(optimizer, params, 2)
    optimizer.param_groups[0]["params"][1] = params[2]
    train(optimizer, params, 1)
    optimizer.param_groups[0]["params"].append(params[1])
    train(optimizer, params, 1)
    optimizer.param_groups[0]["params"] = [params[0]]
    train(optimizer, params, 1)
    return seen(optimizer, params)


@bare_script
def a_group_removed(make, name):
    params = parameters(4, 5)
    optimizer = make(name, [{"params": params[:1]}, {"params": params[1:]}], **VISIBLE[name])
    train(optimizer, params, 2)
    optimizer.param_groups.pop(0)
    train(optimizer, params, 2)
    return seen(optimizer, params)


@bare_script
def representation(make, name):
    lines = repr(make(name, parameters(4), **VISIBLE[name])).splitlines()
    return {"lines": [line for line in lines if "foreach" not in line and "fused" not in line]}


@script(4)
def torch_scheduler(optimizer, params, name):
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    for _ in range(5):
        train(optimizer, params, 1)
        scheduler.step()
    return dict(last=scheduler.get_last_lr())


@bare_script
def scheduler_before_optimizer_warns(make, name):
    params = parameters(4)
    optimizer = make(name, params, **VISIBLE[name])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2)
    with pytest.warns(UserWarning) as record:
        scheduler.step()
    return {"warnings": [str(w.message)[:60] for w in record]}


@bare_script
def momentum_switched_off_and_on(make, name):
    """The buffer from before is gone on with, also if the optimizer was loaded in between."""
    if name != "SGD":
        return {}
    params = parameters(4, 5)
    optimizer = make(name, [{"params": params[:1], "momentum": 0.0}, {"params": params[1:]}], lr=0.1, momentum=0.5)
    train(optimizer, params, 2)
    optimizer.param_groups[1]["momentum"] = 0.0
    train(optimizer, params, 1)
    optimizer.load_state_dict(optimizer.state_dict())
    for group in optimizer.param_groups:  # the first buffer of one, and the old buffer of the other
        group.update(momentum=0.9, dampening=0.3)
    train(optimizer, params, 2)
    return seen(optimizer, params)
