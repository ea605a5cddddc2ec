# SPDX-License-Identifier: Apache-2.0
"""Law: the compiled track and the Python one write the same bits. And mutants, which show that the laws can fail."""

import random

import pytest
from cases_lr_schedulers import SCHEDULERS, SEED, numbers, optimizer
from scheduler_pairs import law_of_edits, random_case

from fusedsched import _native
from fusedsched.lr_scheduler import driver, torch_driver
from fusedsched.schedules import torch_classes
from fusedsched.schedules.compose import Shift

COMPILED = getattr(_native.module(), "HostDriver", None)
named = pytest.mark.parametrize("row", SCHEDULERS, ids=lambda row: row.name)


@pytest.mark.skipif(COMPILED is None, reason="fusedsched._C has not been built")
@named
def test_both_tracks_write_the_same_bits(row, monkeypatch):
    """Law: the compiled track and the Python one agree bit for bit, edits and all."""
    runs = []
    for kind in (driver.PythonHostDriver, COMPILED):
        monkeypatch.setattr(driver, "host_driver_class", lambda kind=kind: kind)
        rng = random.Random(SEED + 700)
        opt = optimizer([0.3, 0.2], "adam")
        sched, seen = row.ours(opt, **row.configure(rng, 2)), []
        for t in range(300):
            if t in (50, 51, 120):
                opt.param_groups[t % 2]["lr"] *= 0.5
            try:
                sched.step()
            except ValueError:
                break
            seen.append(numbers(opt))
        runs.append(seen)
    assert runs[0] == runs[1]


def one_late(entry):
    """A mutant of a schedule: everything happens one step later."""

    def schedule(s, i, base):
        return Shift(entry.schedule(s, i, base), 1)

    return entry._replace(schedule=schedule)


@pytest.mark.parametrize("row", [r for r in SCHEDULERS if r.closed_form], ids=lambda row: row.name)
def test_a_late_closed_form_is_found(row, monkeypatch):
    """Mutant: with rows that begin one step late, the law of the curve fails."""
    monkeypatch.setitem(torch_classes.CLASSES, row.name, one_late(torch_classes.CLASSES[row.name]))
    with pytest.raises(AssertionError):
        for draw in range(4):
            pair, _ = random_case(random.Random(SEED + draw), row, kind="sgd")
            for _ in range(300):
                pair.step()
                pair.compare()


@pytest.mark.parametrize("name", ["StepLR", "ExponentialLR", "CosineAnnealingLR", "LinearLR", "PolynomialLR"])
def test_an_ignored_edit_is_found(name, monkeypatch):
    """Mutant: a track that does not look whether it was interfered with breaks the law of edits."""
    monkeypatch.setattr(driver.PythonHostDriver, "update_edits", lambda self, state: None)
    monkeypatch.setattr(driver, "host_driver_class", lambda: driver.PythonHostDriver)
    row = next(r for r in SCHEDULERS if r.name == name)
    with pytest.raises(AssertionError):
        for draw in range(4):
            law_of_edits(row, draw)


@pytest.mark.parametrize("name", ["LambdaLR", "MultiplicativeLR"])
def test_a_view_of_copied_attributes_is_found(name, monkeypatch):
    """Mutant: torch's code that counts in attributes of its own breaks the law of edits."""

    def stale(self, state):
        view = object.__new__(next(row.theirs for row in SCHEDULERS if row.name == name))
        view.__dict__ = dict(state)
        view.step()
        return True

    monkeypatch.setattr(torch_driver.FunctionDriver, "step", stale)
    row = next(r for r in SCHEDULERS if r.name == name)
    with pytest.raises(AssertionError):
        for draw in range(4):
            law_of_edits(row, draw)
