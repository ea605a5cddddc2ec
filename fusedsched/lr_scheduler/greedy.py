# SPDX-License-Identifier: Apache-2.0
"""GreedyLR, as Hugging Face's transformers has it. On a device the decision is `csrc/core/metric.h`."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from torch.optim import Optimizer

from fusedsched.lr_scheduler import arguments as checks
from fusedsched.torch_originals import schedulers as torch_schedulers

from .boards import Asked, Bounds, Known
from .driver import write_lr
from .metric import MetricScheduler, SyncedAttribute, overrides
from .plateau import COMPARISONS
from .watched_values import copied, scalar

# What the state dict of transformers' class has beside the window.
_STATE = (
    "factor", "min_lrs", "max_lrs", "patience", "verbose", "cooldown", "warmup", "cooldown_counter", "warmup_counter",
    "mode", "threshold", "threshold_mode", "best", "num_bad_epochs", "num_good_epochs", "eps", "last_epoch", "smooth",
    "window_size", "reset_start", "reset_start_original", "_last_lr", "_init_lrs",
)  # fmt: skip


class RunningMean:
    """The mean of the last `size` numbers. The sum is carried along, roundings included.

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


class GreedyLR(MetricScheduler, torch_schedulers.LRScheduler):
    """Raises the rate while a metric keeps improving, and lowers it when it does not.

    lr = min(lr / factor, max_lr) after more than `patience` improvements in a row,
    lr = max(lr * factor, min_lr) after more than `patience` steps without one; each if it changes by more than `eps`

    Arguments as `transformers.GreedyLR`: `mode` "min" or "max"; `threshold`, what counts as an improvement, absolute or
    relative by `threshold_mode`; `cooldown` and `warmup`, steps to look away after the rate was lowered and raised;
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
    warmup_counter, num_good_epochs, reset_start, _streaming_avg = (
        SyncedAttribute(),
        SyncedAttribute(),
        SyncedAttribute(),
        SyncedAttribute(),
    )

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
        self._start_over()

    def _start_over(self) -> None:
        self._forget()
        self.cooldown_counter = self.last_epoch = 0
        self._last_lr = [copied(group["lr"]) for group in self.optimizer.param_groups]
        self._init_lrs = [scalar(lr) for lr in self._last_lr]

    def _forget(self) -> None:
        self.best = math.inf if self.mode == "min" else -math.inf
        self.num_bad_epochs = self.num_good_epochs = self.warmup_counter = 0
        self.reset_start = self.reset_start_original
        self._streaming_avg = RunningMean(self.window_size) if self.smooth else None

    def is_better(self, current: float, best: float) -> bool:
        """Whether a metric is an improvement on the best so far."""
        relative = self.threshold_mode == "rel"
        if self.mode == "min":
            return current < (best * (1.0 - self.threshold) if relative else best - self.threshold)
        return current > (best * (1.0 + self.threshold) if relative else best + self.threshold)

    def _decide(self, metrics: Any, epoch: int | None) -> None:
        current = float(metrics)
        if self._window():
            current = self._streaming_avg.add(current)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = self.num_good_epochs = 0
        elif self.warmup_counter > 0:
            self.warmup_counter -= 1
            self.num_bad_epochs = self.num_good_epochs = 0
        else:
            self._judge(current)
        self._last_lr = [copied(group["lr"]) for group in self.optimizer.param_groups]

    def _judge(self, current: float) -> None:
        if self.is_better(current, self.best):
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

    def _increase_lr(self, epoch: int) -> None:
        for i, bounds, group in self._bounded():
            old = scalar(group["lr"])
            new = min(old / self.factor, bounds.most)
            if new - old > self.eps:
                self._change(group, new, f"Epoch {epoch}: increasing learning rate of group {i} to {new:.4e}.")
        self.reset_start = self.reset_start_original

    def _reduce_lr(self, epoch: int) -> None:
        above = False
        for i, bounds, group in self._bounded():
            old = scalar(group["lr"])
            new = max(old * self.factor, bounds.least)
            if old - new > self.eps:
                self._change(group, new, f"Epoch {epoch}: reducing learning rate of group {i} to {new:.4e}.")
            above = above or scalar(group["lr"]) > bounds.least
        if not above:
            self.reset_start -= 1
            if self.reset_start <= 0:
                self._reset()

    def _reset(self) -> None:
        for _, bounds, group in self._bounded():
            write_lr(group, bounds.initial)
        self._forget()  # the cooldown is that of the reduction
        if self.verbose:
            print("Scheduler reset to initial state.")

    def _change(self, group: dict[str, Any], rate: float, message: str) -> None:
        write_lr(group, rate)
        if self.verbose:
            print(message)

    def _bounded(self) -> list[tuple[int, Bounds, dict[str, Any]]]:
        groups = self.optimizer.param_groups
        misfit = self._misfit(len(groups))
        if misfit is not None:
            raise RuntimeError(misfit)
        return [(i, *pair) for i, pair in enumerate(zip(self._bounds(len(groups)), groups, strict=True))]

    def _misfit(self, count: int) -> str | None:
        for name in ("min_lrs", "max_lrs", "_init_lrs"):
            if len(getattr(self, name)) != count:
                return (
                    f"GreedyLR: {name} has {len(getattr(self, name))} values, the optimizer has {count} param groups. "
                    f"A group was added: append one value for each new group to scheduler.{name}."
                )
        return None

    def _bounds(self, count: int) -> list[Bounds]:
        columns = zip(self.min_lrs, self.max_lrs, self._init_lrs, strict=True)
        return [Bounds(*map(float, three)) for three in columns]

    def _usual(self) -> bool:
        return not self.verbose and not overrides(self, GreedyLR, "is_better", "_reduce_lr", "_increase_lr", "_reset")

    def _asked(self) -> Asked:
        comparison = COMPARISONS.get((self.mode, self.threshold_mode), 3)
        return Asked(
            1, comparison, self.factor, self.threshold, self.patience, self.cooldown, self.warmup, self.eps,
            self._window(), self.reset_start_original,
        )  # fmt: skip

    def _window(self) -> int:
        """How many metrics the running mean holds; 0: there is none."""
        mean = self.__dict__["_streaming_avg"]
        return mean.size if self.smooth and mean is not None else 0

    def _known(self) -> tuple[Known, list[float]]:
        names = ("best", "num_bad_epochs", "num_good_epochs", "cooldown_counter", "warmup_counter", "reset_start")
        known = Known(*(self.__dict__[name] for name in (*names, "last_epoch")))
        if not self._window():
            return known, []
        mean = self.__dict__["_streaming_avg"]
        held = len(mean.values)
        return known._replace(sum=mean.sum, held=held, next=held % mean.size), list(mean.values)

    def _learn(self, known: Known, window: list[float]) -> None:
        names = ("num_bad_epochs", "num_good_epochs", "cooldown_counter", "warmup_counter", "reset_start", "last_epoch")
        self._note("best", known.best, integer=False)
        for name, value in zip(names, known[1:7], strict=True):
            self._note(name, value)
        if self._window():
            held, oldest = int(known.held), int(known.next) if known.held == len(window) else 0
            values = window[oldest:held] + window[:oldest]
            self.__dict__["_streaming_avg"] = RunningMean(len(window), values, known.sum)

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
