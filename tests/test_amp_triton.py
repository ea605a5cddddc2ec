# SPDX-License-Identifier: Apache-2.0
"""The properties of test_amp.py and test_random_runs.py for the Triton kernels, under Triton's interpreter."""

import pytest
import random_runs
from amp_runs import check_scale, check_skipping, micro_batches, several_optimizers
from cases import VISIBLE, torch_twin
from interpreted import interpreter as interpreter, jit, make, step
from scripting import assert_same
from triton import language as tl

from fusedsched.optim.runtime import Runtime


@pytest.mark.parametrize("row", ("AdamW-amsgrad", "SGD-dampening"))
def test_scale_and_results_are_those_of_torchs_run(row):
    check_scale(make, row)


@pytest.mark.parametrize("before, late", ((0, False), (2, False), (2, True)))
@pytest.mark.parametrize("row", ("AdamW", "Adam-amsgrad", "SGD", "SGD-nesterov", "SGD-dampening"))
def test_a_skipped_update_changes_nothing_at_all(row, before, late):
    check_skipping(make, row, before, late)


@pytest.mark.parametrize("name", VISIBLE)
def test_micro_batches_unscaled_and_clipped(name):
    assert_same(micro_batches(make, name), micro_batches(torch_twin, name))


def test_several_optimizers_and_one_scaler():
    assert_same(several_optimizers(make, None), several_optimizers(torch_twin, None))


@pytest.mark.parametrize("seed", range(3))
def test_a_random_program_sees_what_it_sees_with_torch(seed):
    random_runs.run(seed, "triton", steps=5)


def test_state_that_a_skipped_first_step_leaves_is_noticed(monkeypatch):
    monkeypatch.setattr(Runtime, "skips", lambda self, found_inf: False)
    with pytest.raises(AssertionError):
        check_skipping(make, "AdamW", 0, False)


@jit
def _counts_always(programs, written, edited, clocks, past_horizon, n_programs, coming):
    tl.store(clocks, tl.load(clocks) + 1)


def test_a_skip_that_counts_is_noticed(monkeypatch):
    monkeypatch.setattr(step, "write_current", _counts_always)
    with pytest.raises((AssertionError, UserWarning)):  # the warning: what is shown is not what the clock says
        check_skipping(make, "SGD", 2, False)
