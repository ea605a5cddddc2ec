# SPDX-License-Identifier: Apache-2.0
"""Schedulers made of schedulers. They decide whose turn it is; the members do their own fast steps.

torch loses count when one of these stands inside a SequentialLR: it raises at the milestone, or begins a step early or
late. Here a member that holds others starts afresh when its turn comes, as if it stood alone. A member that follows a
metric, which torch refuses, does too: from the base rates, with no metric seen.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling
from torch.optim import Optimizer, lr_scheduler as torch_schedulers

from fusedsched.lr_scheduler import arguments as checks, captured

from .composed import Composite, decide_for
from .members import (
    admit,
    advance,
    check_resumable,
    metric_for,
    present_rates,
    restart,
    seated,
    seek,
    takes_metric,
)
from .metrics import Noted, hosted, leave_device
from .observing import is_capturing
from .scheduled import Scheduled
from .traced import as_metric, traced_step
from .turns import step_on_device
from .whole import holds_others, turn


class SequentialLR(Composite, torch_schedulers.SequentialLR):
    """Runs schedulers one after the other; each starts at its milestone, at its own step 0.

    Arguments: the optimizer; `schedulers`, one more than `milestones`; `milestones`, steps; `last_epoch` as in StepLR.
    As `torch.optim.lr_scheduler.SequentialLR`, the jump of a warmup that a milestone cuts short included. Members may
    hold others, and OneCycleLR may stand anywhere; with last_epoch=k the members go to where a run from the start has
    them. ReduceLROnPlateau and GreedyLR may be members: after the milestone, which sets the base rates, `step(metric)`
    hands them the metric. Whether a skipped update counts (`advance_on_skip`) is for this scheduler to say, not for its
    members.

    >>> import torch
    >>> from fusedsched.lr_scheduler import ExponentialLR, LinearLR
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
    >>> warmup, decay = LinearLR(opt, start_factor=0.5, total_iters=2), ExponentialLR(opt, gamma=0.5)
    >>> schedule = SequentialLR(opt, [warmup, decay], milestones=[2]).expressions()[0]
    >>> [round(v, 3) for v in schedule.curve(5)]
    [0.4, 0.6, 0.8, 0.4, 0.2]
    """

    __slots__ = ()
    last_epoch, _last_lr = Noted(), Noted()

    def __init__(
        self, optimizer: Optimizer, schedulers: list[Any], milestones: list[int], last_epoch: int = -1
    ) -> None:
        checks.check_optimizer(optimizer, last_epoch)
        checks.milestones(SequentialLR, milestones)
        if last_epoch >= 0:
            for begin, member in zip((0, *milestones), schedulers, strict=False):
                check_resumable(member, last_epoch + 1 - begin)
        with warnings.catch_warnings():
            if any(map(holds_others, schedulers)):  # torch steps the members' members, which is undone below
                warnings.filterwarnings("ignore", "Detected call of|Seems like", UserWarning)
            super().__init__(optimizer, seated(schedulers), milestones, last_epoch)
        self._schedulers = schedulers
        decide_for(self)
        first = turn(self, 0)[0]
        one_cycle = any(isinstance(s, torch_schedulers.OneCycleLR) for s in schedulers)
        if last_epoch >= 0:
            seek(self, last_epoch + 1)
        elif any(holds_others(s) or takes_metric(s) for s in schedulers) or (one_cycle and hasattr(first, "base_lrs")):
            # torch counted the members' members wrongly, or took OneCycleLR's initial_lr for everybody's.
            restart(self)

    def step(self, metrics: Any = None) -> None:
        """Advances by one step: the member whose turn it is does.

        `metrics`: as ReduceLROnPlateau takes it. Raises TypeError without one where such a member is due.
        """
        if is_dynamo_compiling():
            with torch.no_grad():  # Dynamo passes by methods that do not name torch, and traces what they call
                return traced_step(self, None, as_metric(metrics))
        depth = self._metric_depth()
        if depth == 1:
            return self._step_by_metric(metrics)
        if self._step_as_one() or self._in_branch(None):
            return
        if self._follower is None:
            return self._step_on_host(metric_for(self, metrics) if depth else None)
        with captured.paused(self):
            self._step_on_host(metric_for(self, metrics) if depth else None)

    def _step_by_metric(self, metrics: Any) -> None:
        if self._gate is not None and not is_capturing(self.optimizer) and not self._gate.moved():
            return
        if self._branch is not None:
            captured.refuse(self, "step(metrics)")
        if self._in_branch(None) or step_on_device(self, metrics):
            return
        with hosted(self):
            self._step_on_host(metric_for(self, metrics))

    def _step_on_host(self, metric: float | None) -> None:
        member, local = turn(self, self.last_epoch + 1)
        if local == 0 and (holds_others(member) or takes_metric(member)):
            self.last_epoch += 1
            restart(member)
        elif metric is not None:
            self.last_epoch += 1
            advance(member, metric)
        elif local == 0 or self._follower is not None:
            return super().step()
        else:  # as torch's
            self.__dict__["last_epoch"] += 1
            member.step()
            self.__dict__["_last_lr"] = member.get_last_lr()
            return
        self._last_lr = member.get_last_lr()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` of this class or of torch's wrote, the rates included."""
        with hosted(self):
            super().load_state_dict(state_dict)

    def _leave_device(self) -> None:
        leave_device(self)

    def _admit_at(self, clock: int) -> None:
        admit(turn(self, clock)[0])  # which has not moved since

    def _move(self, clock: int) -> None:
        if self._track is not None or self._branch is not None:
            return super()._move(clock)
        (before, _), (member, local) = turn(self, self.__dict__["last_epoch"]), turn(self, clock)
        if member is before and isinstance(member, Scheduled) and member._known():
            member._anchor()
            member._move(local)
            self.__dict__["last_epoch"], self.__dict__["_last_lr"] = clock, present_rates(self)
        elif member is before:
            super()._move(clock)  # an edit goes on
        else:
            seek(self, clock)


class ChainedScheduler(Composite, torch_schedulers.ChainedScheduler):
    """Steps several schedulers at once, each from the rate that the one before it leaves.

    For those that multiply the rate the result is the product of the factors; one that computes from its own numbers
    (LambdaLR, CosineAnnealingWarmRestarts, OneCycleLR, CyclicLR) overwrites what came before it. ReduceLROnPlateau and
    GreedyLR work from the rate that they find; `step(metric)` hands them the metric.

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
        super().__init__(seated(schedulers), optimizer)
        self._schedulers = schedulers
        decide_for(self)

    def step(self, metrics: Any = None) -> None:
        """Advances by one step: all members do, in their order.

        `metrics`: as ReduceLROnPlateau takes it. Raises TypeError without one where such a member is due.
        """
        if is_dynamo_compiling():
            with torch.no_grad():  # Dynamo passes by methods that do not name torch, and traces what they call
                return traced_step(self, None, as_metric(metrics))
        metric = metric_for(self, metrics) if self._metric_depth() and self._branch is None else None
        if self._step_as_one() or self._in_branch(None):
            return
        if metric is None and self._follower is None:
            return super().step()
        with captured.paused(self):
            if metric is None:
                return super().step()
            for member in self._schedulers:
                advance(member, metric)
            self._last_lr = present_rates(self)

    def _admit_at(self, clock: int) -> None:
        for member in self._schedulers:
            admit(member)
