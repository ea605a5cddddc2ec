# SPDX-License-Identifier: Apache-2.0
"""A schedule that is set while a model trains acts at the next step, eager, compiled or replayed, and nothing is built
anew."""

import warnings

import pytest
import torch
from cases import VISIBLE, maker
from compiling import QUIET
from scripting import give_gradients, parameters
from test_capture import SCHEDULERS, both, emulated, fill, scene
from torch._dynamo.utils import counters

from fusedsched import schedules as S
from fusedsched.optim.runtime import Runtime

pytestmark = QUIET

OLD = S.warmup_cosine(peak=0.1, warmup_steps=3, total_steps=9)
NEW = S.linear(0.2, 0.01, steps=12)
BETA = S.linear(0.3, 0.9, steps=12)


def read(group, name):
    return float(group["betas"][int(name[-1]) - 1] if name.startswith("beta") else group[name])


# What is set after three updates, after what: (slot, what was there, what comes).
CHANGES = {
    "another schedule": ("lr", OLD, NEW),
    "a number becomes one": ("lr", 0.1, NEW),
    "a longer one": ("lr", S.linear(0.1, 0.0, steps=2), S.from_function(lambda t: 0.1 / (t + 1), steps=40)),
    "the same one": ("lr", OLD, OLD),
    "by tokens": ("lr", OLD, S.linear(0.2, 0.0, steps=1000, unit="token")),
    "from tokens": ("lr", S.linear(0.2, 0.0, steps=1000, unit="token"), NEW),
    "weight decay": ("weight_decay", 0.5, S.cosine(0.5, 0.1, steps=9)),
    "beta1": ("beta1", 0.6, BETA),
    "beta2": ("beta2", BETA, S.linear(0.5, 0.6, steps=4)),
    "a tensor becomes one": ("lr", torch.tensor(0.1, dtype=torch.float64), NEW),
}


def build(make, slot, value, name="AdamW"):
    params = parameters((5, 3), 17, 4)
    options = {**VISIBLE[name]}
    if slot.startswith("beta"):
        options["betas"] = (value, 0.7) if slot == "beta1" else (0.6, value)
    else:
        options[slot] = value.clone() if isinstance(value, torch.Tensor) else value
    optimizer = make(name, [{"params": params[:2]}, {"params": params[2:]}], **options)
    for p in params:
        p.grad = torch.zeros_like(p)
    return params, optimizer


def at(value, update, tokens):
    if not isinstance(value, S.Schedule):
        return float(value)
    return value(tokens if value.unit == "token" else update)


def run(make, change, group=None, wrap=lambda step: step, edit=None, updates=8):
    """Trains with the change after three updates; each update is compared with the numbers written in by hand."""
    slot, old, new = CHANGES[change]
    (params, optimizer), (others, other) = build(make, slot, old), build(make, slot, at(old, 0, 0))
    step = None
    for update in range(updates):
        tokens = 10 * update
        if update == 2 and edit is not None:
            edit(optimizer)
        if update == 3:
            optimizer.set_schedule(slot, new, group)
        for g, target in enumerate(other.param_groups):
            changed = update >= 3 and group in (None, g)
            value = 0.05 if update == 2 and edit is not None and g == 1 else at(new if changed else old, update, tokens)
            write(target, slot, value)
        for ps in (params, others):
            fill(ps, update)
        if update == 1:
            step = wrap(optimizer.step)
        (step or optimizer.step)()
        other.step()
        for o in (optimizer, other):
            o.advance(tokens=10)
        assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True)), f"update {update}"
    return optimizer


def write(group, slot, value):
    if slot.startswith("beta"):
        group["betas"] = (value, group["betas"][1]) if slot == "beta1" else (group["betas"][0], value)
    else:
        group[slot] = value


@pytest.mark.parametrize("change", CHANGES)
def test_eager_steps_follow_on_the_same_plan(change, product):
    plans = []

    def wrap(step):
        plans.append(step.__self__._runtime.plan)
        return step

    optimizer = run(product, change, wrap=wrap)
    assert optimizer._runtime.plan is plans[0]


@pytest.mark.parametrize("group", (0, 1, -1))
def test_one_group_alone(group, product):
    run(product, "another schedule", group % 2)
    params, optimizer = build(product, "lr", OLD)
    optimizer.set_schedule("lr", NEW, group)
    assert [read(g, "lr") for g in optimizer.param_groups] == [(NEW if g == group % 2 else OLD)(0) for g in range(2)]


def test_one_for_each_group(product):
    _, optimizer = build(product, "lr", OLD)
    optimizer.set_schedule("lr", [NEW, S.constant(0.3)])
    assert [read(g, "lr") for g in optimizer.param_groups] == [NEW(0), 0.3]


def test_one_that_has_ended_is_replaced(product):
    params, optimizer = build(product, "lr", S.from_function(lambda update: 0.1, steps=2))
    for update in range(2):
        fill(params, update)
        optimizer.step()
    with pytest.raises(RuntimeError, match="ends at step 1"):
        optimizer.step()
    optimizer.set_schedule("lr", NEW)
    optimizer.step()
    assert float(optimizer.param_groups[0]["lr"]) == NEW(3)


EDITS = {
    "replaced": lambda optimizer: optimizer.param_groups[1].update(lr=0.05),
    "in place": lambda optimizer: optimizer.param_groups[1]["lr"].fill_(0.05),
}


@pytest.mark.parametrize("edit", EDITS)
def test_it_resumes_after_an_edit(edit, product):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(product, "another schedule", edit=EDITS[edit])


def test_the_tensor_that_shows_it_stays(product):
    params, optimizer = build(product, "lr", OLD)
    shown = optimizer.param_groups[0]["lr"]
    give_gradients(params)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.set_schedule("lr", NEW)
    assert optimizer.param_groups[0]["lr"] is shown and float(shown) == NEW(1)


@pytest.mark.parametrize("backend", ("eager", "aot_eager"))
@pytest.mark.parametrize("change", ("another schedule", "a number becomes one", "by tokens", "beta1"))
def test_compiled_steps_follow_without_another_graph(change, backend, product):
    torch._dynamo.reset()
    counters.clear()
    run(product, change, wrap=lambda step: torch.compile(step, fullgraph=True, backend=backend))
    assert counters["stats"]["unique_graphs"] == 1


SCHEDULED_RATES = [change for change, (slot, old, _) in CHANGES.items() if slot == "lr" and isinstance(old, S.Schedule)]
REPLAYED = [(change, None) for change in CHANGES] + [(change, edit) for change in SCHEDULED_RATES for edit in EDITS]


@pytest.mark.parametrize("change, edit", REPLAYED)
def test_replays_follow(change, edit):
    def wrap(step):
        graph = emulated().record(step)
        return lambda: emulated().replay(graph)

    def then(optimizer):
        EDITS[edit](optimizer)
        optimizer.sync_hparams()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(maker("cuda"), change, wrap=wrap, edit=None if edit is None else then)


@pytest.mark.parametrize("name, slot", [("SGD", "momentum"), ("SGD", "weight_decay"), ("Adam", "weight_decay")])
def test_another_rule_is_never_silent(name, slot):
    """Momentum that was off has no buffer in the graph: it says so, and eager steps have it."""
    params = parameters((5, 3), 4)
    optimizer = maker("cuda")(name, params, lr=0.1)
    for p in params:
        p.grad = torch.zeros_like(p)
    fill(params, 0)
    optimizer.step()
    graph = emulated().record(optimizer.step)
    with pytest.warns(UserWarning, match="capture again"):
        optimizer.set_schedule(slot, S.constant(0.5))
    fill(params, 1)
    emulated().replay(graph)  # as it was
    fill(params, 2)
    optimizer.step()
    again = emulated().record(optimizer.step)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.set_schedule(slot, S.constant(0.25))
    fill(params, 3)
    emulated().replay(again)
    assert optimizer._runtime.clocks.read()[0] == 4


def test_what_follows_a_scheduler_inside_a_graph_is_refused():
    params, optimizer, scheduler = scene("AdamW", SCHEDULERS["StepLR"])
    graph = emulated().record(both(optimizer, scheduler))
    with pytest.raises(RuntimeError, match="follows a scheduler"):
        optimizer.set_schedule("lr", NEW)
    optimizer.set_schedule("weight_decay", S.constant(0.25))
    fill(params, 3)
    emulated().replay(graph)
    assert scheduler.last_epoch == 4 and optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


REFUSED = {
    "unknown name": (ValueError, "cannot be scheduled", lambda o: o.set_schedule("gamma", NEW)),
    "a number": (TypeError, "takes a schedule", lambda o: o.set_schedule("lr", 0.5)),
    "a number among them": (TypeError, "takes a schedule", lambda o: o.set_schedule("lr", [NEW, 0.5])),
    "three for two groups": (ValueError, "3 schedules for 2 groups", lambda o: o.set_schedule("lr", [NEW] * 3)),
    "a list for one group": (ValueError, "2 schedules for group=0", lambda o: o.set_schedule("lr", [NEW] * 2, 0)),
    "group 2": (IndexError, "has 2 groups", lambda o: o.set_schedule("lr", NEW, 2)),
    "group -3": (IndexError, "has 2 groups", lambda o: o.set_schedule("lr", NEW, -3)),
    "group True": (TypeError, "group=True", lambda o: o.set_schedule("lr", NEW, True)),
    "group 0.0": (TypeError, "index of a group", lambda o: o.set_schedule("lr", NEW, 0.0)),
    "beta of one": (ValueError, "below 1", lambda o: o.set_schedule("beta1", S.constant(1.0))),
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_is_refused_changes_nothing(row, product):
    error, words, call = REFUSED[row]
    params, optimizer = build(product, "lr", OLD)
    fill(params, 0)
    optimizer.step()
    before, plan = [dict(g) for g in optimizer.param_groups], optimizer._runtime.plan
    with pytest.raises(error, match=words):
        call(optimizer)
    assert optimizer.param_groups == before and optimizer._runtime.plan is plan


def test_it_is_refused_in_a_capture():
    params, optimizer, _ = scene("AdamW")
    with pytest.raises(RuntimeError, match="before or after the capture"):
        emulated().record(lambda: optimizer.set_schedule("lr", NEW))


@pytest.mark.parametrize("left_out", (0, 1))
def test_the_property_can_fail(left_out, product, monkeypatch):
    """Mutant: one group goes on with the old schedule."""
    put = Runtime.put_schedules

    def mutant(self, hyper, all):
        put(self, hyper, {1 - left_out: all[left_out]})

    monkeypatch.setattr(Runtime, "put_schedules", mutant)
    with pytest.raises(AssertionError):
        run(product, "another schedule")
