# SPDX-License-Identifier: Apache-2.0
"""GreedyLR, as Hugging Face's transformers has it. On a device the decision is `csrc/core/metric.h`."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from torch.optim import Optimizer

from fusedsched.lr_scheduler import arguments as checks
from fusedsched.torch_originals import schedulers as torch_schedulers

from .driver import write_lr
from .metric import MetricScheduler, note, overrides
from .metric_state import LrBounds, MetricConfig, MetricProgress, MetricRule
from .plateau import COMPARISONS
from .scheduler import DerivedAttribute
from .watched_values import copied, scalar

# What the state dict of transformers' class has beside the window.
_STATE = (
    "factor", "min_lrs", "max_lrs", "patience", "verbose", "cooldown", "warmup", "cooldown_counter", "warmup_counter",
    "mode", "threshold", "threshold_mode", "best", "num_bad_epochs", "num_good_epochs", "eps", "last_epoch", "smooth",
    "window_size", "reset_start", "reset_start_original", "_last_lr", "_init_lrs",
)  # fmt: skip


class RunningMean:
    """The mean of the last `size` numbers. The sum is updated, not computed anew: roundings stay in it.

    >>> mean = RunningMean(2)
    >>> [mean.add(x) for x in (1.0, 3.0, 5.0)]
    [1.0, 2.0, 4.0]
    """

    def __init__(self, size: int, values: list[float] | None = None, total: float = 0.0) -> None:
        self.size, self.values, self.sum = size, deque(values or ()), total

    def add(self, value: float) -> float:
        self.values.append(value)
        self.sum += value
        if len(self.values) > self.size:
            self.sum -= self.values.popleft()
        return self.sum / len(self.values)


class GreedyRule(MetricRule):
    """The attributes of GreedyLR."""

    def config(self, s: Any) -> MetricConfig:
        comparison = COMPARISONS.get((s.mode, s.threshold_mode), 3)
        return MetricConfig(
            1, comparison, s.factor, s.threshold, s.patience, s.cooldown, s.warmup, s.eps, self.window(s),
            s.reset_start_original,
        )  # fmt: skip

    def window(self, s: Any) -> int:
        """How many metrics the running mean holds; 0: there is none."""
        mean = s.__dict__["_streaming_avg"]
        return mean.size if s.smooth and mean is not None else 0

    def bounds(self, s: Any, count: int) -> list[LrBounds]:
        columns = zip(s.min_lrs, s.max_lrs, s._init_lrs, strict=True)
        return [LrBounds(*map(float, three)) for three in columns]

    def misfit(self, s: Any, count: int) -> str | None:
        for name in ("min_lrs", "max_lrs", "_init_lrs"):
            if len(getattr(s, name)) != count:
                return (
                    f"GreedyLR: {name} has {len(getattr(s, name))} values, the optimizer has {count} param groups. "
                    f"A group was added: append one value for each new group to scheduler.{name}."
                )
        return None

    def progress(self, s: Any) -> tuple[MetricProgress, list[float]]:
        progress = MetricProgress(*(s.__dict__[name] for name in ("best", *_COUNTERS)))
        if not self.window(s):
            return progress, []
        mean = s.__dict__["_streaming_avg"]
        held = len(mean.values)
        return progress._replace(sum=mean.sum, held=held, next=held % mean.size), list(mean.values)

    def load(self, s: Any, progress: MetricProgress, window: list[float]) -> None:
        note(s, "best", progress.best, integer=False)
        for name, value in zip(_COUNTERS, progress[1:], strict=False):
            note(s, name, value)
        if self.window(s):
            held, oldest = int(progress.held), int(progress.next) if progress.held == len(window) else 0
            values = window[oldest:held] + window[:oldest]
            s.__dict__["_streaming_avg"] = RunningMean(len(window), values, progress.sum)

    def restart(self, s: Any, rates: list[Any]) -> None:
        self.forget(s)
        s.cooldown_counter = s.last_epoch = 0
        s._last_lr, s._init_lrs = list(map(copied, rates)), list(map(scalar, rates))

    def forget(self, s: Any) -> None:
        """All metrics, but not the cooldown."""
        s.best = math.inf if s.mode == "min" else -math.inf
        s.num_bad_epochs = s.num_good_epochs = s.warmup_counter = 0
        s.reset_start = s.reset_start_original
        s._streaming_avg = RunningMean(s.window_size) if s.smooth else None

    def is_usual(self, s: Any) -> bool:
        return not s.verbose and not overrides(s, GreedyLR, "is_better", "_reduce_lr", "_increase_lr", "_reset")


GREEDY = GreedyRule()
# The attributes of MetricProgress after `best`.
_COUNTERS = ("num_bad_epochs", "num_good_epochs", "cooldown_counter", "warmup_counter", "reset_start", "last_epoch")


class GreedyLR(MetricScheduler, torch_schedulers.ReduceLROnPlateau):
    """Raises the rate while a metric keeps improving, and lowers it when it does not.

    lr = min(lr / factor, max_lr) after more than `patience` improvements in a row,
    lr = max(lr * factor, min_lr) after more than `patience` steps without one; each if it changes by more than `eps`

    Arguments as `transformers.GreedyLR`: `mode` "min" or "max"; `threshold`, what counts as an improvement, absolute or
    relative by `threshold_mode`; `cooldown` and `warmup`, steps to ignore after the rate was lowered and raised;
    `min_lr`, `max_lr`, a rate or one for each group; `verbose` prints what happens, which takes the host; `smooth`
    decides by the mean of the last `window_size` metrics; after `reset_start` reductions in a row that leave all groups
    at `min_lr`, it starts over from the first rates. `step(metric)` as that of ReduceLROnPlateau.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.25)
    >>> sched = GreedyLR(opt, factor=0.5, patience=0)
    >>> for loss in (1.0, 0.5, 0.5, 0.5):
    ...     sched.step(loss)
    ...     print(sched.get_last_lr())
    [0.5]
    [1.0]
    [0.5]
    [0.25]
    """

    __slots__ = ()
    _rule = GREEDY
    warmup_counter, num_good_epochs = DerivedAttribute(), DerivedAttribute()
    reset_start, _streaming_avg = DerivedAttribute(), DerivedAttribute()

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.95,
        patience: int = 10,
        threshold: float = 1e-6,
        threshold_mode: str = "abs",
        cooldown: int = 0,
        warmup: int = 0,
        min_lr: float | list[float] = 1e-3,
        max_lr: float | list[float] = 1.0,
        eps: float = 1e-8,
        verbose: bool = False,
        smooth: bool = False,
        window_size: int = 50,
        reset_start: int = 500,
    ) -> None:
        checks.check_optimizer(optimizer)
        checks.decider(GreedyLR, factor, mode, threshold_mode)
        checks.positive(GreedyLR, factor=factor)
        checks.number(GreedyLR, threshold=threshold, min_lr=min_lr, max_lr=max_lr, eps=eps, reset_start=reset_start)
        checks.number(GreedyLR, patience=patience, cooldown=cooldown, warmup=warmup)
        checks.bounds(optimizer, min_lrs=min_lr, max_lrs=max_lr)
        if smooth and (type(window_size) is not int or window_size < 1):
            raise ValueError(f"GreedyLR: invalid window_size: {window_size!r}. It must be an integer, 1 or more.")
        count = len(optimizer.param_groups)
        self.optimizer = optimizer
        self.factor, self.patience, self.threshold, self.threshold_mode = factor, patience, threshold, threshold_mode
        self.mode, self.cooldown, self.warmup, self.eps, self.verbose = mode, cooldown, warmup, eps, verbose
        self.smooth, self.window_size, self.reset_start_original = smooth, window_size, reset_start
        self.min_lrs = list(min_lr) if isinstance(min_lr, (list, tuple)) else [min_lr] * count
        self.max_lrs = list(max_lr) if isinstance(max_lr, (list, tuple)) else [max_lr] * count
        self.cooldown_counter = 0
        GREEDY.restart(self, [group["lr"] for group in optimizer.param_groups])

    def is_better(self, current: float, best: float) -> bool:
        """Whether a metric is an improvement on the best so far."""
        relative = self.threshold_mode == "rel"
        if self.mode == "min":
            return current < (best * (1.0 - self.threshold) if relative else best - self.threshold)
        return current > (best * (1.0 + self.threshold) if relative else best + self.threshold)

    def _decide(self, metrics: Any, epoch: int | None) -> None:
        current = float(metrics)
        if GREEDY.window(self):
            current = self._streaming_avg.add(current)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = self.num_good_epochs = 0
        elif self.warmup_counter > 0:
            self.warmup_counter -= 1
            self.num_bad_epochs = self.num_good_epochs = 0
        elif self.is_better(current, self.best):
            self.best = current
            self.num_bad_epochs, self.num_good_epochs = 0, self.num_good_epochs + 1
        else:
            self.num_bad_epochs, self.num_good_epochs = self.num_bad_epochs + 1, 0
        if self.num_good_epochs > self.patience:
            self._increase_lr(self.last_epoch)
            self.warmup_counter, self.num_good_epochs = self.warmup, 0
        elif self.num_bad_epochs > self.patience:
            self._reduce_lr(self.last_epoch)
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = [copied(group["lr"]) for group in self.optimizer.param_groups]

    def _increase_lr(self, epoch: int) -> None:
        for i, bounds, group in _bounded(self):
            old = scalar(group["lr"])
            new = min(old / self.factor, bounds.most)
            if new - old > self.eps:
                _write(self, group, new, f"Epoch {epoch}: increasing learning rate of group {i} to {new:.4e}.")
        self.reset_start = self.reset_start_original

    def _reduce_lr(self, epoch: int) -> None:
        above = False
        for i, bounds, group in _bounded(self):
            old = scalar(group["lr"])
            new = max(old * self.factor, bounds.least)
            if old - new > self.eps:
                _write(self, group, new, f"Epoch {epoch}: reducing learning rate of group {i} to {new:.4e}.")
            above = above or scalar(group["lr"]) > bounds.least
        if not above:
            self.reset_start -= 1
            if self.reset_start <= 0:
                self._reset()

    def _reset(self) -> None:
        for _, bounds, group in _bounded(self):
            write_lr(group, bounds.initial)
        GREEDY.forget(self)  # the cooldown is that of the reduction
        if self.verbose:
            print("Scheduler reset to initial state.")

    def state_dict(self) -> dict[str, Any]:
        """The keys of transformers' class, and "fusedsched" where `state_dict` of the other schedulers has it."""
        whole = super().state_dict()
        mean = whole.pop("_streaming_avg")
        state = {key: whole[key] for key in (*_STATE, "fusedsched") if key in whole}
        if mean is not None:
            state["_streaming_avg"] = {"window_size": mean.size, "values": list(mean.values), "sum": mean.sum}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` of this class or of transformers' wrote, the rates included."""
        state = dict(state_dict)
        saved = state.pop("_streaming_avg", None)
        if saved is not None:
            state["_streaming_avg"] = RunningMean(saved["window_size"], saved["values"], saved["sum"])
        super().load_state_dict(state)


def _bounded(s: GreedyLR) -> list[tuple[int, LrBounds, dict[str, Any]]]:
    """Index, bounds and dictionary of each group. Raises RuntimeError where they do not fit."""
    groups = s.optimizer.param_groups
    misfit = GREEDY.misfit(s, len(groups))
    if misfit is not None:
        raise RuntimeError(misfit)
    return [(i, *pair) for i, pair in enumerate(zip(GREEDY.bounds(s, len(groups)), groups, strict=True))]


def _write(s: GreedyLR, group: dict[str, Any], rate: float, message: str) -> None:
    write_lr(group, rate)
    if s.verbose:
        print(message)
