# SPDX-License-Identifier: Apache-2.0
"""Updates on a GPU: against float64, and against the compiled CPU kernels, for every dtype and number of arrays."""

import pytest
import torch
from cases import VISIBLE, maker
from scenes import DTYPES, build, fill, parameters
from tolerances import close

from fusedsched import schedules as S
from fusedsched.verify.table import cases
from fusedsched.verify.updates import run, unjudged

UPDATES = 60
JUDGED = [case for case in cases(quick=True, randoms=8) if unjudged(case) is None]
MIXED = [(p, g) for p in (torch.float32, torch.bfloat16, torch.float16) for g in (torch.float32, torch.bfloat16)]


@pytest.mark.parametrize("case", JUDGED, ids=lambda case: case.id)
def test_update_within_the_bound(case, backend, gpu):
    verdict = run(maker(backend), case, UPDATES, device=gpu.device)
    assert verdict.passed, str(verdict)


def agree(backend, gpu, name, params, updates=3, scale=1.0):
    """Trains on the GPU and on the CPU from the same numbers."""
    results = []
    for device, chosen in ((gpu.device, backend), ("cpu", "cpu")):
        copies = [p.detach().to(device, copy=True).as_strided(p.shape, p.stride()).requires_grad_() for p in params]
        optimizer = build(chosen, name, copies)
        for update in range(updates):
            fill(copies, update, scale)
            optimizer.step()
        results.append([p.detach().cpu() for p in copies])
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs, updates, "param")


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", VISIBLE)
def test_backends_agree(name, dtype, backend, gpu):
    shapes = [(n,) for n in (*range(1, 20), 4095, 4096, 4097, *([100_003] if gpu.real else []))]
    agree(backend, gpu, name, parameters(*shapes, dtype=dtype, device="cpu"))


@pytest.mark.parametrize("name", VISIBLE)
@pytest.mark.parametrize("offset", (1, 2, 3))
def test_arrays_that_start_between_vectors(name, offset, backend, gpu):
    params = []
    for whole in parameters(40, 5000, device=gpu.device):
        params.append(whole.detach()[offset:].requires_grad_())
    twins = [p.detach().cpu().requires_grad_() for p in params]
    optimizer, other = build(backend, name, params), build("cpu", name, twins)
    for update in range(3):
        fill(params, update)
        fill(twins, update)
        optimizer.step()
        other.step()
    for p, q in zip(params, twins, strict=True):
        close(p.detach().cpu(), q.detach(), 3, "param")


@pytest.mark.parametrize("dtypes", MIXED, ids=lambda pair: "-".join(str(d)[6:] for d in pair))
def test_state_of_another_dtype(dtypes, backend, gpu):
    """Parameters of one dtype whose moments have another, as a loaded checkpoint leaves them."""
    param_dtype, state_dtype = dtypes
    results = []
    for device, chosen in ((gpu.device, backend), ("cpu", "cpu")):
        params = parameters(9, 4100, dtype=param_dtype, device=device)
        optimizer = build(chosen, "AdamW", params)
        fill(params, 0)
        optimizer.step()
        for p in params:
            for key in ("exp_avg", "exp_avg_sq"):
                optimizer.state[p][key] = optimizer.state[p][key].to(state_dtype)
        for update in range(1, 4):
            fill(params, update)
            optimizer.step()
        assert all(optimizer.state[p]["exp_avg"].dtype == state_dtype for p in params)
        results.append([p.detach().cpu() for p in params])
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs, 4, "param")


@pytest.mark.smoke
def test_more_parameters_than_one_launch_has_room_for(backend, gpu):
    """Two launches share one ticket; clocks and counts advance once a step."""
    n = 4000
    params = parameters(*[(1 + i % 3,) for i in range(n)])
    groups = [{"params": params[i::40]} for i in range(40)]
    optimizer = build(backend, "AdamW", groups, lr=S.warmup_cosine(0.1, 3, 50))
    for update in range(4):
        fill(params, update)
        optimizer.step()
    assert optimizer._runtime.clocks.read() == [4, 0, 0, 0]
    assert {float(optimizer.state[p]["step"]) for p in params[::97]} == {4.0}


def test_a_changing_set_of_gradients(backend, gpu):
    """Experts of which each step uses a few: the others keep their values, states and counts."""
    results = []
    for device, chosen in ((gpu.device, backend), ("cpu", "cpu")):
        params = parameters(*[(33,)] * 64, device=device)
        optimizer = build(chosen, "AdamW", params)
        for update in range(8):
            for i, p in enumerate(params):
                if (i * 7 + update) % 5 == 0:
                    fill([p], 64 * update + i)
                else:
                    p.grad = None
            optimizer.step()
        results.append([p.detach().cpu() for p in params])
        results.append([optimizer.state[p]["step"].clone() for p in params if p in optimizer.state])
    for ours, theirs in zip(results[0] + results[1], results[2] + results[3], strict=True):
        close(ours, theirs, 8, "param")


def test_above_two_to_the_31_elements(backend, real_gpu):
    n = 2**31 + 8
    if torch.cuda.mem_get_info()[0] < 10 * n:
        pytest.skip("too little GPU memory")
    p = torch.zeros(n, dtype=torch.bfloat16, device="cuda").requires_grad_()
    p.grad = torch.ones_like(p)
    optimizer = build(backend, "AdamW", [p], lr=0.5, weight_decay=0.0, eps=0.0)
    optimizer.step()
    assert bool((p.detach()[-16:] == -0.5).all()) and bool((p.detach()[:16] == -0.5).all())
    assert int((p.detach() != -0.5).sum()) == 0
