# SPDX-License-Identifier: Apache-2.0
"""The decisions in Triton are those of the rule, for our optimizers and for tensor rates of any."""

import pytest
import test_plateau
import torch
from cases import maker
from cases_metric import MODES, SCHEDULERS, decisions_are_the_judges
from interpreted import interpreter, metric  # noqa: F401
from tiers import full

from fusedsched._layouts import METRIC_STATE, METRIC_TARGET
from fusedsched.lr_scheduler.metric_state import MetricConfig, MetricProgress, MetricState

SEEDS = [range(1), full(range(1, 6))]  # of each mode: the interpreter is slow


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize(("mode", "kind"), MODES)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_decisions(name, mode, kind, seeds):
    decisions_are_the_judges(name, maker("triton"), mode, kind, seeds)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_tensor_rates(dtype):
    test_plateau.tensor_rates_are_written_in_place("torch", dtype, "triton")


@pytest.mark.parametrize("test", ["updates_use_the_rates", "edits_are_what_it_reduces_from", "states_go_both_ways"])
def test_properties_of_the_other_backends(test):
    getattr(test_plateau, f"test_{test}")(maker("triton"))


def test_columns_are_those_of_the_state():
    for name in (*MetricConfig._fields, *MetricProgress._fields, "clock"):
        assert getattr(metric, name.upper()).value == METRIC_STATE.index(name), name
    assert (metric.STATE_WIDTH.value, metric.TARGET_WIDTH.value) == (len(METRIC_STATE), len(METRIC_TARGET))


def test_a_wrong_rule_is_found(monkeypatch):
    """Mutant: a patience that is one too long."""
    write = MetricState.write

    def wrong(self, options, *rest):
        config = options.config._replace(patience=options.config.patience + 1)
        write(self, options._replace(config=config), *rest)

    monkeypatch.setattr(MetricState, "write", wrong)
    for name in SCHEDULERS:
        with pytest.raises(AssertionError):
            decisions_are_the_judges(name, maker("triton"), "min", "rel", range(6))
