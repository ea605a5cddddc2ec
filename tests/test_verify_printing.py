# SPDX-License-Identifier: Apache-2.0
"""What `verify` prints: tables, colours, progress; and the comparisons behind the numbers."""

import io
import re

import pytest
import torch

from fusedsched.verify import bounds, progress, report, snapshots
from fusedsched.verify.check import Check, Result

GOOD, BAD, EXACT = bounds.Verdict("", 1.0, 2.0), bounds.Verdict("", 3.0, 2.0), bounds.Verdict("", 0.0, 0.0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def rows():
    cells = [("AdamW", "float32", GOOD), ("AdamW", "float32", BAD), ("SGD", "torch", GOOD), ("skip", "torch", EXACT)]
    return [Result(Check("id", "cpu", line, column, None), verdict, 0.0) for line, column, verdict in cells]


def test_a_table_shows_the_worst_of_each_cell(capsys):
    report.tables(rows())
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines == [["cpu", "float32", "torch"], ["AdamW", "FAIL"], ["SGD", "50"], ["skip", "ok"]]


@pytest.mark.parametrize("terminal, no_color, coloured", ((True, "", True), (True, "1", False), (False, "", False)))
def test_colours_only_where_they_are_wanted(terminal, no_color, coloured, monkeypatch):
    out = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("NO_COLOR", no_color)
    report.tables(rows())
    assert ("\x1b[31mFAIL" in out.getvalue()) is coloured
    assert coloured or "\x1b" not in out.getvalue()


def show(monkeypatch, stream, logged, rich=True, total=100):
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "find_spec", lambda name: rich or None)
    with progress.shown(total, logged) as shown:
        for done in range(total):
            shown(done, f"case-{done}")
    return stream.getvalue()


def test_in_a_log_progress_is_a_few_plain_lines(monkeypatch):
    printed = show(monkeypatch, io.StringIO(), logged=True)
    assert len(printed.splitlines()) == 9 and re.match(r" +10 of 100 checks, \d+ s\n", printed)
    assert not re.search(r"[\r\x1b]", printed)
    assert show(monkeypatch, io.StringIO(), logged=False) == ""


def test_on_a_terminal_without_rich_one_line_is_written_over(monkeypatch):
    printed = show(monkeypatch, Terminal(), logged=True, rich=False)
    assert "case-99" in printed and "\n" not in printed and "\x1b" not in printed
    assert printed.endswith("\r" + " " * 78 + "\r")  # and nothing is left of it


def test_on_a_terminal_with_rich_there_is_a_bar(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" in show(monkeypatch, Terminal(), logged=True)


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
