# SPDX-License-Identifier: Apache-2.0
"""What holds on each backend holds on the Triton backend, interpreted. Updates and layouts: test_triton_step.py."""

import pytest
import torch
from cases import DROP_INS, VISIBLE, torch_twin
from interpreted import interpreter as interpreter, make
from scripting import SCRIPTS, assert_same, give_gradients, parameters
from test_checkpoint import test_counts_past_what_float32_holds as test_counts_past_what_float32_holds
from test_known_issues import (
    test_the_count_of_updates_stops_at_two_to_the_24 as test_the_count_of_updates_stops_at_two_to_the_24,
)
from test_live_schedules import (
    NEW,
    OLD,
    build,
    test_compiled_steps_follow_without_another_graph as test_compiled_steps_follow_without_another_graph,
    test_eager_steps_follow_on_the_same_plan as test_eager_steps_follow_on_the_same_plan,
    test_it_resumes_after_an_edit as test_it_resumes_after_an_edit,
    test_one_for_each_group as test_one_for_each_group,
    test_the_property_can_fail as test_a_group_that_keeps_its_schedule_is_noticed,  # noqa: F401
    test_the_tensor_that_shows_it_stays as test_the_tensor_that_shows_it_stays,
)
from test_other_clocks import (
    assert_at,
    build as build_clocks,
    test_before_anything_is_scheduled as test_before_anything_is_scheduled,
    test_clocks_advance_by as test_clocks_advance_by,
    test_compiled as test_compiled,
)
from test_scheduled_hyperparameters import (
    test_an_edit_means_constant_from_here_on as test_an_edit_means_constant_from_here_on,
    test_other_units_of_time as test_other_units_of_time,
)
from test_telemetry import (
    test_a_drop_in_scheduler as test_a_drop_in_scheduler,
    test_a_step_without_gradients_has_no_row as test_a_step_without_gradients_has_no_row,
    test_compiled_steps_have_rows as test_compiled_steps_have_rows,
    test_new_groups_have_nan_before_they_were_there as test_new_groups_have_nan_before_they_were_there,
    test_plans_come_and_go_and_copies_start_without as test_plans_come_and_go_and_copies_start_without,
    test_rows_are_what_the_updates_used as test_rows_are_what_the_updates_used,
    test_skipped_steps_have_rows as test_skipped_steps_have_rows,
    test_the_last_ones_are_kept as test_the_last_ones_are_kept,
    test_the_property_can_fail as test_another_telemetry_is_noticed,  # noqa: F401
)
from test_torch_optim import (
    OF_TORCH,
    test_a_gradient_of_two_parameters_is_unscaled_once as test_a_gradient_of_two_parameters_is_unscaled_once,
    test_a_skipped_update_changes_nothing_at_all as test_a_skipped_update_changes_nothing_at_all,
    test_scaled_gradients_are_unscaled_in_the_update as test_scaled_gradients_are_unscaled_in_the_update,
)

# Each script with one optimizer; first those that reach the kernels in ways that no other property does.
FIRST = ("gradients_that_come_and_go", "a_stale_graph_is_noticed", "zero_grad_in_place", "state_written_in_place")
RUNS = [run for run in SCRIPTS if run.__name__ not in (*OF_TORCH, "profiled")]
RUNS.sort(key=lambda run: run.__name__ not in FIRST)
QUICK_ROWS = {"test_a_script_sees_what_it_sees_with_torch": len(FIRST)}  # of each other test one


@pytest.fixture
def product():
    make.args = ("triton",)
    return make


@pytest.mark.parametrize("run, name", [(run, DROP_INS[i % 3]) for i, run in enumerate(RUNS)])
def test_a_script_sees_what_it_sees_with_torch(run, name):
    assert_same(run(make, name), run(torch_twin, name))


@pytest.mark.parametrize("name", VISIBLE)
def test_a_compiled_step_is_one_graph_and_the_same(name):
    results, graphs = [], []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    for compiled in (True, False):
        params = parameters((4, 3), 5)
        optimizer = make(name, params, **VISIBLE[name])
        give_gradients(params)
        optimizer.step()
        call = torch.compile(optimizer.step, backend=backend, fullgraph=True) if compiled else optimizer.step
        for update in range(1, 4):
            optimizer.param_groups[0]["lr"] = 0.1 / update
            give_gradients(params, update)
            call()
        results.append([p.detach() for p in params])
    assert len(graphs) == 1 and "fusedsched.step" in graphs[0].code
    assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))


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
