# SPDX-License-Identifier: Apache-2.0
"""Properties: ReduceLROnPlateau decides as torch's class does and GreedyLR as transformers' (rewritten in
cases_metric.py), on the host and on a device, whatever the metric is given as.
"""

import itertools

import pytest
import torch
from cases import maker
from cases_metric import (
    MODES,
    PLATEAU,
    SCHEDULERS,
    THEIRS,
    both,
    decisions_are_the_judges,
    drawn,
    groups_of,
    pair,
    same,
    shown,
    tensor,
)
from plateau_rule import MUTANTS, on_the_device
from tiers import full

from fusedsched import _native, lr_scheduler as L
from fusedsched.lr_scheduler import plateau

SEEDS_OF_THE_RULE = [range(12), full(range(12, 250))]
SEEDS = [range(50), full(range(50, 250))]  # where the host decides, by one code for all backends, an eighth of them
named = pytest.mark.parametrize("name", SCHEDULERS)
modes = pytest.mark.parametrize(("mode", "kind"), MODES)


@named
@pytest.mark.parametrize("seeds", SEEDS)
@modes
def test_decisions(product, name, mode, kind, seeds):
    decisions_are_the_judges(name, product, mode, kind, seeds if product.args[0] == "cuda" else seeds[::8])


@named
@pytest.mark.parametrize("seeds", SEEDS_OF_THE_RULE)
def test_decisions_of_the_rule_compiled_for_the_host(monkeypatch, name, seeds):
    for mode, kind in MODES:
        decisions_are_the_judges(name, on_the_device(monkeypatch, None), mode, kind, seeds)


FOUND_BY = [("plateau" if who == "both" else who, mutant) for mutant, (who, *_) in MUTANTS.items()]
FOUND_BY += [full("greedy", mutant) for mutant, (who, *_) in MUTANTS.items() if who == "both"]


@pytest.mark.parametrize(("name", "mutant"), FOUND_BY)
def test_a_wrong_rule_is_found(monkeypatch, name, mutant):
    """Mutants of csrc/core/metric.h, compiled for the host: what runs on them is noticed."""
    make = on_the_device(monkeypatch, mutant)
    with pytest.raises(AssertionError):
        for seed, (mode, kind) in itertools.product(range(150), MODES):
            decisions_are_the_judges(name, make, mode, kind, [seed])


WRONG_METHODS = {
    "never better": ("is_better", lambda self, current, best: False),
    "always better": ("is_better", lambda self, current, best: True),
    "never raised": ("_increase_lr", lambda self, epoch: None),
    "never lowered": ("_reduce_lr", lambda self, epoch: None),
    "never reset": ("_reset", lambda self: None),
}


@pytest.mark.parametrize("mutant", WRONG_METHODS)
def test_a_wrong_method_is_found(monkeypatch, mutant):
    monkeypatch.setattr(L.GreedyLR, *WRONG_METHODS[mutant])
    with pytest.raises(AssertionError):
        for mode, kind in MODES:
            decisions_are_the_judges("greedy", maker("reference"), mode, kind, range(20))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_metrics_of_any_type(product, dtype):
    two = pair(product, patience=0, factor=0.5)
    both(two, [3, 2, 2, 1, 1, 0], dtype)
    assert same(two)
    two[0].step(tensor([[0.125]]).requires_grad_())  # one element of any shape, a part of a graph too
    two[1].step(0.125)
    assert same(two)


BAD_METRICS = {
    "two elements": (
        torch.ones(2),
        (RuntimeError, ValueError),
        "a Tensor with 2 elements cannot be converted to Scalar",
    ),
    "none": (torch.ones(0), (RuntimeError, ValueError), "a Tensor with 0 elements"),
    "complex": (torch.ones((), dtype=torch.complex64), TypeError, "must be real"),
    "text": ("much", TypeError, "takes the metric as a number"),
    "nothing": (None, TypeError, "takes the metric as a number"),
    "a list": ([1.0], TypeError, "takes the metric as a number"),
}


@pytest.mark.parametrize("row", BAD_METRICS)
def test_bad_metrics(product, row):
    metric, error, words = BAD_METRICS[row]
    two = pair(product, patience=0)
    both(two, [2.0, 2.0])
    with pytest.raises(error, match=words):
        two[0].step(metric)
    assert same(two)


def test_a_metric_on_another_device():
    if not torch.cuda.is_available():
        sched, _ = pair(maker("cuda"))
        with pytest.raises(ValueError, match="The metric is on meta, the parameters are on cpu"):
            sched.step(torch.ones((), device="meta"))
        assert sched.last_epoch == 0


@pytest.mark.parametrize("metric", ["0.5", b"0.25", 3, True, torch.tensor(0.125)], ids=repr)
def test_a_metric_is_whatever_float_takes(product, metric):
    two = pair(product, patience=0, factor=0.5)
    for value in (1.0, metric, 2.0, metric):
        for sched in two:
            sched.step(value)
    assert same(two)


def test_comparisons_are_those_of_the_rule():
    assert plateau.COMPARISONS == {("min", "rel"): 0, ("min", "abs"): 1, ("max", "rel"): 2}


def numbers_are_judged_as_by_torch(mode, kind, seeds):
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
        assert numbers_are_judged_as_by_torch(mode, kind, range(100)) == "QuietDriver"
    monkeypatch.setattr(_native, "module", lambda: None)
    assert numbers_are_judged_as_by_torch(mode, kind, range(20)) == "HostMetricDriver"


WRONG_DRIVERS = {
    "never better": lambda self, scheduler, metric: self._advance(scheduler.__dict__, float("inf")),
    "no step": lambda self, scheduler, metric: True,
    "a copy is changed": lambda self, scheduler, metric: self._advance({**scheduler.__dict__}, metric),
}


@pytest.mark.skipif(_native.module() is None, reason="needs the compiled extension")
@pytest.mark.parametrize("mutant", WRONG_DRIVERS)
def test_a_wrong_driver_is_found(monkeypatch, mutant):
    monkeypatch.setattr(plateau.QuietDriver, "observe", WRONG_DRIVERS[mutant])
    with pytest.raises(AssertionError):
        numbers_are_judged_as_by_torch("min", "rel", range(20))
