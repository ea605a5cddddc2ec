# SPDX-License-Identifier: Apache-2.0
"""`verify` finds planted faults, and its message names the right thing."""

import re

import pytest
from cases import BACKENDS
from test_capture import emulated
from verify_mutants import MUTANTS

from fusedsched.runtime.backends import backends
from fusedsched.verify import agreement, command, replaying
from fusedsched.verify.check import Level, run_check

SMALL = Level("small", steps=30, scheduled_steps=30, slow_steps=3, randoms=0, scheduler_steps=60, slow_part=1)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing that an earlier check kept; and captured graphs, by the emulation where there is no GPU."""
    for kept in (agreement._trained_on, agreement._allowed):
        kept.cache_clear()
    if replaying.absent() is not None and "cuda" in BACKENDS:
        monkeypatch.setattr(replaying, "absent", lambda: None)
        monkeypatch.setattr(replaying, "record", _record)
    yield
    agreement._trained_on.cache_clear()


def _record(call):
    graph = emulated().record(call)
    return lambda: emulated().replay(graph)


def check_of(mutant):
    backend = mutant.check.rpartition("/")[2]
    if backends().get(backend) is not None:
        pytest.skip(f"the backend {backend} is missing")
    return command.find(mutant.check, SMALL)


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=list(MUTANTS))
def test_a_planted_fault_is_found_and_named(mutant, monkeypatch):
    check = check_of(mutant)
    right = run_check(check).verdict
    assert right.passed, right
    agreement._trained_on.cache_clear()
    mutant.plant(monkeypatch)
    wrong = run_check(check).verdict
    assert not wrong.passed
    assert re.search(mutant.says, wrong.what), wrong.what


@pytest.mark.skipif("cuda" not in BACKENDS, reason="there are no CUDA kernels, emulated or not")
@pytest.mark.parametrize("row", replaying.ROWS)
def test_replays_equal_eager_steps(row):
    assert replaying.compare(row, replays=20).passed


def test_every_kind_of_check_finds_something():
    ids = {mutant.check.split("/")[0] for mutant in MUTANTS.values()}
    kinds = {"schedules", "lr_scheduler", "agree", "edge", "skip", "scaler", "resume", "compile", "replay"}
    assert len(MUTANTS) >= 15 and ids >= kinds and ids & {"AdamW", "SGD-nesterov"}
