# SPDX-License-Identifier: Apache-2.0
"""Law: whatever other code does to the memory, the life and the lists of tensors, ours has torch's numbers, refuses by
name what no step can do, and keeps nothing alive that torch lets go. `python tests/memory_runs.py 0 1000` runs more."""

import memory_damages
import memory_runs
import pytest
from cases import BACKENDS
from tiers import full

QUICK = 6
FOUND = (18, 34)  # what differed once: a scheduler kept groups alive from before a load
ALL = [*range(QUICK), *FOUND, *(full(seed) for seed in range(QUICK, 200) if seed not in FOUND)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", ALL)
def test_a_random_program_of_memory(seed, backend):
    memory_runs.run(seed, backend)


@pytest.mark.skipif("triton" in BACKENDS, reason="above")
@pytest.mark.parametrize("seed", [0, *(full(seed) for seed in range(1, 25))])
def test_the_same_interpreted(seed, monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    memory_runs.run(seed, "triton", length=15)


def test_programs_come_to_their_ends():
    """Few end early since both refuse what they do."""
    assert sum(memory_runs.run(seed, "reference") for seed in range(10)) > 0.9 * 10 * 40


def test_every_action_and_every_damage_is_done():
    done = {name for seed in range(60) for name, _ in memory_runs.program_of(seed, 40)}
    assert {action.__name__ for action in (*memory_runs.ACTIONS, *memory_damages.DAMAGES)} <= done
