# SPDX-License-Identifier: Apache-2.0
"""What other code does to the gradients and the groups of an optimizer, and what other threads and processes do."""

import gc
import os
import signal
import threading

import torch
from memory_world import give_gradients, new_parameter, stepped
from torch import Tensor

SCHEDULERS = {
    "StepLR": lambda m, o: m.StepLR(o, 3, 0.7),
    "ExponentialLR": lambda m, o: m.ExponentialLR(o, 0.95),
    "LambdaLR": lambda m, o: m.LambdaLR(o, lambda e: 1.0 / (1 + e)),
    "MultiplicativeLR": lambda m, o: m.MultiplicativeLR(o, lambda e: 0.97),
}


def replace_gradients(world, rng):
    for p in world.params:
        if p.grad is not None and rng.random() < 0.5:
            p.grad = p.grad.clone()


def data_of_gradient(world, rng):
    p = rng.choice(world.params)
    if p.grad is not None:
        p.grad.data = p.grad.clone()


def zero(world, rng):
    world.optimizer.zero_grad(set_to_none=rng.random() < 0.5)


def freeze(world, rng):
    p = rng.choice(world.params)
    p.requires_grad_(not p.requires_grad)


# Groups.


def add_group(world, rng):
    if not world.schedulers and len(world.optimizer.param_groups) < 5:
        world.optimizer.add_param_group({"params": [new_parameter(world, rng)]})


def remove_group(world, rng):
    groups = world.optimizer.param_groups
    if len(groups) > 1 and not world.schedulers:
        for p in groups.pop(rng.randrange(len(groups)))["params"]:
            world.optimizer.state.pop(p, None)
            forget(world, p)


def forget(world, p):
    for name, q in list(world.owner.named_parameters()):
        if p is q:
            delattr(world.owner, name)


def remove_parameter(world, rng):
    group = rng.choice(world.optimizer.param_groups)
    if len(group["params"]) > 1:
        p = group["params"].pop(rng.randrange(len(group["params"])))
        world.optimizer.state.pop(p, None)
        forget(world, p)


def split_group(world, rng):
    groups = world.optimizer.param_groups
    group = rng.choice(groups)
    if len(group["params"]) > 1 and not world.schedulers:
        groups.append({**group, "params": [group["params"].pop()]})


def merge_groups(world, rng):
    groups = world.optimizer.param_groups
    if len(groups) > 1 and not world.schedulers:
        groups[0]["params"] += groups.pop()["params"]


def replace_rate(world, rng):
    group = rng.choice(world.optimizer.param_groups)
    if isinstance(group["lr"], Tensor) and not world.schedulers:
        group["lr"] = group["lr"].clone()
    elif isinstance(group["lr"], Tensor):
        group["lr"].mul_(0.9)
    else:
        group["lr"] = group["lr"] * 0.9


def new_scheduler(world, rng):
    if not world.schedulers:
        world.schedulers.append(SCHEDULERS[rng.choice(sorted(SCHEDULERS))](world.module, world.optimizer))


def drop_scheduler(world, rng):
    if world.schedulers:
        world.schedulers.clear()
        gc.collect()


# Other threads and processes.


def step_while_read(world, rng):
    """Another thread reads everything that it can while steps are made."""
    done, errors = threading.Event(), []

    def read():
        try:
            while not done.is_set():
                world.optimizer.state_dict()
                [float(p.detach().sum()) for p in world.params]
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        stepped(world, rng)
    finally:
        done.set()
        reader.join()
    if errors:
        raise errors[0]


def step_in_a_child(world, rng):
    """A forked process makes the step that this one makes after it, and finds the same numbers."""
    give_gradients(world, rng)
    if not world.forks or any(array.is_shared() for _, array in world.arrays()):
        return  # a GPU is not there in a child; shared memory both would write to
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(60)  # one that hangs is ended, and has found nothing
            torch.set_num_threads(1)  # the threads of OpenMP, which torch would wait for, are not in a child
            world.optimizer.step()
            os.write(writing, repr([float(p.detach().sum()) for p in world.params]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        found = pipe.read().decode()
    os.waitpid(child, 0)
    world.optimizer.step()
    assert found == repr([float(p.detach().sum()) for p in world.params]), "the child found other numbers"
