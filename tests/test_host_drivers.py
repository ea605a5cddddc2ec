# SPDX-License-Identifier: Apache-2.0
"""The compiled driver and the Python one write the same bits. And mutants, which show that the properties can fail."""

import random

import pytest
from cases_lr_schedulers import SCHEDULERS, SEED, numbers, optimizer
from scheduler_pairs import check_edits, random_case

from fusedsched import _native
from fusedsched.lr_scheduler import driver, torch_driver
from fusedsched.schedules import torch_classes
from fusedsched.schedules.compose import Shift

COMPILED = getattr(_native.module(), "HostDriver", None)
named = pytest.mark.parametrize("row", SCHEDULERS, ids=lambda row: row.name)


@pytest.mark.skipif(COMPILED is None, reason="fusedsched._C has not been built")
@named
def test_both_drivers_write_the_same_bits(row, monkeypatch):
    """The compiled driver and the Python one agree bit for bit, edits and all."""
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


@pytest.mark.parametrize("driver_class", ["HostDriver", "PythonHostDriver"])
@pytest.mark.parametrize("name", ["StepLR", "ExponentialLR"])
def test_a_rate_that_is_written_where_nothing_is_left(name, driver_class, monkeypatch):
    """A rate that is written after the schedule has become the smallest of numbers, or zero, decays from there."""
    if driver_class == "PythonHostDriver":
        monkeypatch.setattr(driver, "host_driver_class", lambda: driver.PythonHostDriver)
    row = next(row for row in SCHEDULERS if row.name == name)
    for steps in (285, 315, 400):
        curves = []
        for kind in (row.ours, row.theirs):
            opt = optimizer([1.0, 0.5])
            sched, rates = kind(opt, gamma=0.1, **({"step_size": 1} if name == "StepLR" else {})), []
            for _ in range(steps):
                sched.step()
            opt.param_groups[1]["lr"] = 0.5
            for _ in range(4):
                sched.step()
                rates.append(opt.param_groups[1]["lr"])
            curves.append(rates)
        assert curves[0] == pytest.approx(curves[1], rel=1e-12)


def one_late(entry):
    """A mutant of a schedule: everything happens one step later."""

    def schedule(s, i, base):
        return Shift(entry.schedule(s, i, base), 1)

    return entry._replace(schedule=schedule)


@pytest.mark.parametrize("row", [r for r in SCHEDULERS if r.closed_form], ids=lambda row: row.name)
def test_a_late_closed_form_is_found(row, monkeypatch):
    """Mutant: with rows that begin one step late, the property of the curve fails."""
    monkeypatch.setitem(torch_classes.CLASSES, row.name, one_late(torch_classes.CLASSES[row.name]))
    with pytest.raises(AssertionError):
        for draw in range(4):
            pair, _ = random_case(random.Random(SEED + draw), row, kind="sgd")
            for _ in range(300):
                pair.step()
                pair.compare()


@pytest.mark.parametrize("name", ["StepLR", "ExponentialLR", "CosineAnnealingLR", "LinearLR", "PolynomialLR"])
def test_an_ignored_edit_is_found(name, monkeypatch):
    """Mutant: a driver that does not look for edits breaks the property of edits."""
    monkeypatch.setattr(driver.PythonHostDriver, "update_edits", lambda self, state: True)
    monkeypatch.setattr(driver, "host_driver_class", lambda: driver.PythonHostDriver)
    row = next(r for r in SCHEDULERS if r.name == name)
    with pytest.raises(AssertionError):
        for draw in range(4):
            check_edits(row, draw)


@pytest.mark.parametrize("name", ["LambdaLR", "MultiplicativeLR"])
def test_a_view_of_copied_attributes_is_found(name, monkeypatch):
    """Mutant: torch's code that counts in attributes of its own breaks the property of edits."""

    def stale(self, state):
        view = object.__new__(next(row.theirs for row in SCHEDULERS if row.name == name))
        view.__dict__ = dict(state)
        view.step()
        return True

    monkeypatch.setattr(torch_driver.FunctionDriver, "advance", stale)
    row = next(r for r in SCHEDULERS if r.name == name)
    with pytest.raises(AssertionError):
        for draw in range(4):
            check_edits(row, draw)
