# SPDX-License-Identifier: Apache-2.0
"""The range test trains as the loop of the tutorials does, and says what it cannot do."""

import copy
import math
import warnings

import pytest
import torch
from compared import equal
from range_test_models import Net, data, one_thread as one_thread
from tolerances import ROUNDINGS_PER_UPDATE
from torch import nn

import fusedsched as fs
from fusedsched import range_test, schedules as S
from fusedsched.range_test import log, run, stand_in

STEPS = 40


OPTIMIZERS = {
    "AdamW": (torch.optim.AdamW, dict(weight_decay=0.5)),
    "Adam": (torch.optim.Adam, dict(betas=(0.6, 0.7), eps=1e-2)),
    "SGD": (torch.optim.SGD, dict(momentum=0.9, nesterov=True)),
    "RMSprop": (torch.optim.RMSprop, dict()),  # not ours: the rate is written before each step
}


def tutorial(model, loader, make, start, stop, steps, mode):
    """The plain loop: torch's optimizer, the rate set by hand before each step."""
    optimizer, lrs, losses = make(model.parameters()), [], []
    batches = iter(loader)
    for i in range(steps):
        try:
            x, y = next(batches)
        except StopIteration:
            batches = iter(loader)
            x, y = next(batches)
        share = i / (steps - 1)
        lr = start * (stop / start) ** share if mode == "exponential" else start + (stop - start) * share
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        lrs.append(lr)
        losses.append(loss.item())
    return lrs, losses


def worst(ours, theirs):
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def loss_error(found, losses):
    """In roundings of one update that have added up; the loss itself is of size 1."""
    n = len(found.losses)
    limit = n * ROUNDINGS_PER_UPDATE * torch.finfo(torch.float32).eps
    return max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(found.losses, losses[:n], strict=True)) / limit


def both(name, mode="exponential", start=1e-5, stop=0.1):
    kind, options = OPTIMIZERS[name]
    model = Net()
    twin, rng = copy.deepcopy(model), torch.get_rng_state()
    optimizer = kind(model.parameters(), **options)
    found = range_test.lr_range_test(
        model, data(), nn.functional.cross_entropy, optimizer, start=start, stop=stop, steps=STEPS, mode=mode
    )
    torch.set_rng_state(rng)
    return found, tutorial(twin, data(), lambda params: kind(params, **options), start, stop, STEPS, mode)


@pytest.mark.parametrize("mode", ["exponential", "linear"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_the_loop_of_the_tutorials(name, mode):
    found, (lrs, losses) = both(name, mode)
    assert len(found.lrs) == STEPS and found.diverged_at is None
    assert worst(found.lrs, lrs) <= 1e-15 and loss_error(found, losses) <= 1.0
    assert found.optimizer.startswith("torch." if name == "RMSprop" else "fusedsched.")


@pytest.mark.parametrize("mutant", ["late", "factor", "no updates"])
def test_the_property_above_finds(mutant, monkeypatch):
    ramp = stand_in.ramp
    if mutant == "late":
        monkeypatch.setattr(run, "ramp", lambda a, b, n, mode: S.join([a, ramp(a, b, n, mode)], [1]))
    elif mutant == "factor":  # an exponential row: its rounding grows with the step
        monkeypatch.setattr(run, "ramp", lambda a, b, n, mode: S.exponential(a, (b / a) ** (1 / (n - 1)), steps=n))
    else:
        monkeypatch.setattr(fs.SGD, "step", lambda self: None)
    found, (lrs, losses) = both("SGD")
    assert worst(found.lrs, lrs) > 1e-15 or loss_error(found, losses) > 1.0


class Late(log.LossLog):
    """Losses that arrive as from a device: in copies, which are over when they have been asked for often enough."""

    def new(self):
        Copy.of, self._losses = self._losses, self._losses.to("meta")
        try:
            return super().new()
        finally:
            self._losses = Copy.of


class Copy:
    """In the place of `AsyncCopy`. `of`: what is on the device."""

    of, patience = None, 0

    def __init__(self, losses):
        self._value, self._left = Copy.of.clone(), Copy.patience

    def arrived(self):
        self._left -= 1
        return self._left < 0

    def value(self):
        return self._value


@pytest.mark.parametrize("patience", [0, 5, math.inf])
def test_losses_that_arrive_late_give_the_same_result(patience, monkeypatch):
    def found():
        torch.manual_seed(0)
        model = Net()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        count = []
        result = range_test.lr_range_test(
            model, data(), nn.functional.cross_entropy, sgd, start=0.01, stop=1e9, progress=count.append
        )
        return result, count[-1]

    at_once, steps = found()
    monkeypatch.setattr(Copy, "patience", patience)
    monkeypatch.setattr(log, "AsyncCopy", Copy)
    monkeypatch.setattr(run, "LossLog", Late)
    late, more_steps = found()
    assert at_once.diverged_at is not None and more_steps > steps
    assert (more_steps == 100) == (patience == math.inf)
    assert late.losses[:-1] == at_once.losses[:-1] and late.suggestions == at_once.suggestions
    assert late.diverged_at == at_once.diverged_at


def test_groups_keep_their_ratio_and_other_schedules_run_on():
    model = Net()
    groups = [{"params": model.first.parameters()}, {"params": model.last.parameters(), "lr": 0.2}]
    optimizer = fs.AdamW(groups, lr=0.1, weight_decay=S.linear(1.0, 0.0, steps=100))
    for _ in range(10):
        model(torch.ones(4, 6)).sum().backward()
        optimizer.step()
    trial = stand_in.stand_in(optimizer, [])
    rates = stand_in.ramp(1e-4, 1e-2, 5, "exponential")
    stand_in.drive(trial, rates)
    for i in range(5):
        first, second = trial.param_groups
        assert (first["lr"].item(), second["lr"].item()) == (rates(i), 2.0 * rates(i))
        assert first["weight_decay"].item() == pytest.approx(0.9 - i / 100, rel=1e-12)
        model(torch.ones(4, 6)).sum().backward()
        trial.step()
    assert optimizer.param_groups[0]["lr"] == 0.1


def quadratic():
    """A model and a step function for it: the loss is w * w / 2."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    return model, lambda: model.weight.square().sum() / 2


def test_a_step_function_with_and_without_its_own_backward():
    model, step = quadratic()

    def with_backward():
        loss = step()
        loss.backward()
        return loss

    options = dict(optimizer=fs.SGD, start=0.01, stop=0.5, steps=20, mode="linear")
    mine, theirs = (range_test.lr_range_test(model, s, **options) for s in (step, with_backward))
    weight, wanted = 1.0, []
    for lr in mine.lrs:
        wanted.append(weight * weight / 2)
        weight -= lr * weight
    assert mine.losses == theirs.losses and mine.losses == pytest.approx(wanted, rel=1e-5)


def test_a_loader_that_ends_early_starts_again_or_says_so():
    model, loss = Net(), nn.functional.cross_entropy
    assert len(range_test.lr_range_test(model, data(), loss, steps=25).lrs) == 25  # of 10 batches
    with pytest.raises(
        ValueError, match="ended after 10 batches, and steps=25 need one each. Give steps=10, or: cycle"
    ):
        range_test.lr_range_test(model, data(), loss, steps=25, cycle=False)
    with pytest.raises(ValueError, match="ended after 10 batches.*an iterator cannot be started again"):
        range_test.lr_range_test(model, (batch for batch in data()), loss, steps=25)
    with pytest.raises(ValueError, match="ended after 10 batches.*cycle=True"):
        range_test.lr_range_test(model, Unsized(), loss, steps=25, cycle=False)
    for nothing in ([], iter([])):
        with pytest.raises(ValueError, match="gave no batches"):
            range_test.lr_range_test(model, nothing, loss)


class Unsized:
    def __iter__(self):
        return iter(data())


def scaled(factor):
    return lambda output, target: nn.functional.cross_entropy(output, target) * factor


BAD = {
    "no parameters": (dict(model=nn.ReLU()), ValueError, "has 0 parameters, none of which requires a gradient"),
    "frozen": (dict(model=nn.Linear(6, 3).requires_grad_(False)), ValueError, "has 2 parameters, none of which"),
    "lazy": (dict(model=nn.LazyLinear(3)), ValueError, "lazy parameters"),
    "no module": (dict(model=len), TypeError, "must be a torch.nn.Module"),
    "another's optimizer": (dict(optimizer=torch.optim.SGD([torch.ones(1)])), ValueError, "holds no parameter of this"),
    "no optimizer": (dict(optimizer=0.1), TypeError, "optimizer is a float"),
    "makes none": (dict(optimizer=lambda params: 1), TypeError, "returned a int"),
    "no loss": (dict(loss_fn=None), TypeError, "loss_fn is missing"),
    "loss of a batch": (dict(loss_fn=nn.CrossEntropyLoss(reduction="none")), TypeError, r"loss is of shape \(16,\)"),
    "loss is a number": (dict(loss_fn=lambda o, t: 1.0), TypeError, "loss is of type float"),
    "detached": (dict(loss_fn=lambda o, t: o.detach().sum()), RuntimeError, "got a gradient at step 0"),
    "nan at once": (dict(loss_fn=scaled(math.nan)), ValueError, "loss of the first step is nan, before any update"),
    "infinite at once": (dict(loss_fn=scaled(math.inf)), ValueError, "loss of the first step is inf"),
    "no loader": (dict(loader_or_step=3), TypeError, "loader_or_step is a int"),
    "triples": (dict(loader_or_step=[(1, 2, 3)]), TypeError, "not a pair"),
    "start": (dict(start=0.0), ValueError, "Invalid start, stop: 0.0"),
    "order": (dict(start=1.0, stop=0.1), ValueError, "Invalid start, stop: 1.0, 0.1"),
    "steps": (dict(steps=2), ValueError, "Invalid steps: 2"),
    "mode": (dict(mode="cubic"), ValueError, "Invalid mode: 'cubic'"),
    "stop_factor": (dict(stop_factor=1.0), ValueError, "Invalid stop_factor: 1.0"),
    "smoothing": (dict(smoothing=1.0), ValueError, "Invalid smoothing: 1.0"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_work_says_why_and_changes_nothing(name):
    options, kind, words = BAD[name]
    model = Net()
    before = copy.deepcopy(model.state_dict())
    arguments = dict(model=model, loader_or_step=data(), loss_fn=nn.functional.cross_entropy) | options
    with pytest.raises(kind, match=words):
        range_test.lr_range_test(**arguments)
    assert equal(before, model.state_dict()) and all(p.grad is None for p in model.parameters())


def test_a_foreign_optimizer_is_made_by_a_function():
    class Mine(torch.optim.SGD):
        pass

    model = Net()
    with pytest.raises(TypeError, match=r"A Mine cannot be copied safely.*lambda params: Mine\(params"):
        range_test.lr_range_test(model, data(), nn.functional.cross_entropy, Mine(model.parameters()))
    found = range_test.lr_range_test(model, data(), nn.functional.cross_entropy, Mine, steps=5)
    assert found.optimizer.endswith(".Mine") and len(found.losses) == 5


def test_the_result_as_text_as_data_and_as_a_picture(tmp_path):
    model, step = quadratic()
    found = range_test.lr_range_test(model, step, optimizer=fs.SGD, start=1e-3, stop=100.0)
    assert found.diverged_at is not None and str(found.diverged_at) in str(found)
    text = str(found)
    assert all(suggestion.name in text and suggestion.reason in text for suggestion in found.suggestions)
    assert found.to_json()["suggestion"] == found.suggestion.lr == found.suggestions[0].lr
    drawn = found.plot()
    assert [label for label, _, _ in drawn.panels[0].points] == [s.name for s in found.suggestions]
    assert found.plot().save(tmp_path / "lr.svg").read_text().count("valley") >= 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "<svg" in found._repr_html_()


def test_batches_of_any_shape_are_moved():
    x = torch.ones(2)
    moved = run._moved({"a": [x, (x, 3)], "b": "text"}, torch.device("meta"))
    assert moved["a"][0].is_meta and moved["a"][1][0].is_meta and moved["a"][1][1] == 3 and moved["b"] == "text"
