# SPDX-License-Identifier: Apache-2.0
"""What the random programs of memory are made of (memory_runs.py): what other code does to the tensors and dictionaries
of an optimizer between two of its steps. Each action is done in both worlds with the same random numbers.
"""

import collections
import copy
import gc
import pickle

import torch
from memory_groups import (
    add_group,
    data_of_gradient,
    drop_scheduler,
    freeze,
    merge_groups,
    new_scheduler,
    remove_group,
    remove_parameter,
    replace_gradients,
    replace_rate,
    split_group,
    step_in_a_child,
    step_while_read,
    zero,
)
from torch import Tensor, nn

# Parameters.


def replace_parameter(world, rng):
    old, carried = rng.choice(world.params), rng.random() < 0.7
    if not carried:
        world.optimizer.state.pop(old, None)
    new = nn.Parameter(old.detach().clone())
    world.replace(old, new)
    if old.grad is not None and rng.random() < 0.5:
        new.grad = old.grad


def prune_parameter(world, rng):
    """To fewer or to more rows in the same object, its state along with it."""
    p = rng.choice([p for p in world.params if p.dim()] or [None])
    if p is None:
        return
    n = rng.randrange(1, 9)
    p.grad = None
    p.data = resized(p.detach(), n)
    for key, value in list(world.optimizer.state.get(p, {}).items()):
        if isinstance(value, Tensor) and key != "step":
            world.optimizer.state[p][key] = resized(value, n)


def resized(tensor, n):
    return torch.cat([tensor, tensor.new_ones(n, *tensor.shape[1:])])[:n].clone()


def data_of_parameter(world, rng):
    for p in world.params:
        if rng.random() < 0.5:
            p.data = p.detach().clone()


def set_storage_of_parameter(world, rng):
    p = rng.choice(world.params)
    with torch.no_grad():
        p.set_(p.detach().clone())


def swap_parameter(world, rng):
    p = rng.choice(world.params)
    p.grad = None
    torch.utils.swap_tensors(p, nn.Parameter(p.detach() * 0.9))


def share(world, rng):
    p = rng.choice(world.params)
    arrays = [p.data, p.grad, *world.optimizer.state.get(p, {}).values()]
    for array in arrays:
        if isinstance(array, Tensor) and array.numel() and rng.random() < 0.5:
            array.share_memory_()


def assign_state_of_module(world, rng):
    """`load_state_dict(assign=True)` makes other parameters, which the groups are pointed to."""
    before = dict(world.owner.named_parameters())
    world.owner.load_state_dict({k: v.clone() for k, v in world.owner.state_dict().items()}, assign=True)
    after = dict(world.owner.named_parameters())
    for name, p in before.items():
        world.replace(p, after[name])


def parametrized(world, rng):
    """A parametrization that comes, a step through it, and that goes again."""
    name, p = rng.choice(list(world.owner.named_parameters()))
    if not any(p is q for q in world.params):
        return
    nn.utils.parametrize.register_parametrization(world.owner, name, nn.Identity())
    world.optimizer.zero_grad()
    getattr(world.owner, name).sum().backward()
    world.optimizer.step()
    nn.utils.parametrize.remove_parametrizations(world.owner, name, leave_parametrized=rng.random() < 0.5)
    after = getattr(world.owner, name)
    world.replace(p, after)


def functional(world, rng):
    """Gradients by `torch.func`, whose tensors are wrapped while it runs."""
    params = dict(world.owner.named_parameters())
    pick = {name: p.detach() for name, p in params.items()}
    found = torch.func.grad(lambda given: sum(v.sin().sum() for v in given.values()))(pick)
    for name, p in params.items():
        p.grad = found[name]


# State.


def replace_state(world, rng):
    for p in world.params:
        if p in world.optimizer.state and rng.random() < 0.6:
            world.optimizer.state[p] = {k: clone(v) for k, v in world.optimizer.state[p].items()}


def clone(value):
    return value.clone() if isinstance(value, Tensor) else value


def replace_array(world, rng):
    state, key = some_array(world, rng)
    if key:
        state[key] = state[key].clone()


def some_array(world, rng):
    """A dictionary of state and one of its keys; an empty one where there is no state."""
    states = [world.optimizer.state.get(p) for p in world.params]
    state = rng.choice([s for s in states if s] or [{}])
    keys = sorted(k for k, v in state.items() if isinstance(v, Tensor))
    return state, rng.choice(keys) if keys else ""


def data_of_state(world, rng):
    state, key = some_array(world, rng)
    if key:
        state[key].data = state[key].clone()


def set_storage_of_state(world, rng):
    state, key = some_array(world, rng)
    if key:
        state[key].set_(state[key].clone())


def swap_array(world, rng):
    state, key = some_array(world, rng)
    if key:
        torch.utils.swap_tensors(state[key], state[key].clone())


def offload(world, rng):
    """State goes elsewhere and comes back; its own storages are empty in between."""
    for state in world.optimizer.state.values():
        for value in (v for v in state.values() if isinstance(v, Tensor)):
            storage = value.untyped_storage()
            if (
                storage.resizable()
                and not storage.is_shared()
                and storage.nbytes() == value.numel() * value.element_size()
            ):
                kept, size = value.clone(), storage.nbytes()
                storage.resize_(0)
                storage.resize_(size)
                value.copy_(kept)


def clear_state(world, rng):
    if rng.random() < 0.5:
        world.optimizer.state.clear()
    else:
        world.optimizer.state.pop(rng.choice(world.params), None)


def another_dictionary(world, rng):
    if rng.random() < 0.5:
        world.optimizer.state = collections.defaultdict(dict, world.optimizer.state)
    else:
        group = rng.randrange(len(world.optimizer.param_groups))
        world.optimizer.param_groups[group] = dict(world.optimizer.param_groups[group])


def reload(world, rng):
    state = world.optimizer.state_dict()
    if rng.random() < 0.5:
        state = copy.deepcopy(state)
    if rng.random() < 0.3 and not world.schedulers:
        groups = [{"params": group["params"]} for group in world.optimizer.param_groups]
        world.optimizer = world.make(world.name, groups, lr=0.5)
        gc.collect()
    world.optimizer.load_state_dict(state)


def copied(world, rng):
    if any(hasattr(s, "lr_lambdas") for s in world.schedulers) or rng.random() < 0.5:
        things = copy.deepcopy((world.owner, world.optimizer, world.schedulers))
    else:
        things = pickle.loads(pickle.dumps((world.owner, world.optimizer, world.schedulers)))
    world.owner, world.optimizer, world.schedulers = things
    gc.collect()


ACTIONS = [
    replace_parameter, replace_parameter, prune_parameter, data_of_parameter, set_storage_of_parameter, swap_parameter,
    share, assign_state_of_module, parametrized, functional, replace_state, replace_state, replace_array, data_of_state,
    set_storage_of_state, swap_array, offload, clear_state, another_dictionary, reload, copied, replace_gradients,
    data_of_gradient, zero, freeze, add_group, remove_group, remove_parameter, split_group, merge_groups, replace_rate,
    new_scheduler, drop_scheduler, step_while_read,
]  # fmt: skip
RARE = [step_in_a_child]  # one in a hundred: a process costs more than a thousand steps
