# SPDX-License-Identifier: Apache-2.0
"""Random programs of memory and life, run with torch's optimizer and with ours: both must have the same numbers, raise
for the same calls, and ours must keep nothing alive that torch's lets go.

`python tests/memory_runs.py FIRST LAST [BACKEND]` runs many seeds and prints the shortest program for each one that
differs; `python tests/memory_runs.py 'build:17 clear_state:5 stepped:3' [BACKEND]` runs one program.
"""

import gc
import importlib
import os
import random
import sys
import warnings

import cases
import memory_damages
import torch
import torch._dynamo  # which the first optimizer would import
from memory_actions import ACTIONS, RARE
from memory_world import World, build, stepped
from random_runs import differs
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim import lr_scheduler as theirs

from fusedsched import lr_scheduler as ours

STEPS = 0.35  # of all actions
ACTION = {action.__name__: action for action in (build, stepped, *ACTIONS, *RARE, *memory_damages.DAMAGES)}


def program_of(seed, length):
    """Pairs (action, seed of its numbers)."""
    draw = random.Random(seed)
    program = [("build", draw.randrange(2**31))]
    for _ in range(length - 1):
        chance = draw.random()
        if chance < STEPS:
            action = stepped
        elif chance < STEPS + 0.05:
            action = draw.choice(memory_damages.DAMAGES)
        else:
            action = draw.choice(RARE if draw.random() < 0.01 else ACTIONS)
        program.append((action.__name__, draw.randrange(2**31)))
    return program


class Life:
    """Which memory has been seen in both worlds, and whether ours holds any that torch's does not."""

    def __init__(self, worlds):
        self.worlds, self.seen = worlds, {}

    def look(self):
        found = [dict(world.arrays()) for world in self.worlds]
        for name in found[0].keys() & found[1].keys():
            refs = [StorageWeakRef(arrays[name].untyped_storage()) for arrays in found]
            self.seen.setdefault(tuple(ref.cdata for ref in refs), (name, *refs))

    def kept(self):
        """What ours keeps and torch's does not, in words; None."""
        for key, (name, mine, other) in list(self.seen.items()):
            if name.startswith("the rate") and self.worlds[0].schedulers:
                continue  # by the object that was there a scheduler knows an edit from what it wrote
            if other.expired() and not mine.expired():
                return f"{name}, as it was, is still alive"
            if other.expired():
                del self.seen[key]
        return None


def do(worlds, action, seed):
    """One action in both worlds. Returns what each raised."""
    outcomes = []
    for world in worlds:
        try:
            action(world, random.Random(seed))
            outcomes.append(None)
        except AssertionError:
            raise
        except Exception as error:  # noqa: BLE001
            outcomes.append(f"{type(error).__name__}: {error}")
    return outcomes


def maker(backend):
    """As `cases.maker`, for "triton" under its interpreter too."""
    if backend == "triton" and "triton" not in cases.BACKENDS:
        os.environ["TRITON_INTERPRET"] = "1"
        return importlib.import_module("interpreted").make
    return cases.maker(backend)


def execute(program, backend):
    """Runs a program; how many actions it came to. Raises AssertionError with what differs."""
    worlds = World(maker(backend), ours), World(cases.torch_twin, theirs)
    life = Life(worlds)
    for world in worlds:
        world.forks = backend != "cuda"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n, (name, seed) in enumerate(program, 1):
            action = ACTION[name]
            if action in memory_damages.DAMAGES:
                memory_damages.refuse(worlds[0], action, random.Random(seed))
                raised = [None]
            else:
                raised = do(worlds, action, seed)
            if any(raised):
                assert all(raised), (name, raised)
                return n  # both refuse it; how far each came is its own affair
            found = differs(*worlds) or life.kept()
            assert found is None, (name, found)
            life.look()
    return len(program)


def outcome(program, backend):
    """What is wrong with a program, in words, else None; and how many actions it came to."""
    gc.collect()
    gc.disable()  # what lives is judged by counts of references alone
    try:
        return None, execute(program, backend)
    except AssertionError as error:
        return str(error), len(program)
    finally:
        gc.enable()


def shortest(program, backend):
    """The program without the actions that it fails without, too."""
    i = len(program) - 1
    while i > 0:
        shorter = program[:i] + program[i + 1 :]
        if outcome(shorter, backend)[0]:
            program = shorter
        i -= 1
    return program


def run(seed, backend, length=40):
    """How many of `length` actions were done. Raises AssertionError with the shortest program that shows a fault."""
    program = program_of(seed, length)
    found, done = outcome(program, backend)
    if found:
        program = shortest(program, backend)
        text = " ".join(f"{name}:{number}" for name, number in program)
        found = outcome(program, backend)[0]
        raise AssertionError(f"seed {seed}: python tests/memory_runs.py '{text}' {backend}: {found}")
    return done


def main(arguments):
    if ":" in arguments[0]:
        program = [(name, int(number)) for name, number in (pair.split(":") for pair in arguments[0].split())]
        print(outcome(program, arguments[1] if arguments[1:] else "cpu")[0] or "nothing differs")
        return
    bad = done = 0
    for seed in range(int(arguments[0]), int(arguments[1])):
        for backend in arguments[2:] or cases.BACKENDS:
            os.write(2, f"\r{seed} {backend} ".encode())  # what ended the process, if anything does
            try:
                done += run(seed, backend)
            except AssertionError as error:
                bad += 1
                print(error, flush=True)
    print(f"\n{done} actions, {bad} programs differ")


if __name__ == "__main__":
    gc.freeze()  # what is imported stays
    torch.set_num_threads(int(os.environ.get("THREADS", "1")))
    main(sys.argv[1:])
