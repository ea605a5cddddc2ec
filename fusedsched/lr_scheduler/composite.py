# SPDX-License-Identifier: Apache-2.0
"""Schedulers made of schedulers. They decide whose turn it is; the members do their own fast steps.

torch loses count when one of these stands inside a SequentialLR: it raises at the milestone, or begins a step early or
late. Here a member that holds others starts afresh when its turn comes, as if it stood alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling
from torch.optim import Optimizer, lr_scheduler as torch_schedulers

from ..schedules.evaluate import evaluate
from . import captured, checks, device, skips
from .rows import Programs
from .saving import Restored, write_lr
from .traced import traced_step
from .tracks import copied
from .whole import clock_of, count_to, holds_others, leaves, programs, tables, track_of, turn


def _rates(scheduler: Any) -> list[Any]:
    return [copied(group["lr"]) for group in scheduler.optimizer.param_groups]


def _restart(scheduler: Any, onto_present: bool = False) -> None:
    """Brings a scheduler to its step 0: from the base rates, or onto what an earlier member of a chain has written."""
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        for leaf in leaves(scheduler):
            leaf.last_epoch = -1
        scheduler.last_epoch = 0
        _restart(turn(scheduler, 0)[0], onto_present)
    elif isinstance(scheduler, torch_schedulers.ChainedScheduler):
        for i, member in enumerate(scheduler._schedulers):
            _restart(member, onto_present or i > 0)
    else:
        if not onto_present:
            for group, base in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, strict=False):
                write_lr(group, base)
        scheduler.last_epoch = -1
        scheduler._initial_step()
    if holds_others(scheduler):
        scheduler._last_lr = _rates(scheduler)


def _seek(scheduler: Any, t: int) -> None:
    """Brings a scheduler to step t, at the rates that a run from the base would have there."""
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        begins = (0, *scheduler._milestones)
        for i, member in enumerate(scheduler._schedulers):
            begin, end = begins[i], begins[i + 1] if i + 1 < len(begins) else t + 1
            if t < begin:
                for leaf in leaves(member):
                    leaf.last_epoch = -1
            elif end > max(begin, 0):
                _seek(member, min(t, end - 1) - begin)
        scheduler.last_epoch = t
    elif isinstance(scheduler, torch_schedulers.ChainedScheduler):
        _restart(scheduler)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about optimizer.step(), which nobody could have called yet
            for _ in range(t):
                for member in scheduler._schedulers:
                    member.step()
    else:
        scheduler._update_lr(t)
    if holds_others(scheduler):
        scheduler._last_lr = _rates(scheduler)


def _decide_for(scheduler: Any) -> None:
    """Whether its members hold is for this one to decide."""
    for leaf in leaves(scheduler):
        if isinstance(leaf, Restored):
            leaf._gate = None


class Composite(Restored):
    """Mixin for what is made of members. Where its rates are on a device, it is one program and the members only
    count; else they do their own steps."""

    __slots__ = ("_apart",)  # whether its members do their own steps, since no kernel knows the whole

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._apart = False
        return self

    def _step_as_one(self) -> bool:
        """The step, if a kernel does it or counts it, or if there is none."""
        if self._gate is not None and skips.holds(self):
            return True
        if captured.step(self):
            return True
        for _ in range(2):  # the second with new tables
            if self._track is not None and self._track.step(self.__dict__):
                self._stepped()
                return True
            self._drop_track()
            if not self._may_be_one():
                break
            self._track = track_of(self)
            self._apart = self._track is None
            if self._track is not None and self._gate is not None:
                self._follower = device.Driver(self)
        return self._gate is not None and skips.holds_after_waiting(self)

    def _may_be_one(self) -> bool:
        # torch's warning about the order of calls is a member's to give, in its first step.
        called = getattr(self.optimizer, "_opt_called", False)
        return called and not self._apart and device.place_of(self.optimizer) is not None

    def _steps_counted(self) -> int:
        return clock_of(self)

    def _stepped(self) -> None:
        count_to(self, self._track.clock)

    def _drop_track(self) -> None:
        if self._track is not None:
            self._show_rates()
            self._track = None

    def _rebase(self, edited: bool = False) -> None:
        self._drop_track()
        self._apart = False
        if not self._capturing_now():
            self._track = track_of(self)

    def _has_form(self) -> bool:
        known = all(isinstance(leaf, Restored) and leaf._has_form() for leaf in leaves(self))
        return known and not self._apart

    def _programs(self) -> Programs | None:
        return programs(self)

    def _move(self, clock: int) -> None:
        count_to(self, clock)
        if self._track is not None:
            self._track.move(clock)
            return
        for group, table in zip(device.groups_of(self.optimizer), tables(self), strict=True):
            write_lr(group, evaluate(table, clock))
        self.__dict__["_last_lr"] = _rates(self)
        turn_of = self
        while holds_others(turn_of):
            turn_of = turn(turn_of, clock_of(turn_of))[0] if hasattr(turn_of, "_milestones") else turn_of._schedulers[-1]
        turn_of.__dict__["_last_lr"] = _rates(self)

    def _loaded(self, ours: dict[str, Any]) -> None:
        self._track, self._apart = None, False


class SequentialLR(Composite, torch_schedulers.SequentialLR):
    """Runs schedulers one after the other; each starts at its milestone, at its own step 0.

    Arguments: the optimizer; `schedulers`, one more than `milestones`; `milestones`, steps; `last_epoch` as in StepLR.
    As `torch.optim.lr_scheduler.SequentialLR`, the jump of a warmup that a milestone cuts short included. Members may
    hold others, and OneCycleLR may stand anywhere; with last_epoch=k the members go to where a run from the start has
    them. Whether a skipped update counts (`advance_on_skip`) is for this scheduler to say, not for its members.

    >>> import torch
    >>> from fusedsched.lr_scheduler import ExponentialLR, LinearLR
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    >>> warmup, decay = LinearLR(opt, start_factor=0.5, total_iters=2), ExponentialLR(opt, gamma=0.5)
    >>> schedule = SequentialLR(opt, [warmup, decay], milestones=[2]).expressions()[0]
    >>> [round(v, 3) for v in schedule.curve(5)]
    [0.4, 0.6, 0.8, 0.4, 0.2]
    """

    __slots__ = ()

    def __init__(
        self, optimizer: Optimizer, schedulers: list[Any], milestones: list[int], last_epoch: int = -1
    ) -> None:
        checks.check_optimizer(optimizer, last_epoch)
        checks.milestones(SequentialLR, milestones)
        super().__init__(optimizer, schedulers, milestones, last_epoch)
        _decide_for(self)
        first = turn(self, 0)[0]
        one_cycle = any(isinstance(s, torch_schedulers.OneCycleLR) for s in schedulers)
        if last_epoch >= 0:
            _seek(self, last_epoch + 1)
        elif any(map(holds_others, schedulers)) or (one_cycle and hasattr(first, "base_lrs")):
            # torch counted the members' members wrongly, or took OneCycleLR's initial_lr for everybody's.
            _restart(self)

    def step(self) -> None:
        """Advances by one step: the member whose turn it is does."""
        if is_dynamo_compiling():
            with torch.no_grad():  # Dynamo passes by methods that do not name torch, and traces what they call
                return traced_step(self)
        if self._step_as_one():
            return
        with captured.paused(self):
            member, local = turn(self, self.last_epoch + 1)
            if local == 0 and holds_others(member):
                self.last_epoch += 1
                _restart(member)
                self._last_lr = member.get_last_lr()
            else:
                super().step()


class ChainedScheduler(Composite, torch_schedulers.ChainedScheduler):
    """Steps several schedulers at once, each from the rate that the one before it leaves.

    For those that multiply the rate the result is the product of the factors; one that computes from its own numbers
    (LambdaLR, CosineAnnealingWarmRestarts, OneCycleLR, CyclicLR) overwrites what came before it.

    Arguments: `schedulers`, at least one; `optimizer`, theirs. As `torch.optim.lr_scheduler.ChainedScheduler`. Its
    `advance_on_skip` goes for all of them.

    >>> import torch
    >>> from fusedsched.lr_scheduler import ExponentialLR, StepLR
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    >>> halves, quarters = ExponentialLR(opt, gamma=0.5), StepLR(opt, step_size=2, gamma=0.25)
    >>> schedule = ChainedScheduler([halves, quarters]).expressions()[0]
    >>> [round(v, 3) for v in schedule.curve(4)]
    [0.8, 0.4, 0.05, 0.025]
    """

    __slots__ = ()

    def __init__(self, schedulers: Sequence[Any], optimizer: Optimizer | None = None) -> None:
        super().__init__(schedulers, optimizer)
        _decide_for(self)

    def step(self) -> None:
        """Advances by one step: all members do, in their order."""
        if is_dynamo_compiling():
            with torch.no_grad():  # Dynamo passes by methods that do not name torch, and traces what they call
                return traced_step(self)
        if not self._step_as_one():
            with captured.paused(self):
                super().step()
