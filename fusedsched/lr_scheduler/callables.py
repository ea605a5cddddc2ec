# SPDX-License-Identifier: Apache-2.0
"""The schedulers that ask the user: a function of the step, or a metric.

They have no closed form. Each step is torch's own, so a function is called exactly when torch calls it and may read
what it likes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling
from torch.optim import Optimizer, lr_scheduler as torch_schedulers

from . import captured, checks
from .saving import Restored
from .scheduled import Scheduled
from .traced import traced_step


class LambdaLR(Scheduled, torch_schedulers.LambdaLR):
    """The base rate times a function of the step.

    lr(t) = base_lr * lr_lambda(t)

    Arguments: the optimizer; `lr_lambda`, a function from the step to a factor, or a list with one for each group;
    `last_epoch` as in StepLR. As `torch.optim.lr_scheduler.LambdaLR`; functions are not saved, callable objects are.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    >>> LambdaLR(opt, lambda t: 0.5 ** t).expressions(steps=3)[0].curve(3)
    [0.8, 0.4, 0.2]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        checks.check_optimizer(optimizer, last_epoch)
        checks.callables(optimizer, lr_lambda)
        super().__init__(optimizer, lr_lambda, last_epoch)


class MultiplicativeLR(Scheduled, torch_schedulers.MultiplicativeLR):
    """The present rate times a function of the step.

    lr(t) = lr(t - 1) * lr_lambda(t), lr(0) = base_lr

    Arguments as LambdaLR. As `torch.optim.lr_scheduler.MultiplicativeLR`; the function is first called for t = 1. A
    group that joins late gets the product of all factors so far, for which the function is called again.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    >>> MultiplicativeLR(opt, lambda t: 0.5).expressions(steps=3)[0].curve(3)
    [0.8, 0.4, 0.2]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        checks.check_optimizer(optimizer, last_epoch)
        checks.callables(optimizer, lr_lambda)
        super().__init__(optimizer, lr_lambda, last_epoch)


class ReduceLROnPlateau(Restored, torch_schedulers.ReduceLROnPlateau):
    """Multiplies the rate by `factor` when a metric has not improved for more than `patience` steps.

    lr = max(lr * factor, min_lr), if that changes it by more than `eps`

    Arguments as `torch.optim.lr_scheduler.ReduceLROnPlateau`: `mode` "min" or "max"; `threshold`, what counts as an
    improvement, relative or absolute by `threshold_mode`; `cooldown`, steps to wait after a reduction; `min_lr`, a rate
    or one for each group. `step(metric)` reads the metric as a float.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    >>> sched = ReduceLROnPlateau(opt, factor=0.5, patience=0)
    >>> for loss in (1.0, 1.0, 0.5):
    ...     sched.step(loss)
    >>> sched.get_last_lr()
    [0.4]
    """

    __slots__ = ()

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
        if isinstance(factor, (int, float)) and factor >= 1.0:
            raise ValueError(f"Factor should be < 1.0. ReduceLROnPlateau got factor={factor}.")
        checks.number(ReduceLROnPlateau, finite=True, factor=factor)
        checks.number(ReduceLROnPlateau, threshold=threshold, min_lr=min_lr, eps=eps)
        checks.number(ReduceLROnPlateau, patience=patience, cooldown=cooldown)
        checks.one_of(f"mode {mode} is unknown!", mode, "min", "max")
        checks.one_of(f"threshold mode {threshold_mode} is unknown!", threshold_mode, "rel", "abs")
        count = len(optimizer.param_groups)
        if isinstance(min_lr, (list, tuple)) and len(min_lr) != count:
            raise ValueError(f"expected {count} min_lrs, got {len(min_lr)}. Give one for all groups, or one for each.")
        super().__init__(optimizer, mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps)

    def step(self, metrics: Any, epoch: int | None = None) -> None:
        """Takes note of a metric (a number or a tensor of one element), and reduces the rate if it is time."""
        if is_dynamo_compiling():
            with torch.no_grad():  # Dynamo passes by methods that do not name torch, and traces what they call
                return traced_step(self, epoch, torch.as_tensor(metrics))
        captured.refuse(self, "step(metrics)")
        if self._gate is not None and not self._gate.moved():
            return
        super().step(metrics, epoch)
