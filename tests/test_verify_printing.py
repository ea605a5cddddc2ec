# SPDX-License-Identifier: Apache-2.0
"""What `verify` prints, and the comparisons behind the numbers."""

import pytest
import torch

from fusedsched.verify import bounds, report, snapshots
from fusedsched.verify.check import Check, Result

GOOD, BAD, EXACT = bounds.Verdict("", 1.0, 2.0), bounds.Verdict("", 3.0, 2.0), bounds.Verdict("", 0.0, 0.0)


def rows():
    cells = [("AdamW", "float32", GOOD), ("AdamW", "float32", BAD), ("SGD", "torch", GOOD), ("skip", "torch", EXACT)]
    return [Result(Check("id", "cpu", line, column, None), verdict, 0.0) for line, column, verdict in cells]


def test_a_table_shows_the_worst_of_each_cell(capsys):
    report.tables(rows())
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines == [["cpu", "float32", "torch"], ["AdamW", "FAIL"], ["SGD", "50"], ["skip", "ok"]]


# The comparisons


def test_the_bound_counts_from_torchs_error():
    truth = bounds.Exact.of(torch.ones(1000))
    torchs = truth.high + 1e-6
    for error, passes in ((1.1e-6, True), (1.3e-6, False), (float("nan"), False), (float("inf"), False)):
        verdicts = bounds.judge(truth.high + error, torchs, truth, torch.float32, "x")
        assert all(verdict.passed for verdict in verdicts) is passes


def test_one_wrong_element_among_many_is_enough():
    truth = bounds.Exact.of(torch.ones(5000))
    ours = truth.high.clone()
    ours[1234] += 1e-5
    assert not all(v.passed for v in bounds.judge(ours, truth.high + 1e-7, truth, torch.float32, "x"))


def test_missing_elements_fail():
    truth = bounds.Exact.of(torch.ones(10))
    assert not bounds.judge(truth.high[:9], truth.high, truth, torch.float32, "x")[0].passed


def test_the_worst_verdict_is_the_first_that_failed():
    assert bounds.worst_of([GOOD, BAD, EXACT]) is BAD and bounds.worst_of([EXACT, GOOD]) is GOOD
    assert not bounds.Verdict("", float("nan"), 1.0).passed


DIFFERENT = {
    "one bit": ({"p": torch.tensor([1.0, 2.0])}, "p now: numbers that differ", 1.0),
    "dtype": ({"p": torch.tensor([1.0, 3.0], dtype=torch.float64)}, "p now: torch.float64", float("inf")),
    "missing": ({}, "p now: missing", float("inf")),
    "more": ({"p": torch.tensor([1.0, 3.0]), "q": torch.ones(1)}, "q now: should not be there", float("inf")),
}


@pytest.mark.parametrize("ours, says, error", DIFFERENT.values(), ids=list(DIFFERENT))
def test_snapshots_name_what_differs(ours, says, error):
    verdict = snapshots.same(ours, {"p": torch.tensor([1.0, 3.0])}, " now")
    assert verdict.what.startswith(says) and verdict.error == error and not verdict.passed


def test_snapshots_that_are_the_same():
    nan = {"p": torch.tensor([1.0, float("nan")])}
    assert snapshots.same(nan, {"p": nan["p"].clone()}).passed
    assert snapshots.untouched({}, {"new": torch.zeros(2)}, " now").passed
    assert not snapshots.untouched({}, {"new": torch.ones(2)}, " now").passed
