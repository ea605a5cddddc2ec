# SPDX-License-Identifier: Apache-2.0
"""The laws of live schedules and of other clocks on the Triton backend, interpreted."""

import pytest
import torch
from interpreted import interpreter as interpreter, make
from scripting import give_gradients
from test_live_schedules import (
    NEW,
    OLD,
    build,
    test_compiled_steps_follow_without_another_graph as test_compiled_steps_follow_without_another_graph,
    test_eager_steps_follow_on_the_same_plan as test_eager_steps_follow_on_the_same_plan,
    test_it_resumes_after_an_edit as test_it_resumes_after_an_edit,
    test_one_for_each_group as test_one_for_each_group,
    test_the_law_can_fail as test_the_law_can_fail,
    test_the_tensor_that_shows_it_stays as test_the_tensor_that_shows_it_stays,
)
from test_other_clocks import (
    assert_at,
    build as build_clocks,
    test_before_anything_is_scheduled as test_before_anything_is_scheduled,
    test_clocks_advance_by as test_clocks_advance_by,
    test_compiled as test_compiled,
)


@pytest.fixture
def product():
    return make


@pytest.mark.parametrize("old", (OLD, 0.1), ids=("schedule", "number"))
def test_what_a_captured_graph_reads_stays_where_it_is(old):
    """Every address in the launches of a step is the same before and after, and the number of programs is in memory."""
    params, optimizer = build(make, "lr", old)
    give_gradients(params)
    optimizer.step()
    plan = optimizer._runtime.plan

    def addresses():
        programs, numbers = plan._programs, plan._prepared
        tables = (*programs.arguments(), programs.past_horizon, numbers.sources.tensor, numbers.values.tensor)
        return [table.data_ptr() for table in tables]

    before = addresses()
    optimizer.set_schedule("lr", NEW)
    assert addresses() == before and optimizer._runtime.plan is plan
    assert int(plan._programs.arguments()[0][0, 0]) == len(plan._programs) == 2


def test_a_negative_number_on_the_device_holds_the_clock_and_is_named_later():
    params, optimizer = build_clocks(make)
    optimizer.advance(tokens=10)
    optimizer.advance(tokens=torch.tensor(-5))
    give_gradients(params)
    with pytest.raises(ValueError, match="negative number of tokens"):
        optimizer.step()
    assert_at(optimizer, 10, 0)
    optimizer.step()
    assert optimizer._runtime.clocks.read()[0] == 1
