# SPDX-License-Identifier: Apache-2.0
"""Properties on a real GPU about rates that are tensors: `make test-gpu`. Everywhere else the kernels are emulated."""

import pytest
import torch
from cases_rates import F32, LRS, SCHEDULERS, values

from fusedsched.runtime.backends import backends

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
]
BACKENDS = [name for name in ("cuda", "triton") if torch.cuda.is_available() and backends()[name] is None]
REPLAYS = 200


def build(name, backend, lrs=LRS):
    """torch's AdamW with a tensor for each group, and a scheduler of ours that has stepped."""
    groups = []
    for lr in lrs:
        p = torch.ones(5, device="cuda", requires_grad=True)
        p.grad = torch.full_like(p, 0.25)
        groups.append({"params": [p], "lr": torch.tensor(lr, device="cuda")})
    opt = torch.optim.AdamW(groups, capturable=True)
    opt._fusedsched_backend = backend
    sched = SCHEDULERS[name](opt)
    for _ in range(3):
        opt.step()
        sched.step()
    return opt, sched


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [n for n in SCHEDULERS if n != "OneCycleLR"])
def test_replays_equal_eager_steps(name, backend):
    (opt, sched), (twin, rival) = build(name, backend), build(name, backend)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        opt.step()
        sched.step()
    for step in range(REPLAYS):
        if step % 50 == 7:
            for o in (opt, twin):
                o.param_groups[1]["lr"].mul_(0.5)
        graph.replay()
        twin.step()
        rival.step()
    assert values(opt) == values(twin)
    assert getattr(sched, "last_epoch", None) == getattr(rival, "last_epoch", None)
    for ours, theirs in zip(opt.param_groups, twin.param_groups, strict=True):
        assert torch.equal(ours["params"][0], theirs["params"][0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_step_never_waits(name, backend):
    opt, sched = build(name, backend)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            sched.step()
        opt.param_groups[0]["lr"].mul_(0.5)
        sched.step()
        rates = sched.get_last_lr()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [x.dtype for x in rates] == [F32] * len(LRS) and [x.item() for x in rates] == values(opt)
