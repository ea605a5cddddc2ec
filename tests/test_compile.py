# SPDX-License-Identifier: Apache-2.0
"""A compiled step is the eager one. One graph, no break, nothing compiled twice, whatever happens to the rates.

"aot_eager" stands for a backend that leaves the functionalized graph as it is and hands copies; "inductor" puts the
mutations back in place, and needs a C++ compiler.
"""

import pytest
import torch
from cases import BACKENDS
from cases_compile import OPTIMIZERS, SCHEDULERS
from compiling import INDUCTOR, QUIET, STEPS, compare, parameters
from tiers import full
from torch._dynamo.utils import counters

import fusedsched as fs
from fusedsched import lr_scheduler as L, schedules as S

pytestmark = QUIET
SHORT, LONG = 200, 1000


def edit_rate(i, params, optimizer):
    if i in (3, 4, 9) or i % 200 == 150:
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * 0.5


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(("optimizer", "steps"), [("AdamW", SHORT), full("AdamW", LONG), ("SGD momentum", STEPS)])
def test_any_scheduler_is_one_graph(optimizer, steps, scheduler):
    """A backend that keeps the graph as Dynamo found it shows what is compiled again, in a tenth of the time."""

    def build(params):
        o = OPTIMIZERS[optimizer](params)
        return o, SCHEDULERS[scheduler](o)

    compare(build, "aot_eager" if steps == STEPS else "eager", steps, between=edit_rate)


@pytest.mark.parametrize("scheduler", ["ReduceLROnPlateau", "GreedyLR"])
def test_decisions_on_a_device_are_one_graph(scheduler):
    def build(params):
        o = fs.AdamW(params, lr=1e-2, backend="cuda")
        return o, SCHEDULERS[scheduler](o)

    compare(build, "aot_eager", between=edit_rate)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("backend", ["eager", "aot_eager", INDUCTOR])
def test_any_optimizer_is_one_graph(optimizer, backend):
    def build(params):
        o = OPTIMIZERS[optimizer](params)
        return o, L.CosineAnnealingLR(o, 8)

    compare(build, backend, between=edit_rate)


@pytest.mark.parametrize("scheduler", ["CosineAnnealingLR", "OneCycleLR", "SequentialLR", "none"])
@pytest.mark.parametrize("backend", ["aot_eager", INDUCTOR])
def test_tensor_rates_stay_tensors(scheduler, backend):
    def build(params):
        o = fs.AdamW(params, lr=torch.tensor(0.01))
        return o, SCHEDULERS[scheduler](o)

    compare(build, backend, between=lambda i, p, o: i == 5 and o.param_groups[0]["lr"].mul_(0.5))


@pytest.mark.parametrize("device", BACKENDS)
@pytest.mark.parametrize("backend", ["eager", "aot_eager", INDUCTOR])
def test_native_schedules_are_one_graph(backend, device):
    """And handing the tensors that show them to a graph does not count as an edit, which would warn."""

    def build(params):
        lr = S.warmup_cosine(peak=1e-2, warmup_steps=3, total_steps=900)
        betas = S.linear(0.8, 0.9, steps=5), 0.99
        return fs.AdamW(params, lr=lr, betas=betas, weight_decay=S.cosine(0.1, 0.0, 9), backend=device), None

    compare(build, backend, SHORT if backend == "eager" and device == "cpu" else STEPS)


def test_one_graph_for_each_pattern_of_missing_gradients():
    patterns = ("0000", "1010", "0110", "1111", "1010")
    compare(lambda params: (fs.AdamW(params, lr=1e-2), None), steps=20, graphs=4, patterns=patterns)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("backend", ["eager", INDUCTOR])
def test_complex_parameters_are_stepped_outside_of_the_graph(backend, optimizer):
    """A compiled step of complex parameters is the eager one, and what stands around it stays compiled."""
    results = []
    for compile in (lambda f: f, lambda f: torch.compile(f, backend=backend)):
        torch._dynamo.reset()
        counters.clear()
        params = parameters()
        params[0] = torch.nn.Parameter(torch.complex(params[0].detach(), params[0].detach() + 1))
        o = OPTIMIZERS[optimizer](params)

        @compile
        def one(p=params[1], o=o):
            real = p.detach()
            real.mul_(1.5)
            o.step()
            real.add_(0.25)

        for _ in range(3):
            for p in params:
                p.grad = p.detach() * 0.5
            one()
        results.append([p.detach().clone() for p in params])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert len(counters["graph_break"]) == 1
