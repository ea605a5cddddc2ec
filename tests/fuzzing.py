# SPDX-License-Identifier: Apache-2.0
"""Fuzzers of everything that reads bytes, texts or trees from outside. Each takes something valid and damages it.

A fuzzer is a function of a random generator. It returns whether the damaged input was taken, and raises AssertionError
where a refusal is not one by name or has changed something. `python tests/fuzzing.py NAME FIRST LAST` runs many seeds.
"""

import contextlib
import copy
import json
import math
import os
import random
import sys
import warnings
from array import array

import torch
from fuzzed_objects import SCHEDULERS, TEXTS, optimizer_of, scheduler_of, step
from torch import Tensor

import fusedsched as fs
from fusedsched import _native
from fusedsched.plotting.parsing import parse
from fusedsched.schedules import Schedule

DEPTH = 8  # of places that are damaged: trees may contain themselves
NAMED = (ValueError, TypeError, KeyError, RuntimeError, NotImplementedError)
ODD = (
    None, True, -1, 0, 2**31, 2**63, -(2**70), 10**400, 1e308, -0.0, math.nan, math.inf, -math.inf, "", "0.1", "\ud800",
    "x" * 300, b"\x00\xff", [], [[]], [1, [2, [3]]], {}, {"a": {}}, (), 1j, object(), torch.ones(()), torch.ones(2, 3),
    torch.tensor([]), torch.tensor(math.nan), torch.ones(3, dtype=torch.int64),
)  # fmt: skip


def places(tree, path=()):
    """Paths to everything in a tree of dictionaries, lists and tuples."""
    if len(path) > DEPTH:
        return
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def damaged(tree, rng):
    """A copy in which one to three entries are missing, others, of another type, or too many."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, 3)):
        paths = list(places(tree))
        if not paths:
            return rng.choice(ODD)
        *path, last = rng.choice(paths)
        owner = tree
        for key in path:
            owner = owner[key]
        if isinstance(owner, tuple):
            continue
        way = rng.random()
        if way < 0.2:
            del owner[last]
        elif way < 0.65:
            owner[last] = copy.deepcopy(rng.choice(ODD)) if way < 0.6 else owner
        elif way < 0.8:
            other = tree
            for key in rng.choice(paths):
                other = other[key] if isinstance(other, (dict, list, tuple)) and has(other, key) else other
            owner[last] = copy.deepcopy(other)
        elif isinstance(owner, dict):
            owner[rng.choice(["extra", 7, last if isinstance(last, int) else f"{last}s", None])] = rng.choice(ODD)
        else:
            owner.insert(rng.randrange(len(owner) + 1), rng.choice(ODD))
    return tree


def has(tree, key):
    return key in tree if isinstance(tree, dict) else isinstance(key, int) and key < len(tree)


def refused(action, unchanged=lambda: None):
    """None where the action is taken, else the refusal. `unchanged`: what has to be the same after one."""
    before = unchanged()
    try:
        action()
        return None
    except NAMED as error:
        said = str(error)
        assert len(said) > 8 or not isinstance(error, KeyError), f"a bare {type(error).__name__}: {said}"
        assert alike(before, unchanged()), f"changed by what it refused: {type(error).__name__}: {said[:200]}"
        return error


def alike(a, b):
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return (
            isinstance(a, Tensor)
            and isinstance(b, Tensor)
            and a.shape == b.shape
            and a.dtype == b.dtype
            and bool(torch.equal(a.nan_to_num(), b.nan_to_num()))
        )
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    return a is b or a == b or (a != a and b != b) or type(a) is type(b) is object


def optimizer_state(rng):
    """`load_state_dict` of an optimizer, and a step with what was taken."""
    optimizer = optimizer_of(rng)
    state = damaged(optimizer.state_dict(), rng)
    override = rng.choice(["checkpoint", "present"])
    if refused(lambda: optimizer.load_state_dict(state, override=override), lambda: snapshot(optimizer)):
        return False
    with contextlib.suppress(ZeroDivisionError):  # torch divides by 1 - beta, too
        refused(optimizer.step)
    refused(optimizer.state_dict)
    return True


def snapshot(optimizer):
    return copy.deepcopy(optimizer.state_dict())


def scheduler_state(rng):
    """`load_state_dict` of a scheduler, and steps with what was taken, beside torch's."""
    name = rng.choice(SCHEDULERS)
    scheduler = scheduler_of(name, rng)
    state = damaged(scheduler.state_dict(), rng)
    if refused(lambda: scheduler.load_state_dict(state), lambda: copy.deepcopy(scheduler.state_dict())):
        return False
    for _ in range(2):
        with contextlib.suppress(Exception):  # of a scheduler that torch, too, has let have anything
            step(scheduler, name)
    return True


def schedule_json(rng):
    """`Schedule.from_json`, of a tree and of its text."""
    tree = parse(rng.choice(TEXTS)).to_json()
    given = damaged(tree, rng)
    if rng.random() < 0.5:
        try:
            given = scrambled(json.dumps(given if rng.random() < 0.5 else tree), rng)
        except (TypeError, ValueError):
            pass
    found = []
    if refused(lambda: found.append(Schedule.from_json(given))):
        return False
    use(found[0])
    return True


def use(schedule):
    """What was taken has to be usable: lowered, evaluated, described."""
    refused(lambda: [schedule(t) for t in (0, 1, 7, 10**6)])
    refused(schedule.describe)
    refused(schedule.lower)


def scrambled(text, rng):
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(len(text) + 1)
        way = rng.random()
        if way < 0.35:
            text = text[:at] + text[at + rng.randint(1, 5) :]
        elif way < 0.7:
            piece = rng.choice(["(", ")", "[", "]", ",", "*", ">>", "-", "9" * 30, "e", ".", "nan", "1e999", "**", '"'])
            text = text[:at] + piece + text[at:]
        elif way < 0.85:
            text = text[:at] + chr(rng.choice([0, 9, 255, 0x1F600, rng.randrange(32, 127)])) + text[at:]
        else:
            start = rng.randrange(len(text) + 1)
            text = text[:at] + text[start : start + rng.randint(1, 40)] + text[at:]
    return text


def expression(rng):
    """An expression of the command line."""
    text = scrambled(rng.choice(TEXTS), rng)
    found = []
    error = refused(lambda: found.append(parse(text)))
    assert error is None or isinstance(error, ValueError), f"{type(error).__name__} for {text!r}: {error}"
    if error is None:
        use(found[0])
    return error is None


def program_table(rng):
    """A program table at the border of C++."""
    table = list(parse(rng.choice(TEXTS)).lower().table)
    for _ in range(rng.randint(1, 4)):
        at, way = rng.randrange(len(table)) if table else 0, rng.random()
        if way < 0.6 and table:
            numbers = (math.nan, math.inf, -math.inf, -1.0, 0.5, 1e300, 2.0**53, 7.0, rng.uniform(-20, 20))
            table[at] = rng.choice(numbers)
        elif way < 0.8:
            del table[at:]
        else:
            table[at:at] = [rng.uniform(-5, 50)] * rng.randint(1, 20)
    clocks = [rng.choice([0, 1, 5, 2**40, -1, 10**12]) for _ in range(3)]
    error = refused(lambda: _native.module().evaluate(array("d", table), clocks))
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = fs.SGD([p], lr=0.1, backend="cpu")
    p.grad = torch.ones(3)
    optimizer.step()
    shown = torch.zeros((), dtype=torch.float64)
    group, unit = rng.choice([0, 0, 0, 1, -1, 2**31 - 1]), rng.choice([0, 0, 1, 2, 3, 4, -1])
    name = rng.choice(["lr", "lr", "momentum", "x", ""])
    refused(lambda: optimizer._runtime.plan.set_program(group, name, table, unit, shown))
    refused(optimizer.step)
    return error is None


FUZZERS = {f.__name__: f for f in (optimizer_state, scheduler_state, schedule_json, expression, program_table)}


def run(name, seed):
    """Whether the damaged input was taken. Raises AssertionError with the seed."""
    rng = random.Random(f"{name} {seed}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return FUZZERS[name](rng)
        except Exception as error:
            raise AssertionError(f"python tests/fuzzing.py {name} {seed} {seed + 1}: {error!r:.500}") from error


def main(name, first, last):
    bad = taken = 0
    for seed in range(first, last):
        os.write(2, f"\r{name} {seed} ".encode())  # what ended the process, if anything does
        try:
            taken += run(name, seed)
        except AssertionError as error:
            bad += 1
            print(error, flush=True)
    print(f"\n{name}: {last - first} inputs, {taken} taken, {bad} wrong")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for chosen in FUZZERS if sys.argv[1] == "all" else sys.argv[1:2]:
        main(chosen, int(sys.argv[2]), int(sys.argv[3]))
