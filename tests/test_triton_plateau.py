# SPDX-License-Identifier: Apache-2.0
"""Laws: the decisions in Triton are those of the rule, for our optimizers and for tensor rates of any."""

import pytest
import test_greedy
import test_plateau
import torch
from cases import maker
from cases_plateau import MODES
from interpreted import interpreter, metric  # noqa: F401

from fusedsched.lr_scheduler import boards, observing

SERIES = 6  # of each mode: the interpreter is slow


@pytest.mark.parametrize(("mode", "kind"), MODES)
@pytest.mark.parametrize("law", [test_plateau.law_of_decisions, test_greedy.law_of_decisions])
def test_decisions(law, mode, kind):
    law(maker("triton"), mode, kind, range(SERIES))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_tensor_rates(monkeypatch, dtype):
    monkeypatch.setattr(observing, "launcher_for", lambda device: boards.Triton)
    test_plateau.law_of_tensor_rates("torch", dtype)


@pytest.mark.parametrize("law", ["updates_use_the_rates", "edits_are_what_it_reduces_from", "states_go_both_ways"])
def test_laws_of_the_other_backends(law):
    getattr(test_plateau, f"test_{law}")(maker("triton"))


def test_columns_are_those_of_the_board():
    names = [*boards.Asked._fields, *boards.Known._fields]
    for name, column in zip(names, [*range(10), *range(boards.ASKED, boards.ASKED + boards.KNOWN)], strict=True):
        assert getattr(metric, name.upper()).value == column, name
    assert (metric.WATCH_WIDTH.value, metric.RATE_WIDTH.value) == (boards.WATCH_WIDTH, boards.RATE_WIDTH)


def test_the_law_can_fail(monkeypatch):
    """Mutant: a patience that is one too long."""
    write = boards.Board.write

    def wrong(self, asked, *rest):
        write(self, asked._replace(patience=asked.patience + 1), *rest)

    monkeypatch.setattr(boards.Board, "write", wrong)
    for law in (test_plateau.law_of_decisions, test_greedy.law_of_decisions):
        with pytest.raises(AssertionError):
            law(maker("triton"), "min", "rel", range(6))
