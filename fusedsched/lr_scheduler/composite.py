# SPDX-License-Identifier: Apache-2.0
"""Schedulers made of schedulers. They decide whose turn it is; the members do their own fast steps.

torch loses count when one of these stands inside a SequentialLR: it raises at the milestone, or begins a step early or
late. Here a member that holds others starts afresh when its turn comes, as if it stood alone. A member that follows a
metric, which torch refuses, does too: from the base rates, with no metric seen.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling
from torch.optim import Optimizer, lr_scheduler as torch_schedulers

from ..schedules.convert import closed_form
from . import captured, checks
from .metrics import MetricDriven
from .observing import is_capturing
from .plateau import ReduceLROnPlateau
from .saving import Restored, write_lr
from .traced import as_metric, traced_step
from .tracks import copied


def _holds_others(scheduler: Any) -> bool:
    return isinstance(scheduler, (torch_schedulers.SequentialLR, torch_schedulers.ChainedScheduler))


def _leaves(scheduler: Any) -> list[Any]:
    if not _holds_others(scheduler):
        return [scheduler]
    return [leaf for member in scheduler._schedulers for leaf in _leaves(member)]


def _takes_metric(scheduler: Any) -> bool:
    return isinstance(scheduler, (MetricDriven, torch_schedulers.ReduceLROnPlateau))


class _Seat:
    """Stands where a member that follows a metric will be, while torch's constructor looks at the members."""

    def __init__(self, member: Any) -> None:
        self.optimizer = member.optimizer
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", copied(group["lr"]))

    def _initial_step(self) -> None:
        """Its member begins once the constructor is done."""

    def get_last_lr(self) -> list[Any]:
        return _rates(self)


def _seated(schedulers: Any) -> Any:
    """The members as torch may see them."""
    if not isinstance(schedulers, Sequence) or not any(map(_takes_metric, schedulers)):
        return schedulers
    return [type(type(s).__name__, (_Seat,), {})(s) if _takes_metric(s) else s for s in schedulers]


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
    elif _takes_metric(scheduler):
        for group in () if onto_present else scheduler.optimizer.param_groups:
            write_lr(group, group["initial_lr"])
        start_over = scheduler._begin_again if isinstance(scheduler, MetricDriven) else None
        ReduceLROnPlateau._start_over(scheduler) if start_over is None else start_over()
    else:
        if not onto_present:
            for group, base in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, strict=False):
                write_lr(group, base)
        scheduler.last_epoch = -1
        scheduler._initial_step()
    if _holds_others(scheduler):
        scheduler._last_lr = _rates(scheduler)


def _due(scheduler: Any) -> list[Any]:
    """The members that get a metric at the next step."""
    if _takes_metric(scheduler):
        return [scheduler]
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        member, local = _turn(scheduler, scheduler.__dict__["last_epoch"] + 1)
        return [] if local == 0 else _due(member)
    if isinstance(scheduler, torch_schedulers.ChainedScheduler):
        return [leaf for member in scheduler._schedulers for leaf in _due(member)]
    return []


def _metric(scheduler: Any, given: Any) -> float | None:
    """The metric for the members that are due; None: there are none. Raises TypeError where it is missing."""
    due = _due(scheduler)
    if not due:
        return None
    if given is None:
        raise TypeError(
            f"{type(scheduler).__name__}.step() needs a metric now: {type(due[0]).__name__} follows one. "
            "Call step(metric)."
        )
    checks.metric(scheduler, given)
    if is_capturing(scheduler.optimizer):
        raise RuntimeError(
            f"{type(scheduler).__name__}.step(metrics) cannot be captured: it reads the metric for its members. Call it "
            "outside of the graph, or put the metric-driven scheduler into the graph alone."
        )
    return float(given)


def _advance(scheduler: Any, metric: float) -> None:
    """One step of a member, with the metric if it is one for it."""
    scheduler.step(metric) if _due(scheduler) else scheduler.step()


def _check_resumable(scheduler: Any, t: int) -> None:
    """No member has followed metrics by step t: nobody knows them any more."""
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        begins = (0, *scheduler._milestones)
        for begin, member in zip(begins, scheduler._schedulers, strict=True):
            _check_resumable(member, t - begin)
    elif isinstance(scheduler, torch_schedulers.ChainedScheduler):
        for member in scheduler._schedulers:
            _check_resumable(member, t)
    elif _takes_metric(scheduler) and t > 0:
        raise ValueError(
            f"last_epoch: by step {t} of its own, {type(scheduler).__name__} has followed metrics that are not known "
            "here. Leave last_epoch at -1 and load the scheduler's state dict."
        )


def _seek(scheduler: Any, t: int) -> None:
    """Brings a scheduler to step t, at the rates that a run from the base would have there."""
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
    elif _takes_metric(scheduler):
        _restart(scheduler)
    else:
        scheduler._update_lr(t)
    if _holds_others(scheduler):
        scheduler._last_lr = _rates(scheduler)


class SequentialLR(Restored, torch_schedulers.SequentialLR):
    """Runs schedulers one after the other; each starts at its milestone, at its own step 0.

    Arguments: the optimizer; `schedulers`, one more than `milestones`; `milestones`, steps; `last_epoch` as in StepLR.
    As `torch.optim.lr_scheduler.SequentialLR`, the jump of a warmup that a milestone cuts short included. Members may
    hold others, and OneCycleLR may stand anywhere; with last_epoch=k the members go to where a run from the start has
    them. ReduceLROnPlateau and GreedyLR may be members: after the milestone, which sets the base rates, `step(metric)`
    hands them the metric.

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
        if last_epoch >= 0:
            for begin, member in zip((0, *milestones), schedulers, strict=False):
                _check_resumable(member, last_epoch + 1 - begin)
        super().__init__(optimizer, _seated(schedulers), milestones, last_epoch)
        self._schedulers = schedulers
        first = _turn(self, 0)[0]
        one_cycle = any(isinstance(s, torch_schedulers.OneCycleLR) for s in schedulers)
        if last_epoch >= 0:
            _seek(self, last_epoch + 1)
        elif any(map(_holds_others, schedulers)) or any(map(_takes_metric, schedulers)) or (one_cycle and hasattr(first, "base_lrs")):
            # torch counted the members' members wrongly, or took OneCycleLR's initial_lr for everybody's.
            _restart(self)

    def step(self, metrics: Any = None) -> None:
        """Advances by one step: the member whose turn it is does.

        `metrics`: as ReduceLROnPlateau takes it. Raises TypeError without one where such a member is due.
        """
        if is_dynamo_compiling():
            with torch.no_grad():  # Dynamo passes by methods that do not name torch, and traces what they call
                return traced_step(self, None, as_metric(metrics))
        if captured.step(self):
            return
        metric = _metric(self, metrics)
        member, local = _turn(self, self.last_epoch + 1)
        if local == 0 and (_holds_others(member) or _takes_metric(member)):
            self.last_epoch += 1
            _restart(member)
        elif metric is not None:
            self.last_epoch += 1
            _advance(member, metric)
        else:
            return super().step()
        self._last_lr = member.get_last_lr()

    def _programs(self) -> captured.Programs | None:
        groups, clock = range(len(self.optimizer._groups())), self.__dict__["last_epoch"]
        schedules = [closed_form(self, i) for i in groups]
        if None in schedules or any(getattr(leaf, "cycle_momentum", False) for leaf in _leaves(self)):
            return None
        for group, schedule in zip(self.optimizer._groups(), schedules, strict=True):
            if abs(schedule(clock) - group["lr"]) > 1e-9 * abs(group["lr"]):
                return None  # was written to: the members carry that on each in its own way
        programs = [schedule.lower().table for schedule in schedules]
        return captured.Programs(programs, list(groups), [-1] * len(groups), "")

    def _move(self, clock: int) -> None:
        _seek(self, clock)


class ChainedScheduler(Restored, torch_schedulers.ChainedScheduler):
    """Steps several schedulers at once, each from the rate that the one before it leaves.

    For those that multiply the rate the result is the product of the factors; one that computes from its own numbers
    (LambdaLR, CosineAnnealingWarmRestarts, OneCycleLR, CyclicLR) overwrites what came before it. ReduceLROnPlateau and
    GreedyLR work from the rate that they find; `step(metric)` hands them the metric.

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
        super().__init__(_seated(schedulers), optimizer)
        self._schedulers = schedulers

    def step(self, metrics: Any = None) -> None:
        """Advances by one step: all members do, in their order.

        `metrics`: as ReduceLROnPlateau takes it. Raises TypeError without one where such a member is due.
        """
        if is_dynamo_compiling():
            with torch.no_grad():  # Dynamo passes by methods that do not name torch, and traces what they call
                return traced_step(self, None, as_metric(metrics))
        metric = _metric(self, metrics)
        if metric is None:
            return super().step()
        for member in self._schedulers:
            _advance(member, metric)
        self._last_lr = _rates(self)
