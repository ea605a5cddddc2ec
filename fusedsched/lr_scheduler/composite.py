# SPDX-License-Identifier: Apache-2.0
"""Schedulers made of schedulers: SequentialLR and ChainedScheduler.

Where all members have schedules, the composite has one too: a driver steps it, and the counters of the members follow
from its clock (`member_counters.seek`). Elsewhere the members make their own steps, as in torch.

torch loses count when one of these is inside a SequentialLR: it raises at the milestone, or begins a step early or
late. Here a member that is made of others begins afresh at its milestone, as if it stood alone. A member that follows a
metric, which torch refuses, does too: from the base rates, with no metric seen.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling
from torch.optim import Optimizer

from fusedsched.lr_scheduler import arguments as checks
from fusedsched.runtime.order import warn_about_order
from fusedsched.torch_originals import schedulers as torch_schedulers

from ..schedules.compositions import active_member, is_composite, leaf_schedulers, takes_metric
from .building import attach
from .device_driver import host_section
from .devices import is_capturing
from .member_counters import MemberMirror, mirror_of, release_members
from .members import advance, check_resumable, metric_for, placeholder_members, present_rates, restart, seek_to
from .metric import decider_of, step_on_device
from .param_groups import add_groups
from .replan import step_in_branch
from .scheduler import SchedulerMixin
from .skip_guard import should_skip
from .traced import as_metric, traced_step


class Composite(SchedulerMixin):
    """Mixin for what is made of members."""

    __slots__ = ("_arranged", "_depth")  # members and milestones that its driver steps for; `_metric_depth`
    _counts_steps = False

    def _metric_depth(self) -> int:
        """How deep a member is that follows a metric: 1 for one of its own, 2 for a member's; 0: there is none.

        Looked up once for a list of members.
        """
        members, known = self._schedulers, getattr(self, "_depth", None)
        if known is None or known[0] is not members or known[1] != len(members):
            deep = 2 if any(map(takes_metric, leaf_schedulers(self))) else 0
            known = self._depth = members, len(members), 1 if any(map(takes_metric, members)) else deep
        return known[2]

    def step(self, metrics: Any = None) -> None:
        """Advances by one step.

        `metrics`: as ReduceLROnPlateau takes it. Raises TypeError without one where such a member is due.
        """
        if is_dynamo_compiling():
            with torch.no_grad():  # Dynamo skips frames without a torch global and traces what they call
                return traced_step(self, None, as_metric(metrics))
        driver = self._driver
        if driver is None or self._skip_guard is not None or not driver.advance(self.__dict__):
            self._step_anew(metrics)

    def _step_anew(self, metrics: Any) -> None:
        if self._metric_depth() and self._branch is None and self._step_by_metric(metrics):
            return
        guard = self._skip_guard
        if guard is not None and (
            should_skip(self) or (self._driver is not None and self._driver.advance(self.__dict__))
        ):
            return
        self._detach()
        add_groups(self)
        if not self._is_initial and (self._metric_depth() == 0 or self._branch is not None):
            driver = attach(self)
            for leaf in _due_leaves(self) if self._arranged is not None else ():  # others warn when they step
                if hasattr(leaf, "_skip_guard") and leaf._counts_steps and leaf._step_count == 1:
                    warn_about_order(leaf)
            if driver is not None and driver.advance(self.__dict__):
                return
        if guard is not None and guard.should_skip_after_waiting(self._device_schedule):
            return
        if self._branch is not None:
            return step_in_branch(self, None)
        self._step_members(metric_for(self, metrics) if self._metric_depth() else None)

    def _detach(self) -> None:
        if self._branch is not None and self._driver is not None:
            self._branch.clock = self._driver.clock
        release_members(self)
        self._arranged = None
        super()._detach()

    def __del__(self) -> None:
        """The members have counters of their own from here on. Waits for a device that steps for them."""
        if getattr(self, "_arranged", None) is None or sys.is_finalizing():
            return
        driver, mirror = self._driver or self._mirror, mirror_of(self)
        if driver is not None and mirror is not None and not isinstance(self._mirror, MemberMirror):
            # Now: the collector has cleared what they find this by. A counter that user code made no number stays.
            with suppress(TypeError):
                mirror.move(self, driver.read_clock() if driver.on_device else driver.clock)
            release_members(self)

    def _initial_step(self) -> None:
        """What torch's SequentialLR does to its first member."""
        self._detach()
        torch_schedulers.LRScheduler._initial_step(self)


class SequentialLR(Composite, torch_schedulers.SequentialLR):
    """Runs schedulers one after the other; each starts at its milestone, at its own step 0.

    Arguments: the optimizer; `schedulers`, one more than `milestones`; `milestones`, steps; `last_epoch` as in StepLR.
    As `torch.optim.lr_scheduler.SequentialLR`, the jump of a warmup that a milestone cuts short included. Members may
    be made of others, and OneCycleLR may stand anywhere; with last_epoch=k the members are where a run from the start
    has them. ReduceLROnPlateau and GreedyLR may be members: after the milestone, which sets the base rates,
    `step(metric)` passes them the metric. Whether a skipped update counts (`advance_on_skip`) is decided by this
    scheduler, not by its members.

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
                check_resumable(member, last_epoch + 1 - begin)
        with warnings.catch_warnings():
            if any(map(is_composite, schedulers)):  # torch steps the members' members, which is undone below
                warnings.filterwarnings("ignore", "Detected call of|Seems like", UserWarning)
            super().__init__(optimizer, placeholder_members(schedulers), milestones, last_epoch)
        self._schedulers = schedulers
        _decide_skips_for(self)
        first = active_member(self, 0)[0]
        one_cycle = any(isinstance(s, torch_schedulers.OneCycleLR) for s in schedulers)
        if last_epoch >= 0:
            seek_to(self, last_epoch + 1)
        elif any(is_composite(s) or takes_metric(s) for s in schedulers) or (one_cycle and hasattr(first, "base_lrs")):
            # torch counted the members' members wrongly, or took OneCycleLR's initial_lr for everybody's.
            restart(self)

    def _step_by_metric(self, metrics: Any) -> bool:
        """The step where a member follows a metric; False: the members make it as ever."""
        if self._metric_depth() != 1:
            return False
        capturing = is_capturing(self.optimizer)
        if self._skip_guard is not None and not capturing and not self._skip_guard.has_moved():
            return True
        metrics = metrics if metrics is None else checks.metric(self, metrics)
        if step_on_device(self, decider_of(self), metrics):
            return True
        with host_section(self):
            self._detach()
            self._step_members(metric_for(self, metrics))
        return True

    def _step_members(self, metric: float | None) -> None:
        attributes = self.__dict__
        member, local = active_member(self, attributes["last_epoch"] + 1)
        attributes["last_epoch"] += 1
        if local == 0 and (is_composite(member) or takes_metric(member)):
            restart(member)
        elif metric is not None:
            advance(member, metric)
        elif local == 0 and attributes["last_epoch"] > 0:
            member._update_lr(0)
        else:
            member.step()
        attributes["_last_lr"] = member.get_last_lr()


class ChainedScheduler(Composite, torch_schedulers.ChainedScheduler):
    """Steps several schedulers at once, each from the rate that the one before it leaves.

    For those that multiply the rate the result is the product of the factors; one that computes from its own numbers
    (LambdaLR, CosineAnnealingWarmRestarts, OneCycleLR, CyclicLR) overwrites what came before it. ReduceLROnPlateau and
    GreedyLR work from the rate that they find; `step(metric)` passes them the metric.

    Arguments: `schedulers`, at least one; `optimizer`, theirs. As `torch.optim.lr_scheduler.ChainedScheduler`. Its
    `advance_on_skip` holds for all of them.

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
        super().__init__(placeholder_members(schedulers), optimizer)
        self._schedulers = schedulers
        _decide_skips_for(self)

    def _step_by_metric(self, metrics: Any) -> bool:
        return False

    def _step_members(self, metric: float | None) -> None:
        for member in self._schedulers:
            member.step() if metric is None else advance(member, metric)
        self.__dict__["_last_lr"] = present_rates(self)


def _due_leaves(scheduler: Any, clock: int | None = None) -> list[Any]:
    """The schedulers that make their own step next, and warn about the order of calls if it is their first."""
    if isinstance(scheduler, torch_schedulers.SequentialLR):
        member, local = active_member(scheduler, scheduler.last_epoch + 1 if clock is None else clock)
        return [] if local == 0 else _due_leaves(member, local)
    if isinstance(scheduler, torch_schedulers.ChainedScheduler):
        return [leaf for member in scheduler._schedulers for leaf in _due_leaves(member)]
    return [scheduler]


def _decide_skips_for(scheduler: Any) -> None:
    """Whether its members hold is for this one to decide."""
    for leaf in leaf_schedulers(scheduler):
        if hasattr(leaf, "_skip_guard"):
            leaf._skip_guard = None
