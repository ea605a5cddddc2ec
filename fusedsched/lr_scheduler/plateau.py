# SPDX-License-Identifier: Apache-2.0
"""ReduceLROnPlateau. On the host the decision is torch's own code; on a device it is `csrc/core/metric.h`."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from fusedsched.lr_scheduler import arguments as checks
from fusedsched.torch_originals import schedulers as torch_schedulers

from .boards import Asked, Bounds, Known
from .metric import MetricScheduler, overrides
from .torch_driver import torch_view
from .watched_values import copied

COMPARISONS = {("min", "rel"): 0, ("min", "abs"): 1, ("max", "rel"): 2}  # fs::Comparison; torch takes all others for 3


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

    __slots__ = ("_view",)  # torch's class over the attributes of this one

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
        view = getattr(self, "_view", None) if self._mirror is None else self
        if view is None or view.__dict__ is not self.__dict__:
            view = self._view = torch_view(self)
        torch_schedulers.ReduceLROnPlateau.step(self if view is None else view, metrics, epoch)

    def _start_over(self) -> None:
        self._reset()
        self.last_epoch = 0
        self._last_lr = [copied(group["lr"]) for group in self.optimizer.param_groups]

    def _usual(self) -> bool:
        return not overrides(self, torch_schedulers.ReduceLROnPlateau, "_is_better", "_reduce_lr", "in_cooldown")

    def _asked(self) -> Asked:
        comparison = COMPARISONS.get((self.mode, self.threshold_mode), 3)
        return Asked(0, comparison, self.factor, self.threshold, self.patience, self.cooldown, 0.0, self.eps, 0, 0.0)

    def _known(self) -> tuple[Known, list[float]]:
        state = self.__dict__
        counts = state["num_bad_epochs"], 0.0, state["cooldown_counter"], 0.0, 0.0, state["last_epoch"]
        return Known(state["best"], *counts), []

    def _learn(self, known: Known, window: list[float]) -> None:
        self._note("best", known.best, integer=False)
        self._note("num_bad_epochs", known.bad)
        self._note("cooldown_counter", known.cooldown_counter)
        self._note("last_epoch", known.epoch)

    def _misfit(self, count: int) -> str | None:
        if len(self.min_lrs) == count or self.default_min_lr is not None:
            return None
        return (
            f"The number of param groups in the `optimizer` ({count}) differs from when `ReduceLROnPlateau` was "
            f"initialized ({len(self.min_lrs)}), usually due to a new param group being added to the optimizer. Please "
            "modify the `min_lrs` field to match the length of the `optimizer` param groups."
        )

    def _bounds(self, count: int) -> list[Bounds]:
        least = self.min_lrs if len(self.min_lrs) == count else [self.default_min_lr] * count
        return [Bounds(float(low), 0.0, 0.0) for low in least]
