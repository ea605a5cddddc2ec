# SPDX-License-Identifier: Apache-2.0
"""The monitor tells of every step once, what telemetry tells, and never waits while training."""

import math

import pytest
import torch
from torch import nn

import fusedsched as fs
from fusedsched import monitor, schedules as S


def train(make, steps, every, name="AdamW", overflows=(), norms=True, **options):
    """Reports of a run, the monitor, the optimizer. `overflows`: steps that a GradScaler would skip."""
    p, q = (nn.Parameter(torch.ones(3)) for _ in range(2))
    opt = make(name, [{"params": [p]}, {"params": [q], "lr": 0.5}], lr=S.linear(1.0, 0.0, steps=100), **options)
    watch, reports = fs.Monitor(opt, every=every), []
    for step in range(steps):
        p.grad, q.grad = torch.ones(3), torch.ones(3)
        if norms:
            opt.log_grad_norm(math.inf if step in overflows else float(step + 1))
        opt.grad_scale, opt.found_inf = None, torch.tensor(float(step in overflows))
        opt.step()
        reports.append(watch.step())
    return reports, watch, opt


@pytest.mark.parametrize(("steps", "every"), [(10, 1), (10, 3), (4, 50)])
def test_every_step_is_told_once_and_in_order(product, steps, every):
    reports, watch, _ = train(product, steps, every)
    assert [step for step, report in enumerate(reports) if report] == list(range(every - 1, steps, every))
    rest = watch.read()
    told = [u for r in [*reports, rest] if r is not None for u in r.telemetry.update.tolist()]
    assert told == list(range(steps)) and watch.read() is None


def test_numbers_are_those_of_the_steps(product):
    reports, _, _ = train(product, 6, 3)
    numbers = reports[-1].numbers()
    assert numbers["update"] == 5 and numbers["lr/0"] == S.linear(1.0, 0.0, steps=100)(5) and numbers["lr/1"] == 0.5
    assert (numbers["grad_norm"], numbers["grad_norm_max"], numbers["skipped"]) == (5.0, 6.0, 0)
    assert all(isinstance(value, (int, float)) for value in numbers.values())
    assert str(reports[-1]) == "update 5  lr 0.5 to 0.95  beta1 0.9  grad norm 5 (max 6)  skipped 0"


def test_skipped_steps_are_counted_and_their_norms_are_not(product):
    reports, _, _ = train(product, 6, 3, overflows=(1, 4, 5))
    assert [r.skipped for r in reports if r] == [1, 3]
    numbers = reports[-1].numbers()
    assert (numbers["grad_norm"], numbers["grad_norm_max"], numbers["update"]) == (4.0, 4.0, 3)
    assert str(reports[-1]).endswith("skipped 3")


def test_norms_that_nobody_logged_are_not_shown(product):
    reports, _, _ = train(product, 2, 2, name="SGD", norms=False, momentum=0.9)
    assert "grad_norm" not in reports[-1].numbers()
    assert str(reports[-1]) == "update 1  lr 0.5 to 0.99  momentum 0.9  skipped 0"


def test_what_was_before_the_monitor_is_not_told(product):
    _, _, opt = train(product, 5, 50)
    watch = fs.Monitor(opt, every=1)
    opt.step()
    report = watch.step()
    assert report.telemetry.update.tolist() == [5] and watch.read() is None


def test_telemetry_enabled_again_begins_anew(product):
    _, watch, opt = train(product, 5, 50)
    opt.enable_telemetry(8)
    opt.step()
    assert watch.read().telemetry.update.tolist() == [5]


def test_more_steps_than_the_ring_holds_tell_of_the_last(product):
    _, watch, opt = train(product, 10, 1)  # reads each; the ring holds four
    for _ in range(9):
        opt.step()
    assert watch.read().telemetry.update.tolist() == [15, 16, 17, 18]


class Slow(monitor.AsyncCopy):
    """A copy that takes three looks, as on a device, and must not be waited for."""

    def __init__(self, tensor):
        super().__init__(tensor)
        self.looks = 0

    def arrived(self):
        self.looks += 1
        return self.looks > 3

    def value(self):
        assert self.looks > 3, "waited for"
        return super().value()


def test_a_copy_that_is_on_its_way_is_not_waited_for(product, monkeypatch):
    monkeypatch.setattr(monitor, "AsyncCopy", Slow)
    reports, watch, _ = train(product, 12, 2)
    steps = [i for i, report in enumerate(reports) if report]
    assert steps == [4, 8] and [r.telemetry.update.tolist() for r in reports if r] == [[0, 1], [2, 3, 4, 5]]
    assert watch.read().telemetry.update.tolist() == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((torch.optim.SGD([torch.zeros(1)]),), TypeError, "got a SGD, which has no telemetry"),
        ((None,), TypeError, "got a NoneType"),
        ((fs.SGD([torch.zeros(1, requires_grad=True)]), 0), ValueError, "every=0. It must be an integer, one or more"),
        ((fs.SGD([torch.zeros(1, requires_grad=True)]), 2.5), ValueError, "every=2.5"),
        ((fs.SGD([torch.zeros(1, requires_grad=True)]), True), ValueError, "every=True"),
    ],
)
def test_what_cannot_be_watched(arguments, error, words):
    with pytest.raises(error, match=words):
        fs.Monitor(*arguments)


def test_telemetry_that_was_turned_off_is_an_error(product):
    _, watch, opt = train(product, 2, 1)
    opt.disable_telemetry()
    with pytest.raises(RuntimeError, match="Telemetry is off"):
        watch.step()
