# SPDX-License-Identifier: Apache-2.0
"""The command `verify`: what it covers, what it says, what it writes, and that it can fail."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import BACKENDS, REFERENCE_CLASSES, maker
from tiers import full

from fusedsched import _native
from fusedsched.runtime.backends import backends
from fusedsched.verify import (
    bounds,
    check,
    command,
    evaluators,
    extended,
    formulas,
    machine,
    report,
    size,
    snapshots,
    table,
    updates,
)
from fusedsched.verify.check import DEFAULT, FULL, QUICK

CASE = f"AdamW/float32/fixed/{BACKENDS[0]}"


def verify(*arguments):
    return command.main(["--quick", *arguments])


def fails(case, monkeypatch):
    """Makes every optimizer of verify take another learning rate."""
    wrong = maker(REFERENCE_CLASSES)
    monkeypatch.setattr(machine, "build", lambda b, name, params, **o: wrong(name, params, **{**o, "lr": 0.1001}))
    return case


# What is covered


@pytest.fixture(scope="module")
def ids():
    return {level.name: [c.id for c in command.checks(level)] for level in check.LEVELS}


def test_covers_every_optimizer_type_schedule_and_backend(ids):
    cases = [c.id.split("/") for c in updates.checks(QUICK)]
    assert {parts[3] for parts in cases} == set(BACKENDS)
    assert {parts[0] for parts in cases} >= set(table.OPTIMIZERS)
    assert {parts[2] for parts in cases} >= {"fixed", "all", *table.NAMED}
    for schedule in table.NAMED:
        assert f"AdamW/bfloat16/{schedule}/{BACKENDS[-1]}" in ids["full"]
    names = {n for n in dir(torch.optim.lr_scheduler) if n.endswith(("LR", "Restarts"))}
    on_metrics_or_of_others = {"ReduceLROnPlateau", "SequentialLR", "LRScheduler", "ChainedScheduler"}
    assert {name for name, _ in evaluators.SCHEDULERS.values()} >= names - on_metrics_or_of_others
    assert set(formulas.FORMULAS) == set(table.NAMED)


def test_ids_are_unique_and_each_level_has_what_the_one_below_has(ids):
    for level, names in ids.items():
        assert len(names) == len(set(names)), level
    assert set(ids["quick"]) <= set(ids["default"]) <= set(ids["full"])


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "cpu"])
@pytest.mark.parametrize("kind", ("edge", "skip", "scaler", "agree"))
def test_every_backend_passes_what_the_quick_run_below_shows_for_the_cpu(kind, backend):
    todo = [c for c in command.checks(QUICK) if c.backend == backend and c.id.startswith(kind)]
    assert todo or kind == "agree"
    for result in map(check.run_check, todo):
        assert result.verdict.passed, (result.check.id, result.verdict)


# The command


@pytest.fixture(scope="module", params=[("--case", CASE), full(())], ids=("a case", "all"))
def quick(request, tmp_path_factory):
    """One run of the quick command, by itself, without a terminal."""
    path = tmp_path_factory.mktemp("verify") / "report.json"
    line = [sys.executable, "-m", "fusedsched", "verify", "--quick", *request.param, "--json", str(path)]
    return subprocess.run(line, capture_output=True, text=True, timeout=240), path, request.param


def test_the_whole_quick_command(quick):
    done, _, chosen = quick
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    question = "As far as these checks go, can" if chosen else "Can"
    assert re.fullmatch(rf"{question} this machine be trusted\? Yes: (\d+) of \1 checks passed \(\d+ s\)\.", last)
    assert not re.search(r"[\r\x1b]", done.stdout + done.stderr)
    assert all(re.match(r" *\d+ % +\d+ s left  ", line) for line in done.stderr.splitlines())


def test_the_report_has_what_a_bug_needs(quick):
    written = json.loads(quick[1].read_text())
    assert written["trusted"] and written["whole"] is not bool(quick[2]) and written["level"] == "quick"
    assert (
        written["machine"]["torch"] == torch.__version__ and written["machine"]["backends"].keys() == backends().keys()
    )
    assert all(set(row) >= {"id", "passed", "what", "error", "allowed", "seconds"} for row in written["checks"])
    assert any("GPU" in row["why"] or "cuda" in row["why"] for row in written["not_verified"]) or "cuda" in BACKENDS


def test_a_failure_is_printed_as_a_command(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(command.report, "_SETTINGS", ())
    path = tmp_path / "report.json"
    arguments = ["--case", fails(CASE, monkeypatch)]
    assert verify(*arguments, "--json", str(path)) == 1
    lines = capsys.readouterr().out.splitlines()
    again = f"python -m fusedsched verify --quick --case {CASE}"
    assert re.search(r"No: 1 of 1 checks failed \(\d+ s\)\. The first again: ", lines[-1]) and lines[-1].endswith(again)
    assert f"FAIL {CASE}" in lines and any("FAIL" in line and line.startswith("AdamW") for line in lines)
    written = json.loads(path.read_text())
    assert not written["trusted"] and written["checks"][0]["command"] == again


def test_a_check_that_raises_has_failed():
    def run():
        raise KeyError("lr")

    result = check.run_check(check.Check("x", "x", "x", "x", run))
    assert not result.verdict.passed and result.verdict.what == "raised KeyError: 'lr'"
    written = command.report.collect([result], QUICK, [], False, 0.0)
    assert written["checks"][0]["trace"].endswith("KeyError: 'lr'\n") and written["checks"][0]["error"] == "inf"
    assert json.loads(json.dumps(written, allow_nan=False)) == written


def test_a_backend_alone(capsys):
    assert verify("--list", "--backend", BACKENDS[0]) == 0
    listed = capsys.readouterr().out.split()
    assert CASE in listed and all(name.endswith(f"/{BACKENDS[0]}") for name in listed)


def test_a_backend_that_is_missing_says_why(capsys, monkeypatch):
    monkeypatch.setattr(command, "backends", lambda: {"cuda": "torch finds no GPU", "reference": None})
    for arguments in (["--backend", "cuda"], ["--case", "AdamW/float32/fixed/cuda"]):
        with pytest.raises(SystemExit, match="2"):
            verify(*arguments)
        assert "torch finds no GPU" in capsys.readouterr().err


def test_without_numpy_it_says_what_is_left_out(monkeypatch):
    monkeypatch.setattr(extended, "np", None)
    assert ("float64 against extended precision", "numpy is not installed") in command.left_out(QUICK)
    assert not any(c.id.split("/")[1] == "float64" for c in updates.checks(QUICK))
    with pytest.raises(ValueError, match="float64 cannot be judged here: numpy is not installed"):
        command.find(f"AdamW/float64/fixed/{BACKENDS[0]}", QUICK)


def test_the_commands_of_failures_carry_what_chose_the_kernels(monkeypatch):
    monkeypatch.delenv("FUSEDSCHED_NO_EXTENSION", raising=False)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    row = check.Check("edge/above-2**31/triton", "edge", "x", "triton", None, "triton")
    printed = command.report.command(row, FULL)
    assert printed == "TRITON_INTERPRET=1 python -m fusedsched verify --full --case 'edge/above-2**31/triton'"
    assert command.report.command(row, DEFAULT).endswith("verify --case 'edge/above-2**31/triton'")


def test_the_commands_in_the_documentation_are_understood(monkeypatch, capsys):
    text = (Path(__file__).parents[1] / "docs" / "command-line.md").read_text() + command.EXAMPLES
    cases = set(re.findall(r"--case (\S+/\S+?)[`)\s]", text))
    assert len(cases) >= 2
    for case in cases:
        missing = backends().get(case.rpartition("/")[2])
        assert missing or command.find(case, QUICK).id == case
    assert all(option in text for option in ("--quick", "--full", "--backend", "--case", "--list", "--json"))


# Sizes


@pytest.mark.parametrize(
    "free, says", ((None, "does not report"), (2**30, "it needs 10 GiB, and 1 GiB are free"), (2**40, None))
)
def test_a_huge_tensor_only_where_it_fits(free, says, monkeypatch):
    monkeypatch.setattr(size, "free_memory", lambda device: free)
    reason = size.too_large("cpu" if "cpu" in BACKENDS else "auto")
    assert says in reason if says else reason is None
    assert size.too_large("reference") is not None


def test_a_huge_tensor_that_were_smaller(monkeypatch):
    monkeypatch.setattr(size, "ELEMENTS", 2**12 + 8)
    assert all(size.above_two_to_the_31(backend).passed for backend in BACKENDS)
    monkeypatch.setattr(machine, "build", lambda b, n, p, lr: torch.optim.SGD([p[0].detach()[:9].requires_grad_()], lr))
    assert size.above_two_to_the_31("reference").error == 2**12 + 8


@pytest.mark.skipif(_native.module() is None, reason="there is no second evaluator")
@pytest.mark.parametrize("schedule", table.NAMED)
def test_the_evaluators_agree(schedule):
    assert evaluators.compare_evaluators("C++", schedule).passed


# Tables, and the comparisons behind the numbers


PASSED, FAILED, EXACT = bounds.Verdict("", 1.0, 2.0), bounds.Verdict("", 3.0, 2.0), bounds.Verdict("", 0.0, 0.0)


def rows():
    cells = [
        ("AdamW", "float32", PASSED),
        ("AdamW", "float32", FAILED),
        ("SGD", "torch", PASSED),
        ("skip", "torch", EXACT),
    ]
    return [check.Result(check.Check("id", "cpu", line, column, None), verdict, 0.0) for line, column, verdict in cells]


def test_a_table_shows_the_worst_of_each_cell(capsys):
    report.tables(rows())
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines == [["cpu", "float32", "torch"], ["AdamW", "FAIL"], ["SGD", "50"], ["skip", "ok"]]


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
    assert bounds.worst_of([PASSED, FAILED, EXACT]) is FAILED and bounds.worst_of([EXACT, PASSED]) is PASSED
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
