# SPDX-License-Identifier: Apache-2.0
"""Laws: steps of ReduceLROnPlateau on the host are torch's, whatever is given to them or set between."""

import pytest
import torch
from cases_plateau import MODES, PLATEAU, drawn, groups_of, shown
from test_plateau import THEIRS, pair, same

from fusedsched import _native, lr_scheduler as L
from fusedsched.lr_scheduler import plateau


@pytest.mark.parametrize("metric", ["0.5", b"0.25", 3, True, torch.tensor(0.125)], ids=repr)
def test_a_metric_is_whatever_float_takes(product, metric):
    two = pair(product, patience=0, factor=0.5)
    for value in (1.0, metric, 2.0, metric):
        for sched in two:
            sched.step(value)
    assert same(two)


def test_quiet_steps_see_what_users_set(product):
    """Steps that change no rate take a shorter way; options, methods and counters that were set hold there too."""
    two = pair(product, patience=5, cooldown=2)
    for i, metric in enumerate((2.0, 2.0, 1.5, 3.0, 3.0, 3.0, 1.0, 4.0, 4.0, 4.0, 4.0)):
        for sched in two:
            sched.step(metric)
            if i == 3:
                sched.patience, sched.mode = 0, "max"
            if i == 5:
                sched.best, sched.threshold, sched.optimizer.param_groups[0]["lr"] = 3.5, 0.5, 0.7
            if i == 8:
                sched._is_better = lambda a, best: a == 4.0
        assert same(two), i


def law_of_numbers(mode, kind, seeds):
    """Metrics that are floats: values, and the types of the counters."""
    for seed in seeds:
        lrs, options, metrics = drawn(seed, mode, kind)
        two = [make(torch.optim.SGD(groups_of(lrs), lr=0.1), **options) for make in (L.ReduceLROnPlateau, THEIRS)]
        for metric in metrics:
            for sched in two:
                sched.step(metric)
            assert shown(two[0], PLATEAU) == shown(two[1], PLATEAU), (seed, options)
            types = [[type(getattr(sched, name)) for name in PLATEAU] for sched in two]
            assert types[0] == types[1] and [type(lr) for lr in two[0].get_last_lr()] == [float] * len(lrs)
    return type(two[0]._driver).__name__


@pytest.mark.parametrize(("mode", "kind"), MODES)
def test_numbers_are_judged_as_by_torch(monkeypatch, mode, kind):
    if _native.module() is not None:
        assert law_of_numbers(mode, kind, range(100)) == "QuietDriver"
    monkeypatch.setattr(_native, "module", lambda: None)
    assert law_of_numbers(mode, kind, range(20)) == "HostMetricDriver"


WRONG = {
    "never better": lambda self, scheduler, metric: self._advance(scheduler.__dict__, float("inf")),
    "no step": lambda self, scheduler, metric: True,
    "a copy is changed": lambda self, scheduler, metric: self._advance({**scheduler.__dict__}, metric),
}


@pytest.mark.skipif(_native.module() is None, reason="needs the compiled extension")
@pytest.mark.parametrize("mutant", WRONG)
def test_the_law_can_fail(monkeypatch, mutant):
    monkeypatch.setattr(plateau.QuietDriver, "observe", WRONG[mutant])
    with pytest.raises(AssertionError):
        law_of_numbers("min", "rel", range(20))
