# SPDX-License-Identifier: Apache-2.0
"""Hyperparameters inside the CUDA kernels, emulated: programs, edits, tensors, clocks; and what a recorded launch
keeps."""

import ctypes

import emulation
import pytest
import torch
from cases_cuda import DTYPES_OF_TENSORS, F32, F64, LOOPS, RULES, tensors
from cases_schedules import SCHEDULES
from emulation.driver import SAMPLES, UPDATES, Emulation, HostCopy, Plan, check

from fusedsched import schedules as S

pytestmark = pytest.mark.skipif(emulation.compiler() is None, reason="needs a C++ compiler")
SGD = RULES["sgd"]
LINE = S.linear(0.5, 0.1, steps=8)


@pytest.fixture(scope="module")
def machine():
    machine = Emulation(emulation.build())
    machine.configure()
    return machine


def table_of(schedule):
    return torch.tensor(list(schedule.lower().table), dtype=F64)


def plain_sgd(machine, n=3, program=None, clock=UPDATES, place=None):
    """Parameters 0 and gradients 1 in float64: after a step they are -lr to the last bit."""
    t, _ = tensors(SGD, LOOPS["float64"][1], n)
    t.param.zero_()
    t.grad.fill_(1.0)
    plan = Plan(machine, SGD.number, 1, [t], [SGD.values])
    if program is not None:
        plan.schedule(0, 0, program, clock, place)
        plan.write_current()
    return plan, t


def lr_of(t):
    """The learning rate that the last step used; the parameter is 0 again."""
    used = -t.param[0].item()
    assert bool((t.param == -used).all())
    t.param.zero_()
    return used


def test_every_program_is_what_the_cpu_makes_of_it(machine):
    """To the last bit, since both are the same source on the same processor: at all kinds of clocks, and held past the
    end where the schedule says that it is an error to go on."""
    cases = list(SCHEDULES.values())
    programs = [case.make().lower() for case in cases]
    shown = torch.zeros(len(cases), dtype=F64)
    plan = Plan(machine, SGD.number, 1, [], [SGD.values] * len(cases))
    for group, program in enumerate(programs):
        plan.schedule(group, 0, torch.tensor(list(program.table), dtype=F64), place=shown[group:])
    for clock in (0, 1, 2, 3, 49, 50, 51, 99, 100, 101, 500, 999, 1000, 1001, 12345, 2**31, 2**40):
        plan.clocks[UPDATES] = clock
        plan.write_current()
        ends = [program.table[2] for program in programs]
        clocks = [clock if end < 0 else min(clock, int(end)) for end in ends]
        expected = [program.evaluate(c) for program, c in zip(programs, clocks, strict=True)]
        assert shown.tolist() == expected, clock


def test_a_step_uses_the_value_at_its_clock_and_shows_the_next(machine):
    shown = torch.zeros((), dtype=F64)
    plan, t = plain_sgd(machine, program=table_of(LINE), place=shown)
    plan.write_current()
    for u in range(10):
        assert shown.item() == LINE(u)
        plan.step()
        assert lr_of(t) == LINE(u)
    assert int(plan.past_horizon) == 0


def test_several_launches_of_one_step_see_one_clock(machine):
    plan, t = plain_sgd(machine, program=table_of(LINE))
    for u in range(3):
        plan.step(last=False)
        assert lr_of(t) == LINE(u)
        plan.step()
        assert lr_of(t) == LINE(u)


def test_other_clocks(machine):
    plan, t = plain_sgd(machine, program=table_of(LINE), clock=SAMPLES)
    plan.advance(SAMPLES, 3)
    plan.advance(SAMPLES, 2)
    plan.step()
    assert lr_of(t) == LINE(0)  # whatever advances a clock evaluates its schedules
    plan.write_current()
    plan.step()
    assert lr_of(t) == LINE(5) and plan.clocks.tolist() == [2, 5, 0, 0]


def test_past_its_end_a_program_keeps_its_value_and_says_so(machine):
    program = table_of(S.linear(0.5, 0.1, steps=2, past_end="error"))
    last = int(program[2])
    plan, t = plain_sgd(machine, program=program, place=torch.zeros((), dtype=F64))
    for _ in range(last + 1):
        assert int(plan.past_horizon) == 0
        plan.step()
        end = lr_of(t)
    assert int(plan.past_horizon) == 1 and plan.clocks[UPDATES] == last + 1
    plan.step()
    assert lr_of(t) == end
    plan.past_horizon.zero_()
    plan.write_current()
    assert int(plan.past_horizon) == 1


def test_an_edit_of_the_shown_value_stays(machine):
    shown = torch.full((), 9.0, dtype=F64)  # before it is shown for the first time it means nothing
    plan, t = plain_sgd(machine, program=table_of(LINE), place=shown)
    plan.write_current()
    plan.step()
    assert lr_of(t) == LINE(0)
    shown.fill_(0.25)
    for _ in range(3):
        plan.step()
        assert lr_of(t) == 0.25 and shown.item() == 0.25 and plan.schedules[0].edited
    shown.fill_(LINE(4))  # even if it is what the schedule says: an edit means "from here on"
    plan.step()
    plan.write_current()
    assert lr_of(t) == shown.item() == LINE(4)


def test_an_edit_of_a_place_is_read_at_once_also_between_the_launches_of_one_step(machine):
    place = torch.zeros((), dtype=F64)
    plan, t = plain_sgd(machine, program=table_of(LINE), place=place)
    plan.step(last=False)
    assert lr_of(t) == LINE(0)
    place.fill_(0.75)
    plan.step()
    assert lr_of(t) == 0.75 == place.item()


def test_a_schedule_that_was_replaced_writes_nothing(machine):
    place = torch.zeros((), dtype=F64)
    plan, t = plain_sgd(machine, program=table_of(LINE), place=place)
    plan.schedules[0].program = None
    for _ in range(2):
        plan.step()
        assert lr_of(t) == LINE(0) == place.item()


def test_pending_values_are_read_before_the_table_and_reach_it_with_the_last_launch(machine):
    plan, t = plain_sgd(machine)
    plan.step(pending=[(0, 0, 0.75)], last=False)
    assert lr_of(t) == 0.75 and plan.values[0, 0] == SGD.values[0]
    plan.step(pending=[(0, 0, 0.75)])
    assert lr_of(t) == 0.75 and plan.values[0, 0] == 0.75
    plan.step()
    assert lr_of(t) == 0.75


def test_numbers_can_be_stored_by_a_launch_of_their_own(machine):
    plan, t = plain_sgd(machine)
    others = plan.values.clone()
    plan.store([(0, 0, 0.75), (0, 1, 0.0)])
    plan.step()
    others[0, :2] = torch.tensor([0.75, 0.0], dtype=F64)
    assert lr_of(t) == 0.75 and torch.equal(plan.values, others)


@pytest.mark.parametrize("dtype", DTYPES_OF_TENSORS, ids=str)
def test_tensors_are_read_at_each_step(machine, dtype):
    plan, t = plain_sgd(machine)
    lr = torch.full((), 0.3, dtype=dtype)
    plan.read_from(0, 0, lr)
    for value in (0.3, 1e-6, 0.7):
        lr.fill_(value)
        plan.step()
        assert lr_of(t) == lr.item()


def test_a_recorded_launch_runs_when_it_is_replayed_with_the_addresses_it_had(machine):
    plan, t = plain_sgd(machine, program=table_of(LINE))
    elsewhere = torch.full_like(t.grad, 100.0)
    before = machine.launches()
    graph = machine.record(plan.step)
    assert machine.launches() == before and machine.library.fs_emulation_nodes(ctypes.c_int64(graph)) == 1
    assert plan.clocks.tolist() == [0, 0, 0, 0] and lr_of(t) == 0.0
    plan.tensors = [t._replace(grad=elsewhere)]
    for u in range(4):
        machine.replay(graph)
        assert lr_of(t) == LINE(u)
    plan.step()
    assert lr_of(t) == 100 * LINE(4)
    machine.replay(graph)
    assert lr_of(t) == LINE(5) and machine.launches() == before + 6


def test_tables_can_be_written_while_a_stream_is_being_recorded(machine):
    runtime = machine.runtime
    source, target = torch.tensor([1.0, 2.0]), torch.zeros(2, dtype=F32)
    state = ctypes.c_bool()
    copies = (HostCopy * 2)(*(HostCopy(target[i:].data_ptr(), source[i:].data_ptr(), 4) for i in range(2)))

    def capture():
        check(runtime.capturing(5, ctypes.byref(state)))
        assert state.value
        check(runtime.write(copies, len(copies)))

    graph = machine.record(capture, stream=5)
    assert torch.equal(target, source) and machine.library.fs_emulation_nodes(ctypes.c_int64(graph)) == 0
    check(runtime.capturing(5, ctypes.byref(state)))
    assert not state.value


def test_what_a_device_refuses_comes_back_in_words(machine):
    plan, _ = plain_sgd(machine)
    launch, _ = plan.launch()
    words = machine.runtime.step(0, plan.rule, plan.variant, 0, ctypes.byref(launch))
    assert words == b"invalid configuration argument"


def test_a_driver_that_is_too_old_is_named(machine):
    machine.library.fs_emulation_set_driver(12000)
    try:
        assert machine.runtime.load() == b"the driver is too old for these kernels: R530 or newer is needed"
    finally:
        machine.library.fs_emulation_set_driver(13000)
    assert machine.runtime.load() is None
