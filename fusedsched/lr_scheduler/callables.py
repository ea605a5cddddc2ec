# SPDX-License-Identifier: Apache-2.0
"""The schedulers that ask the user: a function of the step.

They have no closed form. Each step is torch's own, so a function is called exactly when torch calls it and may read
what it likes.
"""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer

from fusedsched.lr_scheduler import arguments as checks
from fusedsched.torch_originals import schedulers as torch_schedulers

from .scheduler import SchedulerMixin


class LambdaLR(SchedulerMixin, torch_schedulers.LambdaLR):
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


class MultiplicativeLR(SchedulerMixin, torch_schedulers.MultiplicativeLR):
    """The present rate times a function of the step.

    lr(t) = lr(t - 1) * lr_lambda(t), lr(0) = base_lr

    Arguments as LambdaLR. As `torch.optim.lr_scheduler.MultiplicativeLR`; the function is first called for t = 1. A
    group that joins late continues from the rate that it brings.

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
