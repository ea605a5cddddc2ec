# SPDX-License-Identifier: Apache-2.0
"""The schedule of a torch class from the base rate, and one edit about a pivot, are what torch's recursion does,
whatever is written to the rate and to the attributes on the way.
"""

import random

import pytest
from cases_lr_schedulers import SCHEDULERS, SEED, optimizer, rate

from fusedsched.schedules import edit as edits
from fusedsched.schedules.compositions import driving_schedule, edit_rules_of
from fusedsched.schedules.edit import NO_EDIT, EditKind, apply, edited, rule_at

BOUND = 1e-11  # of the largest rate
ROWS = [row for row in SCHEDULERS if row.closed_form]
CHANGES = {
    "StepLR": ("gamma", (0.5, 1.05)),
    "MultiStepLR": ("gamma", (0.3, 1.1)),
    "ConstantLR": ("total_iters", (60, 70)),
    "LinearLR": ("total_iters", (95, 120)),
    "ExponentialLR": ("gamma", (0.9, 1.01)),
    "PolynomialLR": ("total_iters", (95, 120)),
    "CosineAnnealingLR": ("T_max", (3, 10, 60)),
    "SWALR": ("anneal_epochs", (95, 120)),
}


def check(row, seed, changes):
    """80 steps of torch's class beside the record, with an edit in every eighth."""
    rng = random.Random(SEED + seed)
    base = rng.choice([0.0, 0.3, rng.uniform(0.01, 1.0)])
    opt = optimizer([base])
    sched = row.theirs(opt, **row.configure(rng, 1))
    group, peak, edit = opt.param_groups[0], max(abs(base), 0.01), NO_EDIT

    def record():
        rules = edit_rules_of(sched, 0)
        schedule = driving_schedule(sched, 0, rules)
        return (schedule, rules) if schedule is not None and rules is not None else None

    def found(edit, t):
        value = schedule(t)
        return edit if abs(group["lr"] - value) < 1e-15 else edited(edit, rule_at(rules, t), t, value, group["lr"])

    known = record()
    if known is None:
        return  # torch's own code steps it
    schedule, rules = known
    edit = found(edit, 0)
    for t in range(80):
        if rng.random() < 0.12:
            group["lr"] = group["lr"] * rng.uniform(0.3, 2.0) if rng.random() < 0.7 else rng.uniform(0.0, 0.5)
            edit = edited(edit, rule_at(rules, t), t, schedule(t), group["lr"])
        if changes and row.name in CHANGES and rng.random() < 0.08:
            name, values = CHANGES[row.name]
            setattr(sched, name, rng.choice(values))
            schedule, rules = record()
            edit = found(NO_EDIT, t)
        try:
            sched.step()
        except ValueError:
            return  # OneCycleLR is over
        ours = apply(edit, rule_at(rules, t + 1), t + 1, schedule(t + 1))
        peak = max(peak, abs(ours), abs(rate(opt)))
        assert abs(ours - rate(opt)) <= BOUND * peak, (seed, t)


@pytest.mark.parametrize("changes", [False, True], ids=["edits", "edits and attributes"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_record_is_torchs_recursion(row, changes):
    for seed in range(60):
        check(row, seed, changes)


@pytest.mark.parametrize("kind", [EditKind.SCALE_OR_KEEP, EditKind.SCALE_OR_DROP, EditKind.WAVE])
def test_a_wrong_rule_is_found(kind, monkeypatch):
    """Mutants: a kind of edit that is forgotten."""
    before = edits.edited
    name = {"SCALE_OR_KEEP": "StepLR", "SCALE_OR_DROP": "SWALR", "WAVE": "CosineAnnealingLR"}[kind.name]
    forget = lambda edit, rule, *rest: edit if rule.kind == kind else before(edit, rule, *rest)  # noqa: E731
    monkeypatch.setitem(globals(), "edited", forget)
    with pytest.raises(AssertionError):
        test_the_record_is_torchs_recursion(next(row for row in ROWS if row.name == name), False)


@pytest.mark.parametrize("until, gain", [(9.0, 0.25), (5.0, 1.0), (3.0, 1.0)])
def test_an_edit_that_is_over_scales_nothing(until, gain):
    """Where a schedule is at its pivot, an edit adds to the one before it, as long as that lasts."""
    rule = edits.EditRule(EditKind.SCALE_OR_KEEP)
    assert edited(edits.Edit(0.25, 0.0, until), rule, 5.0, 0.0, 0.1) == edits.Edit(gain, 0.1, rule.end)
