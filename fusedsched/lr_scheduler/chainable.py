# SPDX-License-Identifier: Apache-2.0
"""The schedulers whose torch twins multiply the present rate: each step in closed form, from the last edit on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer

from fusedsched.lr_scheduler import arguments as checks
from fusedsched.torch_originals import SWALR as TorchSWALR, schedulers as torch_schedulers

from .scheduler import SchedulerMixin
from .watched_values import copied


class StepLR(SchedulerMixin, torch_schedulers.StepLR):
    """Multiplies the rate by `gamma` every `step_size` steps.

    lr(t) = base_lr * gamma ** (t // step_size)

    Arguments: the optimizer; `step_size`, in steps, above 0; `gamma`, a factor; `last_epoch`, the last finished step of
    a run that is resumed, -1 for none. As `torch.optim.lr_scheduler.StepLR`. ValueError for a step_size of 0 or less.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    >>> StepLR(opt, step_size=2, gamma=0.5).expressions()[0].curve(5)
    [0.8, 0.8, 0.4, 0.4, 0.2]
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        checks.check_optimizer(optimizer, last_epoch)
        checks.positive(StepLR, step_size=step_size)
        checks.number(StepLR, finite=True, gamma=gamma)
        super().__init__(optimizer, step_size, gamma, last_epoch)


class MultiStepLR(SchedulerMixin, torch_schedulers.MultiStepLR):
    """Multiplies the rate by `gamma` at each milestone; one that is listed twice counts twice.

    lr(t) = base_lr * gamma ** (number of milestones <= t)

    Arguments: the optimizer; `milestones`, steps; `gamma`, a factor; `last_epoch` as in StepLR. As
    `torch.optim.lr_scheduler.MultiStepLR`.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    >>> MultiStepLR(opt, milestones=[1, 3], gamma=0.5).expressions()[0].curve(5)
    [0.8, 0.4, 0.4, 0.2, 0.2]
    """

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        checks.check_optimizer(optimizer, last_epoch)
        milestones = list(milestones)
        checks.number(MultiStepLR, milestones=milestones)
        checks.number(MultiStepLR, finite=True, gamma=gamma)
        super().__init__(optimizer, milestones, gamma, last_epoch)


class ConstantLR(SchedulerMixin, torch_schedulers.ConstantLR):
    """Multiplies the rate by `factor` until step `total_iters`, then takes that back.

    lr(t) = base_lr * factor if t < total_iters else base_lr

    Arguments: the optimizer; `factor`, from 0 to 1; `total_iters`, in steps; `last_epoch` as in StepLR. As
    `torch.optim.lr_scheduler.ConstantLR`, which divides by zero for factor=0; here the base rate comes back.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    >>> ConstantLR(opt, factor=0.25, total_iters=2).expressions()[0].curve(4)
    [0.2, 0.2, 0.8, 0.8]
    """

    def __init__(
        self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1
    ) -> None:
        checks.check_optimizer(optimizer, last_epoch)
        sentence = "Constant multiplicative factor expected to be between 0 and 1."
        checks.between(ConstantLR, sentence, 0.0, 1.0, factor=factor)
        checks.number(ConstantLR, total_iters=total_iters)
        super().__init__(optimizer, factor, total_iters, last_epoch)

    def get_lr(self) -> list[Any]:
        """The rates of this step, from the present ones; called by `step()`."""
        if self.factor == 0 and self.last_epoch == self.total_iters != 0:
            torch_schedulers._warn_get_lr_called_within_step(self)
            return list(self.base_lrs)
        return super().get_lr()


class LinearLR(SchedulerMixin, torch_schedulers.LinearLR):
    """Scales the rate linearly from `start_factor` to `end_factor` over `total_iters` steps, then holds.

    lr(t) = base_lr * (start_factor + (end_factor - start_factor) * min(t, total_iters) / total_iters)

    Arguments: the optimizer; `start_factor`, above 0, to 1; `end_factor`, from 0 to 1; `total_iters`, in steps;
    `last_epoch` as in StepLR. As `torch.optim.lr_scheduler.LinearLR`; total_iters=0 stays at the start factor.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    >>> schedule = LinearLR(opt, start_factor=0.5, total_iters=2).expressions()[0]
    >>> [round(v, 3) for v in schedule.curve(4)]
    [0.4, 0.6, 0.8, 0.8]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        checks.check_optimizer(optimizer, last_epoch)
        sentence = "Starting multiplicative factor expected to be greater than 0 and less or equal to 1."
        checks.between(LinearLR, sentence, 0.0, 1.0, open_low=True, start_factor=start_factor)
        sentence = "Ending multiplicative factor expected to be between 0 and 1."
        checks.between(LinearLR, sentence, 0.0, 1.0, end_factor=end_factor)
        checks.number(LinearLR, total_iters=total_iters)
        super().__init__(optimizer, start_factor, end_factor, total_iters, last_epoch)

    def _get_closed_form_lr(self) -> list[Any]:
        if self.total_iters == 0:  # where torch divides by zero
            return [base * self.start_factor for base in self.base_lrs]
        return super()._get_closed_form_lr()


class ExponentialLR(SchedulerMixin, torch_schedulers.ExponentialLR):
    """Multiplies the rate by `gamma` at every step.

    lr(t) = base_lr * gamma ** t

    Arguments: the optimizer; `gamma`, a factor; `last_epoch` as in StepLR. As
    `torch.optim.lr_scheduler.ExponentialLR`, without the drift that its recursion has in float32.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    >>> ExponentialLR(opt, gamma=0.5).expressions()[0].curve(4)
    [0.8, 0.4, 0.2, 0.1]
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        checks.check_optimizer(optimizer, last_epoch)
        checks.number(ExponentialLR, finite=True, gamma=gamma)
        super().__init__(optimizer, gamma, last_epoch)


class PolynomialLR(SchedulerMixin, torch_schedulers.PolynomialLR):
    """Lets the rate fall to zero as a power of the steps that are left, then holds.

    lr(t) = base_lr * (1 - min(t, total_iters) / total_iters) ** power

    Arguments: the optimizer; `total_iters`, in steps; `power`, 0 or more; `last_epoch` as in StepLR. As
    `torch.optim.lr_scheduler.PolynomialLR`. ValueError for a negative power: it would divide by zero at the end.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    >>> PolynomialLR(opt, total_iters=2, power=2.0).expressions()[0].curve(4)
    [0.8, 0.2, 0.0, 0.0]
    """

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        checks.check_optimizer(optimizer, last_epoch)
        checks.number(PolynomialLR, total_iters=total_iters)
        checks.number(PolynomialLR, finite=True, least=0.0, power=power)
        super().__init__(optimizer, total_iters, power, last_epoch)

    def _get_closed_form_lr(self) -> list[Any]:
        if self.total_iters == 0:  # where torch divides by zero
            return [copied(base) for base in self.base_lrs]
        return super()._get_closed_form_lr()


class CosineAnnealingLR(SchedulerMixin, torch_schedulers.CosineAnnealingLR):
    """Half a cosine wave from the base rate down to `eta_min` over `T_max` steps; then it climbs again.

    lr(t) = eta_min + (base_lr - eta_min) * (1 + cos(pi * t / T_max)) / 2

    Arguments: the optimizer; `T_max`, in steps, above 0; `eta_min`, a rate; `last_epoch` as in StepLR. As
    `torch.optim.lr_scheduler.CosineAnnealingLR`, the climb past T_max included (Loshchilov and Hutter, SGDR, 2016,
    without the restarts). A schedule that holds is `schedules.cosine`. ValueError for a T_max of 0 or less.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    >>> schedule = CosineAnnealingLR(opt, T_max=2).expressions()[0]
    >>> [round(v, 3) for v in schedule.curve(5)]
    [0.8, 0.4, 0.0, 0.4, 0.8]
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        checks.check_optimizer(optimizer, last_epoch)
        checks.positive(CosineAnnealingLR, T_max=T_max)
        checks.number(CosineAnnealingLR, finite=True, eta_min=eta_min)
        super().__init__(optimizer, T_max, eta_min, last_epoch)


class SWALR(SchedulerMixin, TorchSWALR):
    """Anneals each group's present rate to `swa_lr` over `anneal_epochs` steps, then holds.

    lr(t) = swa_lr * a + (1 - a) * lr(0), a = (1 - cos(pi * t / anneal_epochs)) / 2 or t / anneal_epochs

    Arguments: the optimizer; `swa_lr`, a rate or one for each group; `anneal_epochs`, in steps; `anneal_strategy`,
    "cos" or "linear"; `last_epoch`. As `torch.optim.swa_utils.SWALR`: it counts its own steps, and begins, when it
    first steps, from the rate that the group has then.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    >>> schedule = SWALR(opt, swa_lr=0.4, anneal_epochs=2, anneal_strategy="linear").expressions()[0]
    >>> [round(v, 3) for v in schedule.curve(4)]
    [0.8, 0.6, 0.4, 0.4]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float,
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        checks.check_optimizer(optimizer, last_epoch)
        checks.per_group(optimizer, swa_lr=swa_lr)
        checks.number(SWALR, finite=True, swa_lr=swa_lr)
        checks.one_of("anneal_strategy must be one of 'cos' or 'linear'.", anneal_strategy, "cos", "linear")
        if type(anneal_epochs) is not int or anneal_epochs < 0:
            raise ValueError(
                f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}. It is a number of steps."
            )
        super().__init__(optimizer, swa_lr, anneal_epochs, anneal_strategy, last_epoch)

    def _resume(self, before: list[Any]) -> None:
        """Keeps the rates: it starts from the present ones whenever it is built, as torch's does."""
