# SPDX-License-Identifier: Apache-2.0
"""ReduceLROnPlateau. On the host the decision is torch's own code; on a device it is `csrc/core/metric.h`."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from fusedsched.lr_scheduler import arguments as checks
from fusedsched.torch_originals import schedulers as torch_schedulers

from .. import _native
from .metric import HostMetricDriver, MetricScheduler, note, overrides
from .metric_state import LrBounds, MetricConfig, MetricProgress, MetricRule
from .watched_values import copied

COMPARISONS = {("min", "rel"): 0, ("min", "abs"): 1, ("max", "rel"): 2}  # fs::Comparison; torch takes all others for 3


class PlateauRule(MetricRule):
    """The attributes of ReduceLROnPlateau, torch's included."""

    def config(self, s: Any) -> MetricConfig:
        comparison = COMPARISONS.get((s.mode, s.threshold_mode), 3)
        return MetricConfig(0, comparison, s.factor, s.threshold, s.patience, s.cooldown, 0.0, s.eps, 0, 0.0)

    def bounds(self, s: Any, count: int) -> list[LrBounds]:
        least = s.min_lrs if len(s.min_lrs) == count else [s.default_min_lr] * count
        return [LrBounds(float(low)) for low in least]

    def misfit(self, s: Any, count: int) -> str | None:
        if len(s.min_lrs) == count or s.default_min_lr is not None:
            return None
        return (
            f"The number of param groups in the `optimizer` ({count}) differs from when `ReduceLROnPlateau` was "
            f"initialized ({len(s.min_lrs)}), usually due to a new param group being added to the optimizer. Please "
            "modify the `min_lrs` field to match the length of the `optimizer` param groups."
        )

    def progress(self, s: Any) -> tuple[MetricProgress, list[float]]:
        state = s.__dict__
        counts = state["num_bad_epochs"], 0.0, state["cooldown_counter"], 0.0, 0.0, state["last_epoch"]
        return MetricProgress(state["best"], *counts), []

    def load(self, s: Any, progress: MetricProgress, window: list[float]) -> None:
        note(s, "best", progress.best, integer=False)
        note(s, "num_bad_epochs", progress.bad)
        note(s, "cooldown_counter", progress.cooldown_counter)
        note(s, "last_epoch", progress.epoch)

    def restart(self, s: Any, rates: list[Any]) -> None:
        s._reset()
        s.last_epoch = 0
        s._last_lr = list(map(copied, rates))

    def is_usual(self, s: Any) -> bool:
        return not overrides(s, torch_schedulers.ReduceLROnPlateau, "_is_better", "_reduce_lr", "in_cooldown")


PLATEAU = PlateauRule()


class QuietDriver(HostMetricDriver):
    """Makes the steps that change no rate in compiled code; torch's code decides in all others."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__(scheduler)
        self._advance = _native.module().QuietSteps(self.attributes).advance

    def observe(self, scheduler: Any, metric: Any) -> bool:
        return self._advance(scheduler.__dict__, metric) or super().observe(scheduler, metric)


class ReduceLROnPlateau(MetricScheduler, torch_schedulers.ReduceLROnPlateau):
    """Multiplies the rate by `factor` when a metric has not improved for more than `patience` steps.

    lr = max(lr * factor, min_lr), if that changes it by more than `eps`

    Arguments as `torch.optim.lr_scheduler.ReduceLROnPlateau`: `mode` "min" or "max"; `threshold`, what counts as an
    improvement, relative or absolute by `threshold_mode`; `cooldown`, steps to wait after a reduction; `min_lr`, a rate
    or one for each group. `step(metric)` takes a number or a tensor of one element; one on the parameters' device is
    compared there, and nothing waits. A metric that is NaN is never an improvement.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    >>> sched = ReduceLROnPlateau(opt, factor=0.5, patience=0)
    >>> for loss in (1.0, 1.0, 0.5):
    ...     sched.step(loss)
    >>> sched.get_last_lr()
    [0.4]
    """

    __slots__ = ()
    _rule = PLATEAU

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: list[float] | float = 0,
        eps: float = 1e-8,
    ) -> None:
        checks.check_optimizer(optimizer)
        checks.decider(ReduceLROnPlateau, factor, mode, threshold_mode)
        checks.number(ReduceLROnPlateau, threshold=threshold, min_lr=min_lr, eps=eps)
        checks.number(ReduceLROnPlateau, patience=patience, cooldown=cooldown)
        checks.bounds(optimizer, min_lrs=min_lr)
        super().__init__(optimizer, mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps)

    def _decide(self, metrics: Any, epoch: int | None) -> None:
        torch_schedulers.ReduceLROnPlateau.step(self, metrics, epoch)

    def _on_host(self) -> HostMetricDriver:
        quiet = _native.module() is not None and PLATEAU.is_usual(self)
        return QuietDriver(self) if quiet else HostMetricDriver(self)
