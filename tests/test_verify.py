# SPDX-License-Identifier: Apache-2.0
"""The command `verify`: what it covers, what it says, and that it can fail."""

import pytest
import torch
from cases import BACKENDS

from fusedsched import _native, reference, verify
from fusedsched.verify import bounds, evaluators, table


def test_covers_every_optimizer_type_schedule_and_backend():
    ids = [check.id.split("/") for check in verify.checks(quick=True)]
    updates = [parts for parts in ids if len(parts) == 4]
    assert {parts[3] for parts in updates} == set(BACKENDS)
    assert {parts[0] for parts in updates} >= set(table.OPTIMIZERS)
    assert {parts[2] for parts in updates} >= {"fixed", "all", *table.NAMED}
    everything = {check.id for check in verify.checks()}
    for schedule in table.NAMED:
        assert f"AdamW/bfloat16/{schedule}/{BACKENDS[-1]}" in everything
    names = {n for n in dir(torch.optim.lr_scheduler) if n.endswith(("LR", "Restarts"))}
    on_metrics_or_of_others = {"ReduceLROnPlateau", "SequentialLR", "LRScheduler", "ChainedScheduler"}
    assert {name for name, _ in evaluators.SCHEDULERS.values()} >= names - on_metrics_or_of_others


@pytest.mark.parametrize("case", ("AdamW/float32/cosine", "random-3/bfloat16/drawn", "SGD-nesterov/complex64/fixed"))
def test_one_case(case, capsys):
    assert verify.main(["--quick", "--case", f"{case}/{BACKENDS[0]}"]) == 0
    assert "All 1 cases are within their bounds" in capsys.readouterr().out


@pytest.mark.skipif(_native.module() is None, reason="there is no second evaluator")
@pytest.mark.parametrize("schedule", table.NAMED)
def test_the_evaluators_agree(schedule):
    assert evaluators.compare_evaluators("C++", schedule).passed


def test_a_failure_is_printed_as_a_command(monkeypatch, capsys):
    def build(backend, name, params, **options):
        return getattr(reference, name)(params, **{**options, "lr": 0.1001})

    monkeypatch.setattr(verify, "_build", build)
    command = f"--quick --case AdamW/float32/fixed/{BACKENDS[0]}"
    assert verify.main(command.split()) == 1
    printed = capsys.readouterr().out
    assert f"python -m fusedsched verify {command}\n" in printed and "FAIL" in printed


@pytest.mark.parametrize(
    "case, says",
    (
        ("AdamV/float32/fixed/reference", "Unknown case: 'AdamV/float32/fixed'"),
        ("AdamW/float8/fixed/reference", "It must be ROW/DTYPE/SCHEDULE"),
        ("AdamW/float32/fixed/gpu", "Unknown backend: 'gpu'"),
        ("AdamW", "Unknown case"),
    ),
)
def test_an_unknown_case_says_what_there_is(case, says, capsys):
    assert verify.main(["--case", case]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("rich", (True, False))
def test_the_table(rich, capsys, monkeypatch):
    if not rich:
        monkeypatch.setitem(__import__("sys").modules, "rich.table", None)
    good, bad = bounds.Verdict("", 1.0, 2.0), bounds.Verdict("", 3.0, 2.0)
    verify.report.tables(
        [("cpu", "AdamW", "float32", good), ("cpu", "AdamW", "float32", bad), ("cpu", "SGD", "torch", good)]
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines == [["cpu", "float32", "torch"], ["AdamW", "150", "FAIL"], ["SGD", "50"]]


# The comparison itself.


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
