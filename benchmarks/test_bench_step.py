# SPDX-License-Identifier: Apache-2.0
"""Times for pytest-benchmark, one group for each case: `pytest benchmarks --benchmark-only`."""

import pytest

from .cases import CASES
from .ceiling import Ceiling
from .measure import Contestant, calls_for
from .peers import FOREACH, FUSED, OURS
from .races import ceiling_missing
from .sides import build, calling, training

ROUNDS, SECONDS = 7, 0.05
LIBRARIES = (OURS, FUSED, FOREACH)
HOST = [name for name, case in CASES.items() if case.host]
MEMORY = [name for name, case in CASES.items() if not case.host and ceiling_missing(case) is None]
STEPS = [(name, library) for name in CASES for library in LIBRARIES if library != "torch foreach" or name in HOST]
PAIR = [OURS, FUSED]


def timed(benchmark, group, function):
    benchmark.group = group
    calls = calls_for(Contestant(group, calling(function)), SECONDS)
    benchmark.pedantic(function, rounds=ROUNDS, iterations=calls, warmup_rounds=1)


@pytest.mark.parametrize(("name", "library"), STEPS)
def test_step(benchmark, threads, name, library):
    threads(CASES[name].threads)
    side = build(CASES[name], library)
    step, schedule = side.optimizer.step, side.scheduler.step

    def step_and_schedule():
        step()
        schedule()

    timed(benchmark, f"{name}: step + schedule", step_and_schedule)


@pytest.mark.parametrize("name", MEMORY)
def test_ceiling(benchmark, threads, name):
    threads(CASES[name].threads)
    ceiling = Ceiling(build(CASES[name], "fusedsched"), CASES[name].dtype)
    timed(benchmark, f"{name}: step + schedule", ceiling)


@pytest.mark.parametrize("library", PAIR)
@pytest.mark.parametrize("set_to_none", (True, False))
@pytest.mark.parametrize("name", HOST)
def test_zero_grad(benchmark, threads, name, set_to_none, library):
    threads(1)
    side = build(CASES[name], library)
    benchmark.group = f"{name}: zero_grad({set_to_none=})"
    setup, keywords = side.give_gradients, {"set_to_none": set_to_none}
    benchmark.pedantic(side.optimizer.zero_grad, kwargs=keywords, setup=setup, rounds=100, warmup_rounds=3)


@pytest.mark.parametrize("library", PAIR)
@pytest.mark.parametrize("name", HOST)
def test_training(benchmark, threads, name, library):
    threads(1)
    loop = training(build(CASES[name], library))
    timed(benchmark, f"{name}: whole loop", lambda: loop(1))
