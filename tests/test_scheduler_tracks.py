# SPDX-License-Identifier: Apache-2.0
"""Law: the compiled track and the Python one write the same bits. And mutants, which show that the laws can fail."""

import random

import pytest
from cases_lr_schedulers import SCHEDULERS, SEED, numbers, optimizer
from scheduler_pairs import law_of_edits, random_case

from fusedsched import _native
from fusedsched.lr_scheduler import closed, forms, scheduled, tracks

COMPILED = getattr(_native.module(), "Track", None)
named = pytest.mark.parametrize("row", SCHEDULERS, ids=lambda row: row.name)


@pytest.mark.skipif(COMPILED is None, reason="fusedsched._C has not been built")
@named
def test_both_tracks_write_the_same_bits(row, monkeypatch):
    """Law: the compiled track and the Python one agree bit for bit, edits and all."""
    runs = []
    for kind in (tracks.PythonTrack, COMPILED):
        monkeypatch.setattr(closed, "track_class", lambda kind=kind: kind)
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


def one_late(form):
    """A mutant of a closed form: everything happens one step later."""

    def rows(s, i, t, x):
        return [(r[0] + 1.0, *r[1:]) for r in form.rows(s, i, t, x)]

    return form._replace(rows=rows)


@pytest.mark.parametrize("row", [r for r in SCHEDULERS if r.closed_form], ids=lambda row: row.name)
def test_a_late_closed_form_is_found(row, monkeypatch):
    """Mutant: with rows that begin one step late, the law of the curve fails."""
    monkeypatch.setitem(forms.FORMS, row.theirs, one_late(forms.FORMS[row.theirs]))
    with pytest.raises(AssertionError):
        for draw in range(4):
            pair, _ = random_case(random.Random(SEED + draw), row, kind="sgd")
            for _ in range(300):
                pair.step()
                pair.compare()


@pytest.mark.parametrize("name", ["StepLR", "ExponentialLR", "CosineAnnealingLR", "LinearLR", "PolynomialLR"])
def test_an_ignored_edit_is_found(name, monkeypatch):
    """Mutant: a track that does not look whether it was interfered with breaks the law of edits."""
    monkeypatch.setattr(tracks.PythonTrack, "untouched", lambda self, state: True)
    monkeypatch.setattr(closed, "track_class", lambda: tracks.PythonTrack)
    row = next(r for r in SCHEDULERS if r.name == name)
    with pytest.raises(AssertionError):
        for draw in range(4):
            law_of_edits(row, draw)


@pytest.mark.parametrize("name", ["StepLR", "LambdaLR", "MultiplicativeLR"])
def test_a_plain_view_of_copied_attributes_is_found(name, monkeypatch):
    """Mutant: torch's code that counts in attributes of its own breaks the law of edits."""

    def copied(sched):
        view = object.__new__(next(row.theirs for row in SCHEDULERS if row.name == name))
        view.__dict__ = dict(sched.__dict__)
        return view

    monkeypatch.setattr(scheduled, "plain", copied)
    row = next(r for r in SCHEDULERS if r.name == name)
    with pytest.raises(AssertionError):
        for draw in range(4):
            law_of_edits(row, draw)
