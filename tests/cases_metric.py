# SPDX-License-Identifier: Apache-2.0
"""The schedulers that follow a metric: random metrics and options, and what judges them."""

import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from fusedsched import lr_scheduler as L

THEIRS = torch.optim.lr_scheduler.ReduceLROnPlateau

MODES = [(mode, kind) for mode in ("min", "max") for kind in ("rel", "abs")]


def series(rng, n):
    """Metrics on a coarse grid, so that ties and exact thresholds come up; now and then one that is no number."""
    level, out = rng.choice((2.0, -1.0, 0.5)), []
    for _ in range(n):
        level += rng.choice((-0.25, -0.25, 0.0, 0.0, 0.25, 0.5))
        out.append(rng.choice((math.nan, math.inf, -math.inf)) if rng.random() < 0.02 else level)
    return out


def options(rng, mode, kind, groups):
    """Of ReduceLROnPlateau."""
    return dict(
        mode=mode,
        threshold_mode=kind,
        factor=rng.choice((0.1, 0.5, 0.9)),
        patience=rng.randint(0, 3),
        cooldown=rng.choice((0, 0, 1, 3)),
        threshold=rng.choice((0.0, 1e-4, 0.25, 0.25)),
        min_lr=rng.choice((0, [rng.choice((0.0, 0.05, 0.2)) for _ in range(groups)])),
        eps=rng.choice((1e-8, 1e-8, 0.0, 0.06)),
    )


def greedy_options(rng, mode, kind, groups):
    """Of GreedyLR."""
    least = [rng.choice((0.01, 0.1)) for _ in range(groups)]
    return options(rng, mode, kind, groups) | dict(
        factor=rng.choice((0.5, 0.75, 0.9)),
        warmup=rng.choice((0, 0, 2)),
        patience=rng.randint(0, 2),
        min_lr=rng.choice((0.05, least)),
        max_lr=rng.choice((1.0, [0.5] * groups)),
        smooth=rng.random() < 0.4,
        window_size=rng.choice((1, 3, 7)),
        reset_start=rng.choice((1, 2, 500)),
    )


def rates(rng):
    return [rng.choice((0.1, 0.3, 0.7)) for _ in range(rng.randint(1, 3))]


def groups_of(lrs):
    """Param groups, each of one parameter with a gradient."""
    made = []
    for lr in lrs:
        p = torch.nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        made.append({"params": [p], "lr": lr})
    return made


def tensor(metric, dtype=torch.float64):
    return torch.tensor(metric, dtype=dtype)


def pair(make, lrs=(0.4, 0.2), **options):
    """ReduceLROnPlateau of ours and of torch, each with an optimizer that has updated once."""
    ours, theirs = make("SGD", groups_of(lrs), lr=0.1), torch.optim.SGD(groups_of(lrs), lr=0.1)
    ours.step()
    theirs.step()
    return L.ReduceLROnPlateau(ours, **options), THEIRS(theirs, **options)


def both(pair, metrics, dtype=torch.float64):
    for metric in metrics:
        pair[0].step(tensor(metric, dtype))
        pair[1].step(tensor(metric, dtype))


def same(pair):
    return shown(pair[0], PLATEAU) == shown(pair[1], PLATEAU)


def same_parameters(scheds, rtol=1e-6):
    params = [[p for group in s.optimizer.param_groups for p in group["params"]] for s in scheds]
    return all(torch.allclose(p, q, rtol=rtol, atol=0.0) for p, q in zip(*params, strict=True))


def shown(sched, names):
    """What a user can read, with nan equal to nan."""
    values = [getattr(sched, name) for name in names]
    groups = [float(group["lr"]) for group in sched.optimizer.param_groups]
    last = [float(lr) for lr in sched.get_last_lr()]
    return [repr(float(value)) for value in (*values, *groups, *last)]


PLATEAU = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")
GREEDY = (*PLATEAU, "num_good_epochs", "warmup_counter", "reset_start")


class Oracle:
    """GreedyLR as its paper and transformers describe it, for plain lists of rates."""

    def __init__(self, lrs, mode, threshold_mode, factor, patience, cooldown, warmup, threshold, min_lr, max_lr, eps,
                 smooth, window_size, reset_start):  # fmt: skip
        self.lrs, self.first = list(lrs), list(lrs)
        self.sign, self.relative = (1.0 if mode == "min" else -1.0), threshold_mode == "rel"
        self.factor, self.patience, self.threshold, self.eps = factor, patience, threshold, eps
        self.waits = {"down": cooldown, "up": warmup}
        self.low = min_lr if isinstance(min_lr, list) else [min_lr] * len(lrs)
        self.high = max_lr if isinstance(max_lr, list) else [max_lr] * len(lrs)
        self.window = window_size if smooth else 0
        self.resets, self.last_epoch, self.cooldown_counter = reset_start, 0, 0
        self.forget()

    def forget(self):
        self.best, self.seen, self.total = self.sign * math.inf, [], 0.0
        self.num_bad_epochs = self.num_good_epochs = self.warmup_counter = 0
        self.reset_start = self.resets

    def better(self, metric):
        margin = 1.0 - self.sign * self.threshold
        bound = self.best * margin if self.relative else self.best - self.sign * self.threshold
        return metric < bound if self.sign > 0 else metric > bound

    def step(self, metric):
        self.last_epoch += 1
        if self.window:
            self.seen, self.total = [*self.seen, metric], self.total + metric
            if len(self.seen) > self.window:
                self.total, self.seen = self.total - self.seen[0], self.seen[1:]
            metric = self.total / len(self.seen)
        for name in ("cooldown_counter", "warmup_counter"):
            if getattr(self, name) > 0:
                setattr(self, name, getattr(self, name) - 1)
                self.num_bad_epochs = self.num_good_epochs = 0
                return
        if self.better(metric):
            self.best, self.num_bad_epochs, self.num_good_epochs = metric, 0, self.num_good_epochs + 1
        else:
            self.num_bad_epochs, self.num_good_epochs = self.num_bad_epochs + 1, 0
        if self.num_good_epochs > self.patience:
            wanted = [min(lr / self.factor, high) for lr, high in zip(self.lrs, self.high, strict=True)]
            self.lrs = [new if new - old > self.eps else old for old, new in zip(self.lrs, wanted, strict=True)]
            self.warmup_counter, self.num_good_epochs, self.reset_start = self.waits["up"], 0, self.resets
        elif self.num_bad_epochs > self.patience:
            self.lower()
            self.cooldown_counter, self.num_bad_epochs = self.waits["down"], 0

    def lower(self):
        wanted = [max(lr * self.factor, low) for lr, low in zip(self.lrs, self.low, strict=True)]
        self.lrs = [new if old - new > self.eps else old for old, new in zip(self.lrs, wanted, strict=True)]
        if all(lr <= low for lr, low in zip(self.lrs, self.low, strict=True)):
            self.reset_start -= 1
            if self.reset_start <= 0:
                self.lrs = list(self.first)
                self.forget()

    def shown(self):
        values = [getattr(self, name) for name in GREEDY]
        return [repr(float(value)) for value in (*values, *self.lrs, *self.lrs)]


class Torchs:
    """ReduceLROnPlateau as torch has it."""

    def __init__(self, lrs, **options):
        self.scheduler = THEIRS(torch.optim.SGD(groups_of(lrs), lr=0.1), **options)

    def step(self, metric):
        self.scheduler.step(tensor(metric))

    def shown(self):
        return shown(self.scheduler, PLATEAU)


class MetricScheduler(NamedTuple):
    """`options`: random ones; `judge`: made of learning rates and options, with `step(metric)` and `shown()`; `names`:
    what a user can read."""

    ours: type
    options: Callable[..., dict[str, Any]]
    judge: Callable[..., Any]
    names: tuple[str, ...]


SCHEDULERS = {
    "plateau": MetricScheduler(L.ReduceLROnPlateau, options, Torchs, PLATEAU),
    "greedy": MetricScheduler(L.GreedyLR, greedy_options, Oracle, GREEDY),
}


def built(name, make, lrs, **options):
    """That scheduler, of an optimizer that has updated once."""
    opt = make("SGD", groups_of(lrs), lr=0.1)
    opt.step()
    return SCHEDULERS[name].ours(opt, **options)


def drawn(seed, mode, kind, options=options):
    """A case: rates, options, metrics."""
    rng = random.Random(f"{seed} {mode} {kind}")
    lrs = rates(rng)
    return lrs, options(rng, mode, kind, len(lrs)), series(rng, 30)


def decisions_are_the_judges(name, make, mode, kind, seeds):
    """The property of all of them; not looked at after each step, since looking reads from the device."""
    for seed in seeds:
        lrs, options, metrics = drawn(seed, mode, kind, SCHEDULERS[name].options)
        sched, judge, stride = built(name, make, lrs, **options), SCHEDULERS[name].judge(lrs, **options), 3 + seed % 7
        for i, metric in enumerate(metrics):
            sched.step(tensor(metric))
            judge.step(metric)
            if i % stride == stride - 1 or i + 1 == len(metrics):
                assert shown(sched, SCHEDULERS[name].names) == judge.shown(), (seed, i, options)
