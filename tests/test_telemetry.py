# SPDX-License-Identifier: Apache-2.0
"""Telemetry has one row for each step that updated or skipped something, with the numbers that it used."""

import copy
import math
import pickle
import re
from pathlib import Path

import pytest
import torch
from cases import VISIBLE
from compiling import INDUCTOR, QUIET
from scripting import give_gradients, parameters

import fusedsched as fs
from fusedsched import lr_scheduler as L, schedules as S

pytestmark = QUIET

RATE = S.warmup_cosine(peak=0.1, warmup_steps=3, total_steps=9)
MOMENTUM = S.linear(0.5, 0.9, steps=5)
DECAY = S.cosine(0.5, 0.1, steps=5)
NORMS = (0.5, torch.tensor(3.0), None, torch.tensor(0.25, dtype=torch.bfloat16), torch.tensor([7.5]).double())
UPDATES = 13
PAGE = Path(__file__).resolve().parents[1] / "docs" / "telemetry.md"


def scene(make, name):
    """Two groups: one of schedules, one of numbers."""
    params = parameters((5, 3), 17, 4)
    varying = dict(betas=(MOMENTUM, 0.7)) if name != "SGD" else dict(momentum=MOMENTUM)
    groups = [{"params": params[:2], "lr": RATE, "weight_decay": DECAY}, {"params": params[2:]}]
    return params, make(name, groups, **{**VISIBLE[name], **varying})


def expected(name, update, edits):
    """The numbers of a row by a loop on the host. `edits`: how often the second group's rate was halved."""
    row = dict(lr=[RATE(update), 0.1 * 0.5**edits], weight_decay=[DECAY(update), 0.5])
    if name == "SGD":
        return row | dict(momentum=[MOMENTUM(update)] * 2)
    return row | dict(beta1=[MOMENTUM(update)] * 2, beta2=[0.7] * 2)


def run(make, name, steps=range(UPDATES), skipped=(), step=None, length=100):
    """Steps with norms, edits and updates that are skipped; the telemetry and what it should be."""
    params, optimizer = scene(make, name)
    optimizer.enable_telemetry(length)
    if skipped:
        optimizer.found_inf, optimizer.grad_scale = torch.zeros(()), None
    take = optimizer.step if step is None else step(optimizer)
    rows, update, edits = [], 0, 0
    for i in steps:
        if i % 4 == 3:
            optimizer.param_groups[1]["lr"] *= 0.5
            edits += 1
        norm = NORMS[i % len(NORMS)]
        if norm is not None:
            optimizer.log_grad_norm(norm)
        if skipped:
            optimizer.found_inf.fill_(float(i in skipped))
        give_gradients(params, i)
        take()
        norm = math.nan if norm is None else float(norm)
        rows.append(dict(update=update, skipped=i in skipped, grad_norm=norm, **expected(name, update, edits)))
        update += i not in skipped
    return optimizer, rows


def check(telemetry, rows):
    assert len(telemetry) == len(rows)
    for name in rows[0]:
        column = getattr(telemetry, name)
        assert column.device.type == "cpu"
        theirs = torch.tensor([row[name] for row in rows], dtype=column.dtype)
        assert torch.allclose(column, theirs, rtol=1e-15, atol=0.0, equal_nan=True), name
    assert set(telemetry.columns) == set(rows[0])


@pytest.mark.parametrize("name", VISIBLE)
def test_rows_are_what_the_updates_used(name, product):
    optimizer, rows = run(product, name)
    check(optimizer.telemetry(), rows)
    check(optimizer.telemetry(last=4), rows[-4:])
    assert len(optimizer.telemetry(last=0)) == 0


@pytest.mark.parametrize("length", (1, 5, UPDATES))
def test_the_last_ones_are_kept(length, product):
    optimizer, rows = run(product, "AdamW", length=length)
    check(optimizer.telemetry(), rows[-length:])
    check(optimizer.telemetry(last=100), rows[-length:])


@pytest.mark.parametrize("name", ("AdamW", "SGD"))
def test_skipped_steps_have_rows(name, product):
    optimizer, rows = run(product, name, skipped=(0, 4, 5, 11))
    check(optimizer.telemetry(), rows)
    assert optimizer.skipped_steps == 4


@pytest.mark.parametrize("skipped", ((), (2, 3)), ids=("all applied", "some skipped"))
def test_of_several_plans_one_keeps_it(skipped):
    """A parameter that is listed twice is the reference's."""

    def twice(name, groups, **options):
        groups[1]["params"] = [*groups[1]["params"], groups[1]["params"][0]]
        with pytest.warns(UserWarning, match="duplicate"):
            return fs.AdamW(groups, **options)

    optimizer, rows = run(twice, "AdamW", skipped=skipped)
    assert optimizer.backend in ("cpu+reference", "reference")
    check(optimizer.telemetry(), rows)


@pytest.mark.parametrize("backend", ("eager", "aot_eager"))
def test_compiled_steps_have_rows(backend, product):
    torch._dynamo.reset()
    optimizer, rows = run(product, "AdamW", step=lambda o: torch.compile(o.step, fullgraph=True, backend=backend))
    check(optimizer.telemetry(), rows)


@pytest.mark.parametrize("backend", ("eager", "aot_eager", INDUCTOR))
def test_a_norm_is_logged_in_the_graph(backend, product):
    torch._dynamo.reset()
    params, optimizer = scene(product, "AdamW")
    optimizer.enable_telemetry()

    @torch.compile(fullgraph=True, backend=backend)
    def step():
        optimizer.log_grad_norm(torch.nn.utils.get_total_norm([p.grad for p in params]))
        optimizer.step()

    norms = []
    for i in range(4):
        give_gradients(params, i)
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in params])))
        step()
    assert optimizer.telemetry().grad_norm.tolist() == pytest.approx(norms, rel=1e-6)


def test_a_drop_in_scheduler(product):
    params = parameters(3, 4)
    optimizer = product("AdamW", params, lr=torch.tensor(0.1))
    theirs = torch.optim.AdamW(parameters(1), lr=0.1)
    pair = [L.CosineAnnealingLR(optimizer, 6), torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 6)]
    optimizer.enable_telemetry()
    rates = []
    for i in range(8):
        rates.append(pair[1].get_last_lr()[0])
        give_gradients(params, i)
        optimizer.step()
        theirs.step()
        for scheduler in pair:
            scheduler.step()
    assert optimizer.telemetry().lr.flatten().tolist() == pytest.approx(rates, rel=1e-6)


def test_differentiable_steps_have_rows():
    p, start = torch.ones(3), torch.ones(3, requires_grad=True)
    optimizer = fs.SGD([p], lr=RATE, differentiable=True)
    optimizer.enable_telemetry()
    for _ in range(3):
        p.grad = start * 2
        optimizer.step()
    assert optimizer.telemetry().lr.flatten().tolist() == [RATE(update) for update in range(3)]
    assert optimizer.telemetry().update.tolist() == [0, 1, 2]


def test_a_step_without_gradients_has_no_row(product):
    params, optimizer = scene(product, "AdamW")
    optimizer.enable_telemetry()
    optimizer.step()
    assert len(optimizer.telemetry()) == 0 and repr(optimizer.telemetry()) == "Telemetry of no step"


def test_new_groups_have_nan_before_they_were_there(product):
    optimizer, rows = run(product, "AdamW", range(3))
    optimizer.add_param_group({"params": (new := parameters(2)), "lr": 0.7})
    give_gradients(new)
    optimizer.step()
    lr = optimizer.telemetry().lr
    assert lr.shape == (4, 3) and lr[:, 2].isnan().tolist() == [True] * 3 + [False] and float(lr[3, 2]) == 0.7
    assert torch.equal(lr[:3, 0], torch.tensor([row["lr"][0] for row in rows], dtype=torch.float64))


def test_plans_come_and_go_and_copies_start_without(product):
    optimizer, rows = run(product, "AdamW", range(3))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    check(optimizer.telemetry(), rows)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        with pytest.raises(RuntimeError, match="enable_telemetry"):
            twin.telemetry()
    assert "telemetry" not in str(optimizer.state_dict().keys())
    optimizer.disable_telemetry()
    give_gradients([p for group in optimizer.param_groups for p in group["params"]])
    optimizer.step()
    for call in (optimizer.telemetry, lambda: optimizer.log_grad_norm(1.0)):
        with pytest.raises(RuntimeError, match="enable_telemetry"):
            call()
    optimizer.enable_telemetry()
    assert len(optimizer.telemetry()) == 0


def test_the_update_is_the_same_with_and_without(product):
    results = []
    for on in (True, False):
        params, optimizer = scene(product, "SGD")
        if on:
            optimizer.enable_telemetry(2)
        for i in range(4):
            give_gradients(params, i)
            optimizer.step()
        results.append([p.detach() for p in params])
    assert all(map(torch.equal, *results))


def test_rows_for_loggers(product):
    optimizer, _ = run(product, "SGD", range(6))
    row = optimizer.telemetry().rows()[4]
    assert row["update"] == 4 and row["lr/0"] == RATE(4) and row["lr/1"] == 0.05 and row["skipped"] is False
    lines = repr(optimizer.telemetry()).splitlines()
    assert lines[0] == "Telemetry of 6 steps, the last 5" and len(lines) == 7


@pytest.mark.skipif(not PAGE.exists(), reason="needs the source tree")
def test_the_example_of_the_page_runs():
    names = {}
    exec("".join(re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)), names)
    assert len(names["seen"]) == 50 and not names["seen"].grad_norm.isnan().any()


REFUSED = {
    "length 0": (ValueError, "length=0", lambda o: o.enable_telemetry(0)),
    "length True": (ValueError, "length=True", lambda o: o.enable_telemetry(True)),
    "length 2.5": (ValueError, "length=2.5", lambda o: o.enable_telemetry(2.5)),
    "last -1": (ValueError, "last=-1", lambda o: o.telemetry(-1)),
    "norm of two": (ValueError, "one element", lambda o: o.log_grad_norm(torch.ones(2))),
    "norm of integers": (ValueError, "floating point", lambda o: o.log_grad_norm(torch.tensor(1))),
    "norm in words": (TypeError, "number or a tensor", lambda o: o.log_grad_norm("1.0")),
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_is_refused(row, product):
    error, words, call = REFUSED[row]
    optimizer, rows = run(product, "AdamW", range(3))
    with pytest.raises(error, match=words):
        call(optimizer)
    check(optimizer.telemetry(), rows)


MUTANTS = {
    "another rate": lambda rows: rows[5]["lr"].__setitem__(0, rows[5]["lr"][0] * (1 + 1e-12)),
    "a row too few": lambda rows: rows.pop(),
    "a norm that stays": lambda rows: rows[2].update(grad_norm=3.0),
    "not skipped": lambda rows: rows[4].update(skipped=False),
    "skipped steps count": lambda rows: [row.update(update=i) for i, row in enumerate(rows)],
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_property_can_fail(mutant, product):
    optimizer, rows = run(product, "AdamW", skipped=(0, 4))
    MUTANTS[mutant](rows)
    with pytest.raises(AssertionError):
        check(optimizer.telemetry(), rows)
