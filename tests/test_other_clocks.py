# SPDX-License-Identifier: Apache-2.0
"""Schedules on samples and tokens: clocks that users advance, by numbers and by tensors on the device."""

import pytest
import torch
from cases import VISIBLE, maker
from compiling import INDUCTOR, QUIET
from scripting import give_gradients, parameters
from test_capture import emulated, fill
from torch._dynamo.utils import counters

from fusedsched import schedules as S

pytestmark = QUIET

TOKENS = S.linear(0.2, 0.0, steps=1000, unit="token")
SAMPLES = S.cosine(0.5, 0.1, steps=100, unit="sample")
BATCHES = (3, 120, 0, 77, 2**33 - 200, 5)


def build(make, name="AdamW"):
    params = parameters((5, 3), 4)
    optimizer = make(name, params, **{**VISIBLE[name], "lr": TOKENS, "weight_decay": SAMPLES})
    for p in params:
        p.grad = torch.zeros_like(p)
    return params, optimizer


def assert_at(optimizer, tokens, samples):
    group = optimizer.param_groups[0]
    assert (float(group["lr"]), float(group["weight_decay"])) == (TOKENS(tokens), SAMPLES(samples))
    assert optimizer._runtime.clocks.read()[1:3] == [samples, tokens]


KINDS = {
    "int": int,
    "int64": lambda n: torch.tensor(n),
    "int32, one element": lambda n: torch.tensor([min(n, 2**31 - 1)], dtype=torch.int32),
    "int16": lambda n: torch.tensor(min(n, 999), dtype=torch.int16),
    "uint8": lambda n: torch.tensor(min(n, 255), dtype=torch.uint8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_clocks_advance_by(kind, product):
    params, optimizer = build(product)
    tokens = samples = 0
    for update, n in enumerate(BATCHES):
        optimizer.advance(tokens=KINDS[kind](n), samples=KINDS[kind](update))
        tokens, samples = tokens + int(KINDS[kind](n)), samples + update
        assert_at(optimizer, tokens, samples)
        fill(params, update)
        before = params[1].detach().clone()
        optimizer.step()
        assert (TOKENS(tokens) != 0.0) == (not torch.equal(before, params[1]))
    assert optimizer._runtime.clocks.read()[0] == len(BATCHES)


def test_before_anything_is_scheduled(product):
    params = parameters(4)
    optimizer = product("SGD", params, lr=0.1)
    optimizer.advance(tokens=torch.tensor(250), samples=4)
    optimizer.set_schedule("lr", TOKENS)
    assert float(optimizer.param_groups[0]["lr"]) == TOKENS(250) and optimizer._runtime.clocks.read() == [0, 4, 250, 0]


def test_each_replay_advances_by_what_the_tensor_holds():
    params, optimizer = build(maker("cuda"))
    fill(params, 0)
    optimizer.step()
    batch = torch.tensor(0)

    def call():
        optimizer.advance(tokens=batch, samples=2)
        optimizer.step()

    graph = emulated().record(call)
    assert_at(optimizer, 0, 0)
    tokens = 0
    for update, n in enumerate(BATCHES[:4], 1):
        batch.fill_(n)
        fill(params, update)
        emulated().replay(graph)
        tokens += n
        assert_at(optimizer, tokens, 2 * update)


@pytest.mark.parametrize("backend", ("eager", "aot_eager", INDUCTOR))
def test_compiled(backend, product):
    torch._dynamo.reset()
    counters.clear()
    params, optimizer = build(product)

    @torch.compile(fullgraph=True, backend=backend)
    def step(batch):
        optimizer.advance(tokens=(batch > 0).sum(), samples=4)
        optimizer.step()
        return optimizer

    tokens = 0
    for update in range(5):
        batch = torch.arange(30) - 10 * update
        tokens += int((batch > 0).sum())
        give_gradients(params, update)
        step(batch)
        assert_at(optimizer, tokens, 4 * (update + 1))
    assert counters["stats"]["unique_graphs"] == 1


CALLS = {
    "step": lambda o: o.step(),
    "advance": lambda o: o.advance(tokens=1),
    "state_dict": lambda o: o.state_dict(),
    "telemetry": lambda o: o.telemetry(),
    "skipped_steps": lambda o: o.skipped_steps,
    "sync_hparams": lambda o: o.sync_hparams(),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("unit", ("tokens", "samples"))
def test_a_negative_number_on_the_device_holds_the_clock_and_is_named_later(unit, call):
    params, optimizer = build(maker("cuda"))
    optimizer.enable_telemetry()
    optimizer.advance(tokens=10, samples=10)
    fill(params, 0)
    optimizer.step()
    before = [p.detach().clone() for p in params]
    optimizer.advance(**{unit: torch.tensor(-5)})
    assert_at(optimizer, 10, 10)
    with pytest.raises(ValueError, match=f"negative number of {unit}"):
        CALLS[call](optimizer)
    assert all(map(torch.equal, params, before))
    CALLS[call](optimizer)  # said once, nothing lost
    optimizer.advance(**{unit: torch.tensor(5)})
    tokens = 10 + 5 * (unit == "tokens") + (call == "advance")
    assert optimizer._runtime.clocks.read()[1:3] == [10 + 5 * (unit == "samples"), tokens]


REFUSED = {
    "negative": (ValueError, "tokens=-1", dict(tokens=-1)),
    "negative samples": (ValueError, "samples=-3", dict(tokens=3, samples=-3)),
    "a float": (TypeError, "tokens=2.0", dict(tokens=2.0)),
    "a flag": (TypeError, "samples=True", dict(samples=True)),
    "None": (TypeError, "samples=None", dict(samples=None)),
    "a tensor of floats": (TypeError, "float32", dict(tokens=torch.ones(()))),
    "a tensor of flags": (TypeError, "bool", dict(tokens=torch.ones((), dtype=torch.bool))),
    "several": (ValueError, "3 elements. Pass their sum", dict(tokens=torch.ones(3, dtype=torch.int64))),
    "none": (ValueError, "0 elements", dict(samples=torch.ones(0, dtype=torch.int64))),
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_is_refused_changes_nothing(row, product):
    error, words, arguments = REFUSED[row]
    _, optimizer = build(product)
    with pytest.raises(error, match=words):
        optimizer.advance(**arguments)
    assert_at(optimizer, 0, 0)


@pytest.mark.parametrize("backend", ("cpu", "reference"))
def test_a_negative_tensor_that_the_host_can_see_is_refused_at_once(backend):
    _, optimizer = build(maker(backend))
    with pytest.raises(ValueError, match="tokens=-2"):
        optimizer.advance(samples=4, tokens=torch.tensor(-2))
    assert_at(optimizer, 0, 0)


def test_a_tensor_that_a_graph_could_not_read_again_is_refused(monkeypatch):
    _, optimizer = build(maker("cpu"))
    monkeypatch.setattr(optimizer._runtime, "capturing", lambda: True)  # of parameters elsewhere, which nobody has here
    optimizer.advance(tokens=3)  # a number is one on purpose
    with pytest.raises(RuntimeError, match="each replay would repeat"):
        optimizer.advance(tokens=torch.tensor(3))
    assert_at(optimizer, 3, 0)


def test_the_property_can_fail(product):
    """Mutant: tokens go to the clock of samples."""
    _, optimizer = build(product)
    optimizer.advance(samples=100)
    with pytest.raises(AssertionError):
        assert_at(optimizer, 100, 0)
