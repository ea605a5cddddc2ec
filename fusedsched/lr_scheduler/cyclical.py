# SPDX-License-Identifier: Apache-2.0
"""The schedulers that compute from their own numbers, whatever the rates were: restarts, triangles, one cycle."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling
from torch.optim import Optimizer

from fusedsched.lr_scheduler import arguments as checks
from fusedsched.torch_originals import schedulers as torch_schedulers

from ..schedules.arguments import is_number
from ..schedules.evaluate import Shape
from ..schedules.expression import Segment
from ..schedules.torch_classes import one_cycle_phases
from .devices import kinds_kept
from .replan import step_in_branch
from .scheduler import DerivedAttribute, SchedulerMixin
from .traced import traced_step
from .watched_values import copied


class CosineAnnealingWarmRestarts(SchedulerMixin, torch_schedulers.CosineAnnealingWarmRestarts):
    """Half a cosine wave from the base rate towards `eta_min`, again and again; the cycles grow by `T_mult`.

    lr = eta_min + (base_lr - eta_min) * (1 + cos(pi * T_cur / T_i)) / 2, T_i = T_0 * T_mult ** cycle

    Arguments: the optimizer; `T_0`, steps of the first cycle, a positive integer; `T_mult`, an integer of 1 or more;
    `eta_min`, a rate; `last_epoch` as in StepLR. `step(epoch)` takes an absolute time, fractions too. As
    `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts` (Loshchilov and Hutter, SGDR, 2016).

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    >>> schedule = CosineAnnealingWarmRestarts(opt, T_0=2).expressions()[0]
    >>> [round(v, 3) for v in schedule.curve(5)]
    [0.8, 0.4, 0.8, 0.4, 0.8]
    """

    __slots__ = ("_phase",)  # T_cur and T_i as they were left, and at which step
    _counts_steps = False
    T_cur, T_i = DerivedAttribute(), DerivedAttribute()

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        checks.check_optimizer(optimizer, last_epoch)
        if not isinstance(T_0, int) or T_0 <= 0:
            raise ValueError(f"Expected positive integer T_0, but got {T_0}. It is a number of steps.")
        if not isinstance(T_mult, int) or T_mult < 1:
            raise ValueError(f"Expected integer T_mult >= 1, but got {T_mult}. It lengthens each cycle.")
        if not isinstance(eta_min, (float, int)):
            raise ValueError(f"Expected float or int eta_min, but got {eta_min} of type {type(eta_min)}")
        checks.number(type(self), finite=True, eta_min=eta_min)
        super().__init__(optimizer, T_0, T_mult, eta_min, last_epoch)

    def step(self, epoch: float | None = None) -> None:
        """Advances by one step, or to the absolute time `epoch`, which may be a fraction of a step past one."""
        if is_dynamo_compiling():
            with torch.no_grad():  # Dynamo skips frames without a torch global and traces what they call
                return traced_step(self, epoch)
        attributes = self.__dict__
        current, length, before = attributes.get("T_cur"), attributes.get("T_i"), attributes.get("last_epoch")
        if self._driver is not None and (current, length) != self._phase[:2]:
            self._detach()  # was set by hand
            self._keep_phase()
        else:
            self._phase = current, length, before
        super().step(epoch)
        now = attributes.get("last_epoch")  # None: a subclass keeps it elsewhere, and torch's code has made the step
        current, length, before = self._phase  # `_seek` has moved them, if replays had made steps
        if now != before and (attributes["T_cur"], attributes["T_i"]) == (current, length):
            self._advance(now - before)
        self._phase = attributes["T_cur"], attributes["T_i"], now

    def _keep_phase(self) -> None:
        attributes = self.__dict__
        self._phase = attributes.get("T_cur"), attributes.get("T_i"), attributes.get("last_epoch")

    def get_lr(self) -> list[Any]:
        """The rates of this step, to the bits that `step()` writes; called by `step()`."""
        current, length, low = self.T_cur, self.T_i, self.eta_min
        if not is_number(current, length, low, *self.base_lrs) or current != int(current):
            return super().get_lr()
        torch_schedulers._warn_get_lr_called_within_step(self)
        return [Segment(Shape.COSINE, start=base, span=length, stop=low)(current) for base in self.base_lrs]

    def _torch_step(self, epoch: float | None) -> None:
        if self._branch is not None and (epoch is None or epoch >= self._branch.begin):
            step_in_branch(self, epoch)
            self.last_epoch = math.floor(self.last_epoch)
            return self._locate(self.last_epoch)
        self._branch = None
        with kinds_kept(self):
            torch_schedulers.CosineAnnealingWarmRestarts.step(self, epoch)

    def _seek(self, clock: int) -> None:
        self._advance(clock - max(self.__dict__["last_epoch"], 0))  # as the steps would; both may be set by hand
        super()._seek(clock)
        self._keep_phase()

    def _advance(self, steps: int) -> None:
        current, length = self.__dict__["T_cur"] + steps, self.__dict__["T_i"]
        while current >= length:
            current, length = current - length, length * self.T_mult
        while current < 0:
            length //= self.T_mult
            current += length
        self.__dict__.update(T_cur=current, T_i=length)

    def _locate(self, epoch: int) -> None:
        """`T_cur` and `T_i` of an absolute step, by counting the cycles before it."""
        current, length = epoch, self.T_0
        while self.T_mult > 1 and current >= length:
            current, length = current - length, length * self.T_mult
        self.__dict__.update(T_cur=current % length, T_i=length)

    def _update_lr(self, epoch: Any = None) -> None:
        self._detach()
        if epoch is not None:
            self._locate(epoch)
        super()._update_lr(epoch)

    def _resume(self, before: list[Any]) -> None:
        self._locate(self.last_epoch)
        self._keep_phase()
        super()._resume(before)


class CyclicLR(SchedulerMixin, torch_schedulers.CyclicLR):
    """Moves the rate between `base_lr` and `max_lr` and back, and momentum or beta1 the other way round.

    lr(t) = base_lr + (max_lr - base_lr) * h * k, h = the triangle's height at t, from 0 to 1;
    k = 1, 0.5 ** cycle or gamma ** t by `mode`, or `scale_fn` of the cycle or step, counted as torch does

    Arguments as `torch.optim.lr_scheduler.CyclicLR` (Smith, Cyclical Learning Rates, 2015); step sizes in steps, up
    above 0, down 0 or more; rates and momenta one for all groups or one each. With a `scale_fn` every step is torch's
    own, and calls it when torch does.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    >>> schedule = CyclicLR(opt, 0.2, 1.0, step_size_up=2, cycle_momentum=False).expressions()[0]
    >>> [round(v, 3) for v in schedule.curve(5)]
    [0.2, 0.6, 1.0, 0.6, 0.2]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float = 0.8,
        max_momentum: float = 0.9,
        last_epoch: int = -1,
    ) -> None:
        checks.check_optimizer(optimizer, last_epoch)
        rates = {"base_lr": base_lr, "max_lr": max_lr}
        momenta = {"base_momentum": base_momentum, "max_momentum": max_momentum} if cycle_momentum else {}
        checks.per_group(optimizer, **rates, **momenta)
        checks.number(CyclicLR, finite=True, gamma=gamma, **rates, **momenta)
        checks.number(CyclicLR, finite=True, least=0.0, nonzero=True, step_size_up=step_size_up)
        if step_size_down is not None:
            checks.number(CyclicLR, finite=True, least=0.0, step_size_down=step_size_down)
        if scale_fn is None:
            checks.one_of("mode is invalid and scale_fn is None.", mode, "triangular", "triangular2", "exp_range")
        checks.cycles_momentum(optimizer, cycle_momentum)
        super().__init__(
            optimizer,
            base_lr,
            max_lr,
            step_size_up,
            step_size_down,
            mode,
            gamma,
            scale_fn,
            scale_mode,
            cycle_momentum,
            base_momentum,
            max_momentum,
            last_epoch,
        )
        if last_epoch >= 0:
            self._update_lr(self.last_epoch)  # torch's first step took initial_lr for base_lr
            super()._resume(self.base_lrs)

    def _resume(self, before: list[Any]) -> None:
        """Waits for the end of the constructor, where torch sets `base_lrs`."""


class OneCycleLR(SchedulerMixin, torch_schedulers.OneCycleLR):
    """From `max_lr / div_factor` up to `max_lr`, then down to 1/final_div_factor of the former; momentum inversely.

    Phases end at steps pct_start * total_steps - 1 and total_steps - 1; with `three_phase` a descent as long as the
    climb comes between. Within a phase the rate is cosine or linear in t.

    Arguments as `torch.optim.lr_scheduler.OneCycleLR` (Smith and Topin, Super-Convergence, 2017). Stepping beyond
    `total_steps` raises ValueError. Phases of no width, on which torch divides by zero, are skipped. The step at
    `total_steps` itself keeps torch's value, which continues the last phase and may be negative.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    >>> OneCycleLR(opt, max_lr=1.0, total_steps=4, pct_start=0.5, anneal_strategy="linear",
    ...     div_factor=2.0, final_div_factor=5.0, cycle_momentum=False).expressions()[0].curve(4)
    [0.5, 1.0, 0.55, 0.1]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        checks.check_optimizer(optimizer, last_epoch)
        momenta = {"base_momentum": base_momentum, "max_momentum": max_momentum} if cycle_momentum else {}
        checks.per_group(optimizer, max_lr=max_lr, **momenta)
        checks.number(OneCycleLR, finite=True, max_lr=max_lr, **momenta)
        checks.number(OneCycleLR, nonzero=True, div_factor=div_factor, final_div_factor=final_div_factor)
        sentence = f"Expected float between 0 and 1 pct_start, but got {pct_start}."
        if not isinstance(pct_start, float) or not 0.0 <= pct_start <= 1.0:
            raise ValueError(f"{sentence} It is the share of the steps that climb.")
        checks.one_of("anneal_strategy must be one of 'cos' or 'linear'.", anneal_strategy, "cos", "linear")
        checks.cycles_momentum(optimizer, cycle_momentum)
        super().__init__(
            optimizer,
            max_lr,
            total_steps,
            epochs,
            steps_per_epoch,
            pct_start,
            anneal_strategy,
            cycle_momentum,
            base_momentum,
            max_momentum,
            div_factor,
            final_div_factor,
            three_phase,
            last_epoch,
        )

    def get_lr(self) -> list[Any]:
        """The rates of this step; sets momentum on the way, as torch's does. Called by `step()`."""
        phases, begin = self._schedule_phases, 0.0
        for phase in phases:
            if phase["end_step"] == begin:
                break
            begin = phase["end_step"]
        else:
            return super().get_lr()
        return self._get_lr_without_empty_phases()

    def _get_lr_without_empty_phases(self) -> list[Any]:
        if self.last_epoch > self.total_steps:
            return super().get_lr()  # raises
        torch_schedulers._warn_get_lr_called_within_step(self)
        begin, end, phase = next(
            (b, e, p) for first, b, e, p in reversed(one_cycle_phases(self)) if first <= self.last_epoch
        )
        share = 1.0 if begin == end else (self.last_epoch - begin) / (end - begin)
        rates = []
        for group in self.optimizer.param_groups:
            rates.append(copied(self._anneal_func(group[phase["start_lr"]], group[phase["end_lr"]], share)))
            if self.cycle_momentum:
                momentum = self._anneal_func(group[phase["start_momentum"]], group[phase["end_momentum"]], share)
                if self.use_beta1:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum
        return rates
