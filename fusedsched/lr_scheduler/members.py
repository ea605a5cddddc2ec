# SPDX-License-Identifier: Apache-2.0
"""The members of SequentialLR and ChainedScheduler: which want a metric, how they begin, and where a run has them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from fusedsched.lr_scheduler import arguments as checks

from ..schedules.compositions import active_member, is_chain, is_composite, is_sequence, leaf_schedulers, takes_metric
from ..schedules.evaluate import evaluate
from .building import attach
from .device_driver import host_section
from .devices import is_capturing
from .driver import write_lr
from .inputs import inputs_of
from .member_counters import own_steps
from .param_groups import add_groups
from .plateau import PLATEAU
from .watched_values import copied


class _Placeholder:
    """Replaces a member that follows a metric while torch's constructor checks the members."""

    def __init__(self, member: Any) -> None:
        self.optimizer = member.optimizer
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", copied(group["lr"]))

    def _initial_step(self) -> None:
        """Its member begins once the constructor is done."""

    def get_last_lr(self) -> list[Any]:
        return present_rates(self)


def placeholder_members(schedulers: Any) -> Any:
    """The members as torch may see them."""
    if not isinstance(schedulers, Sequence) or not any(map(takes_metric, schedulers)):
        return schedulers
    return [type(type(s).__name__, (_Placeholder,), {})(s) if takes_metric(s) else s for s in schedulers]


def present_rates(scheduler: Any) -> list[Any]:
    """Copies of the rates that the groups have."""
    return [copied(group["lr"]) for group in scheduler.optimizer.param_groups]


def restart(scheduler: Any, onto_present: bool = False) -> None:
    """Brings a scheduler to its step 0: from the base rates, or from what an earlier member of a chain has written."""
    if hasattr(scheduler, "_detach"):
        scheduler._detach()
    if is_sequence(scheduler):
        for leaf in leaf_schedulers(scheduler):
            leaf.last_epoch = -1
        scheduler.last_epoch = 0
        restart(active_member(scheduler, 0)[0], onto_present)
    elif is_chain(scheduler):
        for i, member in enumerate(scheduler._schedulers):
            restart(member, onto_present or i > 0)
    elif takes_metric(scheduler):
        for group in () if onto_present else scheduler.optimizer.param_groups:
            write_lr(group, group["initial_lr"])
        rates = [group["lr"] for group in scheduler.optimizer.param_groups]
        if hasattr(scheduler, "_skip_guard"):
            with host_section(scheduler):
                scheduler._rule.restart(scheduler, rates)
        else:
            PLATEAU.restart(scheduler, rates)
    else:
        scheduler.last_epoch = -1
        add_groups_of(scheduler)
        if not onto_present:
            for group, base in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, strict=False):
                write_lr(group, base)
        scheduler._initial_step()
    _show_rates(scheduler)


def add_groups_of(scheduler: Any) -> None:
    """Late groups, for schedulers of this package."""
    if hasattr(scheduler, "_skip_guard"):
        add_groups(scheduler)


def _show_rates(scheduler: Any) -> None:
    """A composite shows what its members wrote; a branch that it was in is over."""
    if is_composite(scheduler):
        scheduler._last_lr = present_rates(scheduler)
        if hasattr(scheduler, "_skip_guard"):
            scheduler._branch = None


def due(scheduler: Any) -> list[Any]:
    """The members that get a metric at the next step."""
    if takes_metric(scheduler):
        return [scheduler]
    if is_sequence(scheduler):
        member, local = active_member(scheduler, scheduler.__dict__["last_epoch"] + 1)
        return [] if local == 0 else due(member)
    if is_chain(scheduler):
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
    """Raises ValueError where a member has seen metrics by step t: they are not known any more."""
    if is_sequence(scheduler):
        begins = (0, *scheduler._milestones)
        for begin, member in zip(begins, scheduler._schedulers, strict=True):
            check_resumable(member, t - begin)
    elif is_chain(scheduler):
        for member in scheduler._schedulers:
            check_resumable(member, t)
    elif takes_metric(scheduler) and t > 0:
        raise ValueError(
            f"last_epoch: by step {t} of its own, {type(scheduler).__name__} has followed metrics that are not known "
            "here. Leave last_epoch at -1 and load the scheduler's state dict."
        )


def seek_to(scheduler: Any, t: int) -> None:
    """Brings a scheduler to step t, at the rates that a run from the base would have there."""
    if hasattr(scheduler, "_detach"):
        scheduler._detach()
    if is_sequence(scheduler):
        for member, step in own_steps(scheduler._schedulers, scheduler._milestones, t):
            if step >= 0:
                seek_to(member, step)
                continue
            for leaf in leaf_schedulers(member):
                leaf.last_epoch = -1
        scheduler.last_epoch = t
    elif is_chain(scheduler):
        restart(scheduler)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about optimizer.step(), which cannot have been called yet
            for _ in range(t):
                for member in scheduler._schedulers:
                    member.step()
    elif takes_metric(scheduler):
        restart(scheduler)
    else:
        _seek_leaf(scheduler, t)
    _show_rates(scheduler)


def _seek_leaf(scheduler: Any, t: int) -> None:
    """From its step 0 on, so that a run that is resumed here continues to the same bits, if it has a schedule."""
    scheduler._update_lr(0)
    if hasattr(scheduler, "_skip_guard") and inputs_of(scheduler) is not None:
        if scheduler._counts_steps:
            scheduler._step_count = 1
        scheduler._seek(t)
        scheduler._edits = None
        inputs = inputs_of(scheduler)
        for group, index in zip(scheduler.optimizer.param_groups, inputs.rates, strict=True):
            write_lr(group, evaluate(inputs.programs[index], t))
        attach(scheduler).write(scheduler.__dict__)
    elif t > 0:
        scheduler._update_lr(t)
