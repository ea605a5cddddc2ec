# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels, emulated: every rule and type against float64, at every length and alignment; and that the numbers
depend neither on blocks, batches, launches nor on the order in which threads run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import emulation
import pytest
import torch
from cases import named
from cases_cuda import F32, LENGTHS, LOOPS, RULES, evenly, tensors, updated
from emulation.driver import SKIPPED, UPDATES, Emulation, Plan
from tolerances import close

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(emulation.compiler() is None, reason="needs a C++ compiler")
ADAMW, SGD = RULES["adamw"], RULES["sgd"]


@pytest.fixture(scope="module")
def machine():
    machine = Emulation(emulation.build(*os.environ.get("FUSEDSCHED_EMULATION_FLAGS", "").split()))
    yield machine
    machine.configure()


def plan_of(machine, rule, loop=0, made=()):
    return Plan(machine, rule.number, loop, list(made), [rule.values])


def check_update(plan, rule, **options):
    """One step of a plan, judged against float64 from the same numbers."""
    expected = [updated(rule, t) for t in plan.tensors]
    plan.step(**options)
    for t, arrays in zip(plan.tensors, expected, strict=True):
        for name, ours, exact in zip(("param", "state", "state", "state"), [t.param, *t.state], arrays, strict=False):
            close(ours, exact.to(ours.dtype), 1, f"{name} of {t.param.numel()} elements")


@pytest.mark.parametrize("stored", named(LOOPS))
@pytest.mark.parametrize("rule", named(RULES))
def test_every_length_and_alignment(machine, rule, stored):
    loop, dtypes = stored
    shifts = [(0,) * 5, (1,) * 5, (0, 1, 0, 0, 0), (0, 0, 0, 1, 0)]
    made = [tensors(rule, dtypes, n, seed=n, shifts=shifts[i % 4]) for i, n in enumerate(LENGTHS * 2)]
    made += [tensors(rule, dtypes, n, seed=n, shifts=s) for n in (7, 8, 9, 31) for s in shifts]
    plan = plan_of(machine, rule, loop, [t for t, _ in made])
    for step in (1, 2):
        check_update(plan, rule)
        assert all(int(t.count) == step for t in plan.tensors)
    assert all(r.untouched_outside() for _, buffers in made for r in buffers)


LENGTHS_OF_MANY = [0, 1, 5, 4096, 4097, 9000, 33, 100, 20_000, 64] * 7  # more than two batches, and 140 tiles


def outcome(machine, blocks, seed, launches=1, broken=0):
    machine.configure(seed=seed)
    made = [tensors(ADAMW, LOOPS["float32"][1], n, seed=i)[0] for i, n in enumerate(LENGTHS_OF_MANY)]
    plan = plan_of(machine, ADAMW, 0, made)
    with machine.broken(broken):
        for _ in range(2):
            for k, (first, n) in enumerate(evenly(made, launches)):
                plan.step(first=first, n=n, last=k == launches - 1, blocks=blocks)
    assert int(plan.ticket) == 0 and plan.clocks.tolist() == [2, 0, 0, 0]
    assert all(int(t.count) == 2 and float(t.shown_step) == 2 for t in made)
    return torch.cat([torch.cat([t.param, *t.state]) for t in made])


@pytest.mark.parametrize("blocks, seed, launches", [(1, 2, 1), (2, 3, 1), (6, 4, 1), (6, 5, 3), (40, 6, 1), (3, 7, 7)])
def test_blocks_orders_and_launches_change_no_bit(machine, blocks, seed, launches):
    assert torch.equal(outcome(machine, blocks, seed, launches), outcome(machine, 1, 1))


@pytest.mark.parametrize("broken", [1, 2])
def test_a_missing_barrier_or_a_hasty_block_is_noticed(machine, broken):
    with pytest.raises(AssertionError):
        assert torch.equal(outcome(machine, 6, 4, broken=broken), outcome(machine, 1, 1))


def test_a_lost_tile_is_noticed(machine):
    plan = plan_of(machine, ADAMW, 0, [tensors(ADAMW, LOOPS["float32"][1], 9000)[0]])
    launch, blocks = plan.launch(blocks=2)
    launch.header.starts[1].tile += 1
    plan.launch = lambda: (launch, 1)  # the second block never runs
    launch.header.starts[1].array, launch.header.starts[1].tile = 0, 2
    with pytest.raises(AssertionError):
        check_update(plan, ADAMW)


def test_what_has_no_gradient_stays(machine):
    made = [tensors(ADAMW, LOOPS["float32"][1], 50, seed=i)[0] for i in range(40)]
    made = [t._replace(grad=None) if i % 3 else t for i, t in enumerate(made)]
    before = [t.param.clone() for t in made]
    plan = plan_of(machine, ADAMW, 0, made)
    plan.step()
    for i, (t, p) in enumerate(zip(made, before, strict=True)):
        assert torch.equal(t.param, p) == bool(i % 3) and int(t.count) == int(not i % 3)


def test_counts(machine):
    """Exact beyond float32; but whoever writes to state["step"] is believed."""
    t, _ = tensors(ADAMW, LOOPS["float32"][1], 10)
    plan = plan_of(machine, ADAMW, 0, [t])
    t.count[0], t.shown_step[0] = 2**24 + 1, 2.0**24
    check_update(plan, ADAMW)
    assert int(t.count) == 2**24 + 2
    t.shown_step[0] = 5.0
    expected = updated(ADAMW, t._replace(count=torch.tensor([5])))
    plan.step()
    assert int(t.count) == 6 and float(t.shown_step) == 6.0
    close(t.param, expected[0].to(F32), 1, "param")


@pytest.mark.parametrize("rule", named(RULES))
def test_found_inf_changes_nothing_but_the_count_of_skips(machine, rule):
    made = [tensors(rule, LOOPS["float32"][1], n)[0] for n in (5, 5000)]
    plan = plan_of(machine, rule, 0, made)
    plan.step()
    everything = [x for t in made for x in (t.param, t.grad, *t.state, t.count)]
    before = [x.clone() for x in everything]
    found, scale = torch.ones(1), torch.full((1,), 4.0)
    plan.step(found_inf=found, grad_scale=scale, pending=[(0, 0, 0.25)])
    assert all(torch.equal(x, y) for x, y in zip(everything, before, strict=True))
    assert plan.clocks[UPDATES] == 1 and plan.clocks[SKIPPED] == 1 and int(plan.ticket) == 0
    assert plan.values[0, 0] == 0.25  # the user's edit is not part of the update
    plan.step(found_inf=torch.zeros(1), grad_scale=scale)
    assert plan.clocks.tolist() == [2, 0, 0, 1] and not torch.equal(made[0].param, before[0])


@pytest.mark.parametrize("stored", named(LOOPS))
def test_gradients_are_unscaled_in_memory_too(machine, stored):
    loop, dtypes = stored
    rule = RULES["adamw, amsgrad"]
    made = [tensors(rule, dtypes, n, seed=n, shifts=(0, n % 2, 0, 0, 0))[0] for n in (64, 67, 4500)]
    plan = plan_of(machine, rule, loop, made)
    expected = [updated(rule, t, gain=0.25) for t in made]
    grads = [t.grad.clone() for t in made]
    plan.step(grad_scale=torch.full((1,), 4.0))
    for t, arrays, grad in zip(made, expected, grads, strict=True):
        close(t.param, arrays[0].to(t.param.dtype), 1, "param")
        close(t.grad, grad * 0.25, 1, "gradient")


def test_no_arrays_only_clocks(machine):
    plan = plan_of(machine, SGD)
    plan.step()
    assert plan.clocks.tolist() == [1, 0, 0, 0] and int(plan.ticket) == 0


@pytest.mark.full
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ with its sanitizers")
@pytest.mark.skipif("FUSEDSCHED_EMULATION_FLAGS" in os.environ, reason="this is the run under the sanitizers")
def test_under_address_and_undefined_behaviour_sanitizers():
    """A part of this file in a process of its own, where each load past an array ends the process."""
    found = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip("libasan is not installed")
    env = {
        **os.environ,
        "LD_PRELOAD": found,
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "FUSEDSCHED_EMULATION_FLAGS": "-O0 -fsanitize=address,undefined -fno-sanitize-recover=all",
    }
    long = "every_length and (amsgrad and not coupled or nesterov and decay)"
    chosen = f"({long}) or found_inf or unscaled or counts or no_gradient"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", chosen]
    done = subprocess.run(command, env=env, cwd=HERE.parent, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
