# SPDX-License-Identifier: Apache-2.0
"""Schedulers made of schedulers. They decide whose turn it is; the members do their own fast steps.

torch loses count when one of these stands inside a SequentialLR: it raises at the milestone, or begins a step early or
late. Here a member that holds others starts afresh when its turn comes, as if it stood alone.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling
from torch.optim import Optimizer, lr_scheduler as torch_schedulers

from ..schedules.compose import Sequence as InTurn, Shift
from ..schedules.convert import closed_form, lowerable
from ..schedules.expression import Schedule
from . import captured, checks
from .live import Live
from .saving import write_lr
from .scheduled import Scheduled
from .standing import Represented
from .traced import traced_step
from .tracks import copied


def _holds_others(scheduler: Any) -> bool:
    return isinstance(scheduler, (torch_schedulers.SequentialLR, torch_schedulers.ChainedScheduler))


def _leaves(scheduler: Any) -> list[Any]:
    if not _holds_others(scheduler):
        return [scheduler]
    return [leaf for member in scheduler._schedulers for leaf in _leaves(member)]


def _rates(scheduler: Any) -> list[Any]:
    return [copied(group["lr"]) for group in scheduler.optimizer.param_groups]


def _turn(scheduler: Any, t: int) -> tuple[Any, int]:
    """Whose turn it is at step t of a SequentialLR, and that member's own step."""
    idx = bisect_right(scheduler._milestones, t)
    return scheduler._schedulers[idx], t - (scheduler._milestones[idx - 1] if idx else 0)


def _restart(scheduler: Any, onto_present: bool = False) -> None:
    """Brings a scheduler to its step 0: from the base rates, or onto what an earlier member of a chain has written."""
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        for leaf in _leaves(scheduler):
            leaf.last_epoch = -1
        scheduler.last_epoch = 0
        _restart(_turn(scheduler, 0)[0], onto_present)
    elif isinstance(scheduler, torch_schedulers.ChainedScheduler):
        for i, member in enumerate(scheduler._schedulers):
            _restart(member, onto_present or i > 0)
    else:
        if not onto_present:
            for group, base in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, strict=False):
                write_lr(group, base)
        scheduler.last_epoch = -1
        scheduler._initial_step()
    _at_rates(scheduler)


def _at_rates(scheduler: Any) -> None:
    """What holds others shows what they wrote; a branch that it was in is over."""
    if _holds_others(scheduler):
        scheduler._last_lr = _rates(scheduler)
        if isinstance(scheduler, Live):
            scheduler._leave()


def _admit(scheduler: Any) -> None:
    """Lets those whose turn it is take in groups that were added to the optimizer since."""
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        _admit(_turn(scheduler, scheduler.last_epoch)[0])
    elif isinstance(scheduler, torch_schedulers.ChainedScheduler):
        for member in scheduler._schedulers:
            _admit(member)
    elif isinstance(scheduler, Scheduled):
        scheduler._admit_at(scheduler.last_epoch)


def _seek(scheduler: Any, t: int) -> None:
    """Brings a scheduler to step t, at the rates that a run from the base would have there."""
    if isinstance(scheduler, Live) and scheduler._in_branch(t):
        return
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        begins = (0, *scheduler._milestones)
        for i, member in enumerate(scheduler._schedulers):
            begin, end = begins[i], begins[i + 1] if i + 1 < len(begins) else t + 1
            if t < begin:
                for leaf in _leaves(member):
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
        _seek_leaf(scheduler, t)
    _at_rates(scheduler)


def _seek_leaf(scheduler: Any, t: int) -> None:
    """From its beginning on, so that a run that is resumed here goes on bit by bit, if it has a closed form."""
    scheduler._update_lr(0)
    if isinstance(scheduler, Scheduled) and scheduler._known():
        if scheduler._counts_steps:
            scheduler._step_count = 1
        scheduler._move(t)
    elif t > 0:
        scheduler._update_lr(t)


class SequentialLR(Represented, torch_schedulers.SequentialLR):
    """Runs schedulers one after the other; each starts at its milestone, at its own step 0.

    Arguments: the optimizer; `schedulers`, one more than `milestones`; `milestones`, steps; `last_epoch` as in StepLR.
    As `torch.optim.lr_scheduler.SequentialLR`, the jump of a warmup that a milestone cuts short included. Members may
    hold others, and OneCycleLR may stand anywhere; with last_epoch=k the members go to where a run from the start has
    them.

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
        with warnings.catch_warnings():
            if any(map(_holds_others, schedulers)):  # torch steps the members' members, which is undone below
                warnings.filterwarnings("ignore", "Detected call of|Seems like", UserWarning)
            super().__init__(optimizer, schedulers, milestones, last_epoch)
        first = _turn(self, 0)[0]
        one_cycle = any(isinstance(s, torch_schedulers.OneCycleLR) for s in schedulers)
        if last_epoch >= 0:
            _seek(self, last_epoch + 1)
        elif any(map(_holds_others, schedulers)) or (one_cycle and hasattr(first, "base_lrs")):
            # torch counted the members' members wrongly, or took OneCycleLR's initial_lr for everybody's.
            _restart(self)

    def step(self) -> None:
        """Advances by one step: the member whose turn it is does."""
        if is_dynamo_compiling():
            with torch.no_grad():  # Dynamo passes by methods that do not name torch, and traces what they call
                return traced_step(self)
        if captured.step(self):
            return
        if self._in_branch(None):
            return
        member, local = _turn(self, self.last_epoch + 1)
        if local == 0 and _holds_others(member):
            self.last_epoch += 1
            _restart(member)
            self._last_lr = member.get_last_lr()
        else:
            super().step()

    def _admit_at(self, clock: int) -> None:
        _admit(_turn(self, clock)[0])  # which has not moved since

    def _programs(self) -> captured.Programs | None:
        if self._branch is not None:
            return self._working()._programs()
        groups, clock = range(len(self.optimizer._groups())), self.__dict__["last_epoch"]
        if any(getattr(leaf, "cycle_momentum", False) for leaf in _leaves(self)):
            return None
        schedules = [self._ahead(i, clock) for i in groups]
        if None in schedules:
            return None
        for group, schedule in zip(self.optimizer._groups(), schedules, strict=True):
            if abs(schedule(clock) - group["lr"]) > 1e-9 * abs(group["lr"]):
                return None  # was written to: the members carry that on each in its own way
        programs = [schedule.lower().table for schedule in schedules]
        return captured.Programs(programs, list(groups), [-1] * len(groups), "")

    def _ahead(self, i: int, clock: int) -> Schedule | None:
        """What it does to group i from here on: the member whose turn it is from where that stands."""
        idx, (member, local) = bisect_right(self._milestones, clock), _turn(self, clock)
        now = member._ahead(i) if isinstance(member, Scheduled) else closed_form(member, i)
        parts = [now, *(closed_form(later, i) for later in self._schedulers[idx + 1 :])]
        if None in parts:
            return None
        return lowerable(InTurn, (Shift(now, clock - local), *parts[1:]), self._milestones[idx:])

    def _move(self, clock: int) -> None:
        if self._branch is not None:
            self._working()._move(clock)
            return self._show()
        (before, _), (member, local) = _turn(self, self.__dict__["last_epoch"]), _turn(self, clock)
        if member is before and isinstance(member, Scheduled) and member._known():
            member._move(local)
            self.__dict__["last_epoch"], self.__dict__["_last_lr"] = clock, _rates(self)
        else:
            _seek(self, clock)


class ChainedScheduler(Represented, torch_schedulers.ChainedScheduler):
    """Steps several schedulers at once, each from the rate that the one before it leaves.

    For those that multiply the rate the result is the product of the factors; one that computes from its own numbers
    (LambdaLR, CosineAnnealingWarmRestarts, OneCycleLR, CyclicLR) overwrites what came before it.

    Arguments: `schedulers`, at least one; `optimizer`, theirs. As `torch.optim.lr_scheduler.ChainedScheduler`.

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

    def step(self) -> None:
        """Advances by one step: all members do, in their order."""
        if is_dynamo_compiling():
            with torch.no_grad():  # Dynamo passes by methods that do not name torch, and traces what they call
                return traced_step(self)
        if self._branch is not None:
            captured.refuse(self, "step()")
        if not self._in_branch(None):
            super().step()

    def _admit_at(self, clock: int) -> None:
        for member in self._schedulers:
            _admit(member)
