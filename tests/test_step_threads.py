# SPDX-License-Identifier: Apache-2.0
"""No other thread ends the process by replacing what a step reads, and a child that was forked after a step can
step. The programs run in processes of their own: what they show otherwise is a crash, or a hang."""

import subprocess
import sys
import textwrap

import pytest
from cases import BACKENDS
from tiers import full

pytestmark = pytest.mark.skipif("cpu" not in BACKENDS, reason="needs the compiled extension")
SECONDS = 120

COMMON = """
import os, random, threading, time
import torch
import fusedsched as fs
from fusedsched import schedules as S

def trained(sizes, **options):
    params = [torch.linspace(-1, 1, n).requires_grad_() for n in sizes]
    optimizer = fs.AdamW(params, lr=1e-3, backend="cpu", **options)
    for _ in range(2):
        for p in params:
            p.grad = p.detach().cos()
        optimizer.step()
    return params, optimizer

def beside(work, step, seconds=2.0):
    errors, done = [], threading.Event()
    def run():
        try:
            while not done.is_set():
                work()
        except BaseException as error:
            errors.append(error)
    thread = threading.Thread(target=run)
    thread.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        step()
    done.set()
    thread.join()
    assert not errors, errors
"""


def run(program):
    done = subprocess.run(
        [sys.executable, "-c", COMMON + textwrap.dedent(program)], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0 and done.stdout.split() == ["done"], (done.returncode, done.stderr[-2000:])


# 12,000,000 elements are 48 MB: their memory goes back to the system as soon as it is freed. What is not tried:
# `p.grad = None` beside a thread that reads it ends a process of torch alone.
EDITS = {
    "gradients-assigned": "params[0].grad = torch.ones(n)",
    "gradients-by-backward": "(params[0] * 2.0).sum().backward(); params[0].grad = torch.ones(n)",
    "gradients-replaced-by-autograd": "params[0].grad = torch.ones(n, requires_grad=True)"
    "; (params[0] * 2.0).sum().backward(create_graph=True)",
    "moments-replaced": "state = optimizer.state[params[0]]; state['exp_avg'] = torch.zeros(n)",
    "states-replaced": "optimizer.state[params[0]] = {k: v.clone() for k, v in optimizer.state[params[0]].items()}",
    "steps": "optimizer.step()",
    "cleared": "optimizer.zero_grad(); params[0].grad = torch.ones(n)",
    "zeroed": "optimizer.zero_grad(set_to_none=False); params[0].grad = torch.ones(n)",
    "parameters-replaced": "p = torch.zeros(n, requires_grad=True); p.grad = torch.ones(n); "
    "optimizer.state[p] = {k: v.clone() for k, v in optimizer.state[params[0]].items()}; "
    "optimizer.param_groups[0]['params'][0] = p; optimizer.state.pop(params[0], None); params[0] = p",
}


QUICK = ("gradients-by-backward", "states-replaced", "steps")


@pytest.mark.parametrize("n", (2_000, 12_000_000), ids=("short", "released"))
@pytest.mark.parametrize("edit", [(pytest.param if edit in QUICK else full)(edit, id=edit) for edit in EDITS])
def test_threads_beside_a_step(edit, n):
    run(
        f"""
        n = {n}
        params, optimizer = trained([n, 7])
        def work():
            {EDITS[edit]}
            counts[0] += 1
        counts = [0, 0]
        def step():
            counts[1] += 1
            try:
                optimizer.step()
            except RuntimeError as error:  # another thread changes things as fast as a step reads them
                assert "change while a step reads them" in str(error), error
        beside(work, step)
        assert {edit != "steps"} or min(counts) * 4 > max(counts), counts  # they take turns
        print("done")
        """
    )


@pytest.mark.parametrize("backend", ("cpu", "reference"))
def test_a_state_dict_beside_steps_is_of_one_update(backend):
    """The numbers of the groups are those of the clock that is saved with them, and no schedule ends."""
    run(
        f"""
        lr, beta = S.linear(1.0, 0.0, steps=100_000), S.linear(0.5, 0.9, steps=100_000)
        params = [torch.zeros(size, requires_grad=True) for size in ({"2_000_000" if backend == "cpu" else "1_000"}, 7)]
        for p in params:
            p.grad = torch.ones_like(p)
        groups = [{{"params": params[:1]}}, {{"params": params[1:]}}]
        optimizer = fs.AdamW(groups, lr=lr, betas=(beta, 0.99), backend="{backend}")
        optimizer.step()
        seen = set()
        def look():
            for group in optimizer.state_dict()["param_groups"]:
                clock = group["fusedsched"]["clocks"][0]
                assert (group["lr"], group["betas"][0]) == (lr(clock), beta(clock)), (clock, group["lr"])
                seen.add(clock)
        beside(look, optimizer.step)
        assert len(seen) > 2, seen
        print("done")
        """
    )


CROWDS = {
    "three workers": ("1", "3", "params[0].grad = torch.ones(n); params[1].grad = torch.ones(7)"),
    # Through copies of their own: several that accumulate into one gradient which is assigned end a process of torch.
    "three workers that go backward": (
        "1", "3", "p = params[0].detach().clone().requires_grad_(); (p * 2.0).sum().backward(); params[0].grad = p.grad"
    ),
    "two that step, two workers": ("2", "2", "params[0].grad = torch.ones(n)"),
    "two that step, two that replace state": (
        "2", "2", "optimizer.state[params[0]] = {k: v.clone() for k, v in optimizer.state[params[0]].items()}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("n", (2_000, 12_000_000), ids=("short", "released"))
@pytest.mark.parametrize("crowd", [full("three workers"), *list(CROWDS)[1:3], full(list(CROWDS)[3])])
def test_many_threads(crowd, n):
    """As asynchronous training has them: workers write gradients while one or two threads step."""
    steppers, workers, work = CROWDS[crowd]
    run(
        f"""
        n, done, errors, counts = {n}, threading.Event(), [], [0] * {int(steppers) + int(workers)}
        params, optimizer = trained([n, 7])
        def step():
            try:
                optimizer.step()
            except RuntimeError as error:
                assert "change while a step reads them" in str(error), error
        def work():
            {work}
        def repeat(at, action):
            try:
                while not done.is_set():
                    action()
                    counts[at] += 1
            except BaseException as error:
                errors.append(error)
        actions = [step] * {steppers} + [work] * {workers}
        threads = [threading.Thread(target=repeat, args=pair) for pair in enumerate(actions)]
        [thread.start() for thread in threads]
        time.sleep(2.0)
        done.set()
        [thread.join() for thread in threads]
        assert not errors, errors
        assert min(counts) > 0, counts
        assert all(bool(p.detach().isfinite().all()) for p in params)
        print("done")
        """
    )


def test_a_step_inside_of_a_step_is_refused():
    run(
        """
        params, optimizer = trained([5])
        class Rate:
            def __float__(self):
                optimizer.step()
                return 0.1
        optimizer.param_groups[0]["lr"] = Rate()
        try:
            optimizer.step()
        except (RuntimeError, TypeError) as error:
            print("done")
        """
    )


def test_a_number_whose_code_removes_what_a_step_reads():
    """`__float__` of a rate is asked in a step, and takes away the groups, the state, a list, the parameters."""
    run(
        """
        edits = (
            lambda o: o.param_groups.clear(),
            lambda o: o.state.clear(),
            lambda o: o.param_groups[0].clear(),
            lambda o: o.param_groups[0]["params"].clear(),
            lambda o: o.param_groups[-1].update(params=[]),
            lambda o: [s.clear() for s in list(o.state.values())],
        )
        for edit in edits:
            for at in (0, -1):
                params, optimizer = trained([5, 5])
                optimizer.add_param_group({"params": [torch.ones(3, requires_grad=True)]})
                optimizer.step()
                class Rate:
                    def __float__(self):
                        params.clear()
                        edit(optimizer)
                        return 0.1
                optimizer.param_groups[at]["lr"] = Rate()
                for p in params:
                    p.grad = torch.ones_like(p)
                p = None
                for _ in range(3):
                    try:
                        optimizer.step()
                    except (RuntimeError, TypeError, KeyError, IndexError):
                        pass
        print("done")
        """
    )


@pytest.mark.parametrize("threads", (1, 2, 4))
def test_a_forked_child_steps(threads):
    run(
        f"""
        torch.set_num_threads({threads})
        params, optimizer = trained([1_000] * 200)
        twins, twin = trained([1_000] * 200)
        for p in params + twins:
            p.grad = torch.ones_like(p)
        twin.step()
        child = os.fork()
        if child == 0:
            try:
                optimizer.step()
                same = all(torch.equal(a.detach(), b.detach()) for a, b in zip(params, twins))
            finally:
                os._exit(0 if same else 1)
        end = time.monotonic() + 60
        status = 0
        while time.monotonic() < end:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                break
            time.sleep(0.05)
        else:
            os.kill(child, 9)
            raise SystemExit("the child hangs")
        assert status == 0, status
        optimizer.step()
        assert all(torch.equal(a.detach(), b.detach()) for a, b in zip(params, twins))
        print("done")
        """
    )
