# SPDX-License-Identifier: Apache-2.0
"""Scripts about state: copies, surgery, hooks."""

import copy
import io
import pickle
import re

import torch
from cases import VISIBLE
from scripting import bare_script, give_gradients, parameters, script, seen, train
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


@bare_script
def deep_copied(make, name):
    params = parameters(4, 5)
    optimizer = make(name, params, **VISIBLE[name])
    train(optimizer, params, 2)
    twin = copy.deepcopy(optimizer)
    theirs = twin.param_groups[0]["params"]
    train(twin, theirs, 2)
    train(optimizer, params, 1)
    return seen(optimizer, params) | {f"twin {k}": v for k, v in seen(twin, theirs).items()}


@bare_script
def pickled(make, name):
    params = parameters(4, 5)
    optimizer = make(name, params, **VISIBLE[name])
    train(optimizer, params, 2)
    twin = pickle.loads(pickle.dumps(optimizer))
    theirs = twin.param_groups[0]["params"]
    train(twin, theirs, 2)
    return seen(twin, theirs)


@bare_script
def saved_whole(make, name):
    params = parameters(4)
    optimizer = make(name, params, **VISIBLE[name])
    train(optimizer, params, 1)
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    twin = torch.load(file, weights_only=False)
    theirs = twin.param_groups[0]["params"]
    train(twin, theirs, 1)
    return seen(twin, theirs)


@script(4, 5, steps=2)
def state_removed(optimizer, params, name):
    del optimizer.state[params[0]]
    train(optimizer, params, 2)


@script(4, 5, steps=2)
def state_cleared(optimizer, params, name):
    optimizer.state.clear()
    train(optimizer, params, 2)


@script(4, 5, steps=2)
def state_replaced(optimizer, params, name):
    for p in params:
        for key, value in list(optimizer.state[p].items()):
            if key != "step":
                optimizer.state[p][key] = torch.full_like(value, 0.5)
    train(optimizer, params, 2)


@script(4, 5, steps=2)
def state_written_in_place(optimizer, params, name):
    for p in params:
        for key, value in optimizer.state[p].items():
            value.fill_(7.0 if key == "step" else 0.5)
    train(optimizer, params, 2)


@script(4, steps=2)
def step_replaced(optimizer, params, name):
    if name != "SGD":
        optimizer.state[params[0]]["step"] = torch.tensor(10.0)
    train(optimizer, params, 2)


@script(4)
def state_set_beforehand(optimizer, params, name):
    if name == "SGD":
        optimizer.state[params[0]]["momentum_buffer"] = torch.ones(4)
    else:
        moments = {"exp_avg": torch.ones(4), "exp_avg_sq": torch.ones(4)}
        optimizer.state[params[0]] = {"step": torch.tensor(5.0), **moments}
    train(optimizer, params, 2)


@script(4, 5, steps=2)
def data_of_a_parameter_replaced(optimizer, params, name):
    params[0].data = torch.ones(4)
    train(optimizer, params, 2)


@script(4)
def hooks(optimizer, params, name):
    calls = []
    handles = [
        optimizer.register_step_pre_hook(lambda o, args, kwargs: calls.append(("pre", o is optimizer, args, kwargs))),
        optimizer.register_step_post_hook(lambda o, args, kwargs: calls.append(("post", o is optimizer, args, kwargs))),
        register_optimizer_step_pre_hook(lambda *a: calls.append("global pre")),
        register_optimizer_step_post_hook(lambda *a: calls.append("global post")),
    ]
    try:
        train(optimizer, params, 2)
    finally:
        for handle in handles:
            handle.remove()
    train(optimizer, params, 1)
    return dict(calls=[c if isinstance(c, str) else str(c[:2]) for c in calls])


@script(4)
def arguments_that_hooks_see(optimizer, params, name):
    """Hooks are told how the closure was passed, as torch tells them."""
    give_gradients(params)
    calls = []

    def closure():
        return 42

    def note(o, args, kwargs):
        calls.append(([a is o or a is closure or a for a in args], {k: v is closure or v for k, v in kwargs.items()}))

    handles = [optimizer.register_step_pre_hook(note), optimizer.register_step_post_hook(note)]
    ways = [((), {}), ((None,), {}), ((), {"closure": None}), ((closure,), {}), ((), {"closure": closure})]
    losses = [optimizer.step(*args, **kwargs) for args, kwargs in ways]
    for handle in handles:
        handle.remove()
    losses.append(optimizer.step(closure=closure))
    return dict(calls=calls, losses=losses)


@script(4)
def pre_hook_with_a_wrong_answer(optimizer, params, name):
    give_gradients(params)
    handle = optimizer.register_step_pre_hook(lambda o, args, kwargs: 42)
    messages = []
    for arguments in ((), (1, 2)):
        try:
            optimizer.step(*arguments)
        except (RuntimeError, TypeError) as error:
            messages.append(re.sub("0x[0-9a-f]+", "", str(error)))
        handle.remove()
    return dict(messages=messages)


@script(4)
def pre_hook_that_changes_arguments(optimizer, params, name):
    give_gradients(params)
    optimizer.register_step_pre_hook(lambda o, args, kwargs: ((o, lambda: 42), {}))
    return dict(loss=optimizer.step())


@script(4, steps=1)
def hooks_of_state_dicts(optimizer, params, name):
    calls = []
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("save pre"))
    optimizer.register_state_dict_post_hook(lambda o, s: calls.append("save post"))
    optimizer.register_load_state_dict_pre_hook(lambda o, s: calls.append("load pre"))
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append("load post"))
    optimizer.load_state_dict(optimizer.state_dict())
    train(optimizer, params, 1)
    return dict(calls=calls)


@bare_script
def profiled(make, name):
    params = parameters(4)
    optimizer = make(name, params, **VISIBLE[name])
    give_gradients(params)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
        optimizer.zero_grad()
    return {"records": sorted({e.key for e in profile.key_averages() if e.key.startswith("Optimizer.")})}
