# SPDX-License-Identifier: Apache-2.0
"""The laws of telemetry on the Triton backend, interpreted."""

import pytest
from interpreted import interpreter as interpreter, make
from test_telemetry import (
    test_a_drop_in_scheduler as test_a_drop_in_scheduler,
    test_a_step_without_gradients_has_no_row as test_a_step_without_gradients_has_no_row,
    test_compiled_steps_have_rows as test_compiled_steps_have_rows,
    test_new_groups_have_nan_before_they_were_there as test_new_groups_have_nan_before_they_were_there,
    test_plans_come_and_go_and_copies_start_without as test_plans_come_and_go_and_copies_start_without,
    test_rows_are_what_the_updates_used as test_rows_are_what_the_updates_used,
    test_skipped_steps_have_rows as test_skipped_steps_have_rows,
    test_the_last_ones_are_kept as test_the_last_ones_are_kept,
    test_the_law_can_fail as test_the_law_can_fail,
)


@pytest.fixture
def product():
    return make
