# SPDX-License-Identifier: Apache-2.0
"""Compiled steps among other operations: in a training step, in subclasses, between breaks; and the ops alone."""

import copy
import warnings

import pytest
import torch
from cases_compile import OPTIMIZERS, SCHEDULERS
from compared import equal
from compiling import COMPILER, INDUCTOR, QUIET, STEPS, compare, give_gradients, parameters
from torch._dynamo.utils import counters

import fusedsched as fs
from fusedsched import lr_scheduler as L, schedules
from fusedsched.lr_scheduler import traced
from fusedsched.optim import compiled as _compiled

pytestmark = QUIET
pause = torch._dynamo.graph_break


def reads_and_writes_around(optimizer, scheduler, params):
    with torch.no_grad():
        before = params[0] * 2
        optimizer.step()
        scheduler.step()
        params[0].add_(before * 0.01 + params[0] * 0.02)
        optimizer.step()
        params[1].mul_(0.5)


@pytest.mark.parametrize(
    ("backend", "lr"),
    [("aot_eager", 1e-2), ("aot_eager", torch.tensor(1e-2)), pytest.param("inductor", 1e-2, marks=COMPILER)],
)
def test_steps_keep_their_place_among_other_operations(backend, lr):
    def build(params):
        o = fs.AdamW(params, lr=copy.deepcopy(lr))
        return o, L.ExponentialLR(o, 0.5)

    compare(build, backend, body=reads_and_writes_around)


def test_a_tensor_rate_is_read_and_written_in_the_graph():
    def body(optimizer, scheduler, params):
        with torch.no_grad():
            lr, before = params[0].lr, params[0].lr * 1
            optimizer.step()
            scheduler.step()
            params[0].add_(lr * 0.5 + before)
            lr.mul_(0.9)

    def build(params):
        params[0].lr = torch.tensor(0.1)
        o = fs.AdamW(params, lr=params[0].lr)
        return o, L.ExponentialLR(o, 0.5)

    compare(build, body=body)


@pytest.mark.parametrize("which", [0, 3], ids=["shared storage", "own storage"])
def test_state_is_written_and_read_around_the_step(which):
    def body(optimizer, scheduler, params):
        with torch.no_grad():
            params[0].moment.mul_(0.5)
            optimizer.step()
            params[which].add_(params[0].moment)

    def build(params):
        o = fs.AdamW(params)
        give_gradients(params, 100)
        o.step()
        params[0].moment = o.state[params[which]]["exp_avg"]
        return o, None

    compare(build, body=body)


@pytest.mark.parametrize("name", ["AdamW", "SGD momentum"])
def test_a_parameter_listed_twice_is_updated_twice(name):
    def build(params):
        with pytest.warns(UserWarning, match="duplicate"):
            return OPTIMIZERS[name]([*params, params[0]]), None

    compare(build, graphs=2)  # the reference's momentum buffer exists after the first step


@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad_in_the_graph(to_none):
    def body(optimizer, scheduler, params):
        optimizer.step()
        optimizer.zero_grad(to_none)

    compare(lambda params: (fs.AdamW(params), None), body=body)


class Counting(fs.SGD):
    def step(self, closure=None):
        with torch.no_grad():
            self.count.add_(1)
        return super().step(closure)


class CountingLR(L.ExponentialLR):
    def step(self, epoch=None):
        with torch.no_grad():
            self.optimizer.count.add_(1)
        super().step(epoch)


@pytest.mark.parametrize("pair", [(Counting, lambda o, gamma: None), (fs.SGD, CountingLR)])
def test_steps_of_subclasses_run_once(pair):
    def build(params):
        o = pair[0](params, lr=0.1)
        o.count = torch.zeros(())
        s = pair[1](o, 0.5)
        counts.append(o.count.zero_())
        return o, s

    counts = []
    compare(build, "eager")  # which adds when it comes to that; others put one sum in place at the end
    assert counts == [STEPS, STEPS]


def train(optimizer_class, compiled, backend):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    optimizer = optimizer_class(model.parameters(), lr=1e-2)
    scheduler = L.CosineAnnealingLR(optimizer, 20)

    def one(x):
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        return loss.detach()

    one = torch.compile(one, fullgraph=True, backend=backend) if compiled else one
    for _ in range(STEPS):
        one(torch.randn(6, 4))
    return [p.detach().clone() for p in model.parameters()], scheduler.get_last_lr()


@pytest.mark.skipif(not hasattr(torch._dynamo.config, "trace_autograd_ops"), reason="this torch cannot trace backward")
@pytest.mark.parametrize("optimizer", [fs.AdamW, fs.SGD])
def test_forward_backward_step_in_one_graph(optimizer):
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        assert equal(train(optimizer, False, None), train(optimizer, True, "aot_eager"))
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_schedulers_of_torch_optimizers_are_one_graph(name):
    def body(optimizer, scheduler, params):
        scheduler.step()

    def build(params):
        o = getattr(torch.optim, name)(params, lr=torch.tensor(0.1))
        return o, L.CosineAnnealingLR(o, 8)

    compare(build, body=body, between=lambda i, params, optimizer: optimizer.step())


def test_get_last_lr_is_read_after_the_step():
    params = parameters()
    optimizer = fs.AdamW(params, lr=1.0)
    scheduler = L.ExponentialLR(optimizer, 0.5)

    @torch.compile(backend="aot_eager")
    def one():
        scheduler.step()
        return [2 * lr for lr in scheduler.get_last_lr()]

    optimizer.step()
    assert [one() for _ in range(3)] == [[1.0], [0.5], [0.25]]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("pattern", ["1111", "0101"])
def test_opcheck(optimizer, pattern):
    params = parameters()
    o = OPTIMIZERS[optimizer](params)
    give_gradients(params, 0, pattern)
    _compiled._open(o._runtime.compiled.handle)
    _compiled._prepare(o._runtime.compiled.handle, pattern)
    buffers, grads = o._runtime.compiled.buffers[pattern], [p.grad for p in params]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.library.opcheck(torch.ops.fusedsched.step.default, (o._runtime.compiled.handle, params, grads, buffers))


RATES = ("number", "tensor", "tensor, torch's")


@pytest.mark.parametrize(
    ("name", "rates"), [(name, RATES[i % 3]) for i, name in enumerate(SCHEDULERS) if name != "none"]
)
def test_opcheck_of_schedulers(name, rates):
    kind = torch.optim.SGD if rates == "tensor, torch's" else fs.SGD
    o = kind(parameters(), lr=0.1 if rates == "number" else torch.tensor(0.1))
    scheduler = SCHEDULERS[name](o)
    o.step()
    traced._prepare(scheduler._compile_handle.handle)
    metric = torch.tensor(1.0) if "lateau" in name or name == "GreedyLR" else None
    arguments = scheduler._compile_handle.handle, scheduler._compile_handle.buffers["written"], None, metric
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.library.opcheck(torch.ops.fusedsched.schedule.default, arguments)


def test_opcheck_of_clocks():
    o = fs.SGD(parameters(), lr=schedules.linear(0.1, 0.0, steps=1000, unit="token"))
    _compiled._open(o._runtime.compiled.handle)
    for numbers in ((2, 3, None, None), (0, 0, torch.tensor(2), torch.tensor(3))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.library.opcheck(
                torch.ops.fusedsched.advance.default, (o._runtime.compiled.handle, *numbers, o._runtime.compiled.clocks)
            )


@pytest.mark.parametrize("backend", ["eager", INDUCTOR])
def test_the_op_gets_the_tensors_themselves(backend, monkeypatch):
    seen = []

    def watching(own, handed):
        seen.append(all(a.data_ptr() == b.data_ptr() for a, b in zip(own, handed, strict=True)))
        return in_place_of(own, handed)

    in_place_of = _compiled.in_place_of
    monkeypatch.setattr(_compiled, "in_place_of", watching)
    compare(lambda params: (fs.AdamW(params), None), backend)
    assert seen == [True] * STEPS


def test_a_scheduler_step_after_a_break_is_a_graph():
    params = parameters()
    optimizer = fs.AdamW(params)
    scheduler = L.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    torch._dynamo.reset()
    counters.clear()

    @torch.compile(backend="aot_eager")
    def one():
        pause()  # not by torch's name: Dynamo passes by frames that do not name it
        scheduler.step()

    for _ in range(3):
        one()
    assert counters["stats"]["unique_graphs"] == 1 and scheduler.last_epoch == 3
