# SPDX-License-Identifier: Apache-2.0
"""Laws: the decisions in Triton are those of the rule, for our optimizers and for tensor rates of any."""

import pytest
import test_greedy
import test_plateau
import torch
from cases import maker
from cases_plateau import MODES
from interpreted import interpreter, metric  # noqa: F401
from tiers import full

from fusedsched._layouts import METRIC_STATE, METRIC_TARGET
from fusedsched.lr_scheduler.metric_state import MetricConfig, MetricProgress, MetricState

SEEDS = [range(1), full(range(1, 6))]  # of each mode: the interpreter is slow


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize(("mode", "kind"), MODES)
@pytest.mark.parametrize("law", [test_plateau.law_of_decisions, test_greedy.law_of_decisions])
def test_decisions(law, mode, kind, seeds):
    law(maker("triton"), mode, kind, seeds)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_tensor_rates(dtype):
    test_plateau.law_of_tensor_rates("torch", dtype, "triton")


@pytest.mark.parametrize("law", ["updates_use_the_rates", "edits_are_what_it_reduces_from", "states_go_both_ways"])
def test_laws_of_the_other_backends(law):
    getattr(test_plateau, f"test_{law}")(maker("triton"))


def test_columns_are_those_of_the_state():
    for name in (*MetricConfig._fields, *MetricProgress._fields, "clock"):
        assert getattr(metric, name.upper()).value == METRIC_STATE.index(name), name
    assert (metric.STATE_WIDTH.value, metric.TARGET_WIDTH.value) == (len(METRIC_STATE), len(METRIC_TARGET))


def test_the_law_can_fail(monkeypatch):
    """Mutant: a patience that is one too long."""
    write = MetricState.write

    def wrong(self, options, *rest):
        config = options.config._replace(patience=options.config.patience + 1)
        write(self, options._replace(config=config), *rest)

    monkeypatch.setattr(MetricState, "write", wrong)
    for law in (test_plateau.law_of_decisions, test_greedy.law_of_decisions):
        with pytest.raises(AssertionError):
            law(maker("triton"), "min", "rel", range(6))
