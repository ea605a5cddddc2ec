# SPDX-License-Identifier: Apache-2.0
"""What makes a step impossible: memory that is gone, arrays of another model, numbers that are none. Done in ours
alone, since torch reads memory that is not there, or changes half of the parameters before it raises.

`damage(world, rng)` returns how to mend it, or None where there is nothing to damage.
"""

import torch
from torch import Tensor


def refuse(world, damage, rng):
    """A step after a damage raises an error that says so, changes nothing, and goes on after the repair."""
    without = [p for p in world.params if p.grad is None]
    for p in without:
        p.grad = torch.ones_like(p)
    given = [p.grad for p in world.params]
    before = snapshot(world)
    mend = damage(world, rng)
    if mend is not None:
        try:
            world.optimizer.step()
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            assert any(word in str(error) for word in ("group", "state", "must be", "is gone")), error
        else:
            raise AssertionError(f"{damage.__name__}: a step did not raise")
        mend()
    for p, grad in zip(world.params, given, strict=True):
        assert p.grad is grad
    after = snapshot(world)
    for p in without:
        p.grad = None
    assert before.keys() == after.keys(), (damage.__name__, "other state", before.keys() ^ after.keys())
    for name, value in before.items():
        assert same(value, after[name]), (damage.__name__, f"{name} has changed")


def snapshot(world):
    found = {}
    for i, p in enumerate(world.params):
        found[i, "value"], found[i, "grad"] = p.detach().clone(), p.grad.clone()
        for key, value in world.optimizer.state.get(p, {}).items():
            found[i, key] = value.clone() if isinstance(value, Tensor) else value
    for g, group in enumerate(world.optimizer.param_groups):
        found |= {(g, "group", k): float(v) for k, v in group.items() if isinstance(v, (int, float, Tensor))}
    return found


def same(a, b):
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


def filled(world):
    return [p for p in world.params if p.numel()]


def emptied(tensor, rng):
    """Its memory is freed, or made smaller. Returns how it comes back."""
    storage, kept = tensor.untyped_storage(), tensor.detach().clone()
    if not storage.resizable() or storage.is_shared() or storage.nbytes() != tensor.numel() * tensor.element_size():
        return None  # shared memory, or a view: other arrays would be gone with it
    size = storage.nbytes()
    storage.resize_(0 if rng.random() < 0.5 else size - 1)

    def mend():
        storage.resize_(size)
        tensor.detach().copy_(kept)

    return mend


def free_parameter(world, rng):
    params = filled(world)
    return emptied(rng.choice(params), rng) if params else None


def free_gradient(world, rng):
    params = filled(world)
    return emptied(rng.choice(params).grad, rng) if params else None


def states(world):
    return [(s, k) for p in filled(world) for s in [world.optimizer.state.get(p, {})] for k in needed(s)]


def needed(state):
    return sorted(k for k, v in state.items() if isinstance(v, Tensor) and k != "max_exp_avg_sq")


def free_state(world, rng):
    arrays = states(world)
    state, key = rng.choice(arrays) if arrays else ({}, "")
    return emptied(state[key], rng) if key else None


def misshape_state(world, rng):
    arrays = [(s, k) for s, k in states(world) if k != "step"]
    state, key = rng.choice(arrays) if arrays else ({}, "")
    return replaced(state, key, torch.ones(3, 1, 1, 1, 1)) if key else None


def replaced(mapping, key, value):
    kept = mapping[key]
    mapping[key] = value
    return lambda: mapping.__setitem__(key, kept)


def sparse_gradient(world, rng):
    params = [p for p in filled(world) if p.dim()]
    if not params:
        return None
    p = rng.choice(params)
    kept, p.grad = p.grad, p.grad.to_sparse()
    return lambda: setattr(p, "grad", kept)


def no_number(world, rng):
    group = rng.choice([g for g in world.optimizer.param_groups if filled_group(g)] or [None])
    value = rng.choice(["fast", None, [0.1], {}, object(), torch.ones(2), 1j])
    return None if group is None else replaced(group, "lr", value)


def filled_group(group):
    return any(p.numel() for p in group["params"])


def no_key(world, rng):
    group = rng.choice([g for g in world.optimizer.param_groups if filled_group(g)] or [None])
    if group is None:
        return None
    key = rng.choice(["lr", "weight_decay"])
    order = list(group)
    kept = group.pop(key)

    def mend():
        rest = dict(group)
        rest[key] = kept
        group.clear()
        group.update({k: rest[k] for k in order})

    return mend


def state_is_no_dict(world, rng):
    owners = [p for p in filled(world) if world.optimizer.state.get(p)]
    return replaced(world.optimizer.state, rng.choice(owners), [1.0]) if owners else None


DAMAGES = [
    free_parameter, free_gradient, free_state, misshape_state, sparse_gradient, no_number, no_key, state_is_no_dict,
]  # fmt: skip
