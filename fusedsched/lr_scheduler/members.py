# SPDX-License-Identifier: Apache-2.0
"""The members of SequentialLR and ChainedScheduler: whose turn it is, who wants a metric, how to begin and to seek."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch.optim import lr_scheduler as torch_schedulers

from fusedsched.lr_scheduler import arguments as checks

from .live import Live
from .metrics import MetricDriven
from .observing import is_capturing
from .plateau import ReduceLROnPlateau
from .saving import write_lr
from .scheduled import Scheduled
from .tracks import copied
from .whole import holds_others, leaves, turn


def takes_metric(scheduler: Any) -> bool:
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
        return present_rates(self)


def seated(schedulers: Any) -> Any:
    """The members as torch may see them."""
    if not isinstance(schedulers, Sequence) or not any(map(takes_metric, schedulers)):
        return schedulers
    return [type(type(s).__name__, (_Seat,), {})(s) if takes_metric(s) else s for s in schedulers]


def present_rates(scheduler: Any) -> list[Any]:
    return [copied(group["lr"]) for group in scheduler.optimizer.param_groups]


def restart(scheduler: Any, onto_present: bool = False) -> None:
    """Brings a scheduler to its step 0: from the base rates, or onto what an earlier member of a chain has written."""
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        for leaf in leaves(scheduler):
            leaf.last_epoch = -1
        scheduler.last_epoch = 0
        restart(turn(scheduler, 0)[0], onto_present)
    elif isinstance(scheduler, torch_schedulers.ChainedScheduler):
        for i, member in enumerate(scheduler._schedulers):
            restart(member, onto_present or i > 0)
    elif takes_metric(scheduler):
        for group in () if onto_present else scheduler.optimizer.param_groups:
            write_lr(group, group["initial_lr"])
        start_over = scheduler._begin_again if isinstance(scheduler, MetricDriven) else None
        ReduceLROnPlateau._start_over(scheduler) if start_over is None else start_over()
    else:
        scheduler.last_epoch = -1
        if isinstance(scheduler, Scheduled):
            scheduler._admit_new_groups()
        if not onto_present:
            for group, base in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, strict=False):
                write_lr(group, base)
        scheduler._initial_step()
    _at_rates(scheduler)


def _at_rates(scheduler: Any) -> None:
    """What holds others shows what they wrote; a branch that it was in is over."""
    if holds_others(scheduler):
        scheduler._last_lr = present_rates(scheduler)
        if isinstance(scheduler, Live):
            scheduler._leave()


def admit(scheduler: Any) -> None:
    """Lets those whose turn it is take in groups that were added to the optimizer since."""
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        admit(turn(scheduler, scheduler.last_epoch)[0])
    elif isinstance(scheduler, torch_schedulers.ChainedScheduler):
        for member in scheduler._schedulers:
            admit(member)
    elif isinstance(scheduler, Scheduled):
        scheduler._admit_at(scheduler.last_epoch)


def due(scheduler: Any) -> list[Any]:
    """The members that get a metric at the next step."""
    if takes_metric(scheduler):
        return [scheduler]
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        member, local = turn(scheduler, scheduler.__dict__["last_epoch"] + 1)
        return [] if local == 0 else due(member)
    if isinstance(scheduler, torch_schedulers.ChainedScheduler):
        return [leaf for member in scheduler._schedulers for leaf in due(member)]
    return []


def metric_for(scheduler: Any, given: Any) -> float | None:
    """The metric for the members that are due; None: there are none. Raises TypeError where it is missing."""
    wanting = due(scheduler)
    if not wanting:
        return None
    if given is None:
        raise TypeError(
            f"{type(scheduler).__name__}.step() needs a metric now: {type(wanting[0]).__name__} follows one. "
            "Call step(metric)."
        )
    given = checks.metric(scheduler, given)
    if is_capturing(scheduler.optimizer):
        raise RuntimeError(
            f"{type(scheduler).__name__}.step(metrics) cannot be captured: it reads the metric for its members. Call "
            "it outside of the graph, or put the metric-driven scheduler into the graph alone."
        )
    return float(given)


def advance(scheduler: Any, metric: float) -> None:
    """One step of a member, with the metric if it is one for it."""
    scheduler.step(metric) if due(scheduler) else scheduler.step()


def check_resumable(scheduler: Any, t: int) -> None:
    """No member has followed metrics by step t: nobody knows them any more."""
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        begins = (0, *scheduler._milestones)
        for begin, member in zip(begins, scheduler._schedulers, strict=True):
            check_resumable(member, t - begin)
    elif isinstance(scheduler, torch_schedulers.ChainedScheduler):
        for member in scheduler._schedulers:
            check_resumable(member, t)
    elif takes_metric(scheduler) and t > 0:
        raise ValueError(
            f"last_epoch: by step {t} of its own, {type(scheduler).__name__} has followed metrics that are not known "
            "here. Leave last_epoch at -1 and load the scheduler's state dict."
        )


def seek(scheduler: Any, t: int) -> None:
    """Brings a scheduler to step t, at the rates that a run from the base would have there."""
    if isinstance(scheduler, Live) and scheduler._in_branch(t):
        return
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        begins = (0, *scheduler._milestones)
        for i, member in enumerate(scheduler._schedulers):
            begin, end = begins[i], begins[i + 1] if i + 1 < len(begins) else t + 1
            if t < begin:
                for leaf in leaves(member):
                    leaf.last_epoch = -1
            elif end > max(begin, 0):
                seek(member, min(t, end - 1) - begin)
        scheduler.last_epoch = t
    elif isinstance(scheduler, torch_schedulers.ChainedScheduler):
        restart(scheduler)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about optimizer.step(), which nobody could have called yet
            for _ in range(t):
                for member in scheduler._schedulers:
                    member.step()
    elif takes_metric(scheduler):
        restart(scheduler)
    else:
        _seek_leaf(scheduler, t)
    _at_rates(scheduler)


def _seek_leaf(scheduler: Any, t: int) -> None:
    """From its beginning on, so that a run that is resumed here goes on bit by bit, if it has a closed form."""
    scheduler._update_lr(0)
    if isinstance(scheduler, Scheduled) and scheduler._known() and scheduler._tables() is not None:
        if scheduler._counts_steps:
            scheduler._step_count = 1
        scheduler._move(t)
    elif t > 0:
        scheduler._update_lr(t)
