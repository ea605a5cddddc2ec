# SPDX-License-Identifier: Apache-2.0
"""What the schedulers of this package add to torch's: steps on a schedule, late groups, resuming, states, other plans.

`SchedulerMixin` precedes a torch class among the bases. A step is made by a driver (driver.py) where the class has a
schedule, and by torch's own code where it has none. Nothing of ours is in `__dict__`, which torch saves as the state:
the slots below are rebuilt, copied or saved by the methods here.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling

from fusedsched.runtime.compile_ops import OBJECTS, CompileHandle
from fusedsched.runtime.hyperparameters import GROUP_ADDED, OptimizerRuntime, runtime_of
from fusedsched.runtime.loading import all_or_nothing
from fusedsched.runtime.order import warn_about_epoch, warn_about_order

from ..schedules.expression import Schedule
from ..schedules.tabulate import from_torch
from . import replan, state
from .building import attach, reattach, resume
from .device_driver import host_section
from .devices import kinds_kept, refuse_capture
from .driver import origin_of
from .inputs import clock_of
from .member_counters import sync_counters
from .param_groups import add_groups, sets_late_rate, write_late_rate
from .skip_guard import extended, set_skip_guard, should_skip
from .traced import traced_step
from .watched_values import copied


class DerivedAttribute:
    """An attribute that follows from a counter elsewhere (on a device, in the composite that holds this scheduler)."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, scheduler: Any, owner: type) -> Any:
        if scheduler is None:
            return self
        mirror = scheduler._mirror
        if mirror is not None:
            mirror.sync(self._name)
        try:
            return scheduler.__dict__[self._name]
        except KeyError:
            raise AttributeError(f"'{owner.__name__}' object has no attribute '{self._name}'") from None

    def __set__(self, scheduler: Any, value: Any) -> None:
        mirror = scheduler._mirror
        if mirror is not None:
            mirror.sync(self._name)
        scheduler.__dict__[self._name] = value
        if mirror is not None:
            mirror.changed(self._name)


class SchedulerMixin:
    """Mixin in front of a torch scheduler class."""

    # driver: makes the steps; None: one is to be built. edits: those that held when there was one. branch: what the
    # scheduler does instead of its class. mirror: where counters are read. device_schedule: its tables on a device.
    # built_on: which groups the optimizer had when this was built or loaded.
    __slots__ = (
        "_driver",
        "_edits",
        "_branch",
        "_mirror",
        "_device_schedule",
        "_skip_guard",
        "_compile_handle",
        "_built_on",
    )
    last_epoch, _step_count, _last_lr = DerivedAttribute(), DerivedAttribute(), DerivedAttribute()
    _follows_metric = False
    _counts_steps = True  # CosineAnnealingWarmRestarts has a step of its own, which does not

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith("fusedsched.") and "__init__" in cls.__dict__:
            cls.__init__ = extended(cls.__init__)

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        for name in SchedulerMixin.__slots__:
            setattr(self, name, None)
        self._compile_handle = CompileHandle(self)
        return self

    def step(self, epoch: Any = None) -> None:
        """Advances by one step, or to `epoch` (deprecated, as in torch); call it after `optimizer.step()`."""
        if is_dynamo_compiling():
            with torch.no_grad():  # Dynamo skips frames without a torch global and traces what they call
                return traced_step(self, epoch)
        driver = self._driver
        if driver is None or epoch is not None or self._skip_guard is not None or not driver.advance(self.__dict__):
            self._step_anew(epoch)

    def _step_anew(self, epoch: Any) -> None:
        """A step that the driver did not make: by a new one, or by torch's own code."""
        if self._is_initial:
            return self._torch_step(epoch)
        if epoch is not None:
            refuse_capture(self, "step(epoch)")
        elif self._skip_guard is not None:
            if should_skip(self) or (self._driver is not None and self._driver.advance(self.__dict__)):
                return
        self._detach()
        add_groups(self)
        if self._counts_steps and self._step_count == 1:
            warn_about_order(self)
        if epoch is None:
            driver = attach(self)
            if driver is not None and driver.advance(self.__dict__):
                return
            if self._skip_guard is not None and self._skip_guard.should_skip_after_waiting(self._device_schedule):
                return
        self._detach()
        self._torch_step(epoch)
        reattach(self)  # now, so that graphs follow

    def _torch_step(self, epoch: Any) -> None:
        """A step of torch's own code, which has no part in what torch warns about."""
        if epoch is not None:
            warn_about_epoch()
        self._step_count += 1
        self._update_lr(epoch)

    def _update_lr(self, epoch: Any = None) -> None:
        """torch's rates of the next step, or of `epoch`, from what the groups have now."""
        self._detach()
        if self._branch is not None:
            if epoch is None or epoch >= self._branch.begin:
                return replan.step_in_branch(self, epoch)
            self._branch = None
        add_groups(self)
        with kinds_kept(self):
            super()._update_lr(epoch)

    def _initial_step(self) -> None:
        """torch's first step; with `last_epoch=k` the rates are then those of step k + 1 of a run from the base."""
        self._detach()
        self._branch = self._edits = None
        before = [copied(group["lr"]) for group in self.optimizer.param_groups] if self.last_epoch >= 0 else None
        super()._initial_step()
        if before is not None:
            self._resume(before)

    def _resume(self, before: list[Any]) -> None:
        resume(self, before)

    def _seek(self, clock: int) -> None:
        """Sets the counters to a step."""
        attributes = self.__dict__
        if self._counts_steps:
            attributes["_step_count"] += clock - max(attributes["last_epoch"], 0)
        attributes["last_epoch"] = clock

    def _reattach(self) -> None:
        """A new driver now, where captured graphs follow this scheduler."""
        self._detach()
        add_groups(self)
        reattach(self)

    def _detach(self) -> None:
        """Drops the driver, and leaves the composite that steps for this one; the host has all counters then."""
        if self._mirror is not None:
            self._mirror.release()
        driver, self._driver = self._driver, None
        if driver is not None:
            self._edits = driver.edits()

    def expressions(self, steps: int | None = None) -> list[Schedule]:
        """What this scheduler does to each group, as schedules; `steps` where one must be tabulated (from_torch)."""
        return [from_torch(self, steps, i) for i in range(len(self.optimizer.param_groups))]

    def extend(self, total_steps: int) -> None:
        """Moves the end of the schedule to step `total_steps`, from the present rate on: the run got longer or shorter.

        CosineAnnealingLR, LinearLR, PolynomialLR, ConstantLR, SWALR: what torch's own recursion does once `T_max`,
        `total_iters` or `anneal_epochs` is set to that. OneCycleLR: a climb under way keeps its pace, what lies ahead
        is stretched in proportion, and the last value comes at step total_steps - 1. SequentialLR: its last member
        ends there, ChainedScheduler: the members that end last. After `branch()`: the branch does.

        Argument: `total_steps`, the length of the whole run in steps of this scheduler. Raises TypeError for a class
        without an end, ValueError for a step that is not ahead and for a schedule that has arrived; nothing is changed
        then.

        >>> import torch
        >>> from fusedsched.lr_scheduler import PolynomialLR
        >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
        >>> sched = PolynomialLR(opt, total_iters=4)
        >>> opt.step(), sched.step(), sched.step()
        (None, None, None)
        >>> sched.extend(total_steps=6)
        >>> for _ in range(4):
        ...     sched.step()
        ...     print(round(sched.get_last_lr()[0], 3))
        0.3
        0.2
        0.1
        0.0
        """
        replan.extend(self, total_steps)

    def branch(
        self,
        steps: int,
        final: float | list[float] | None = None,
        decay: str = "linear",
        *,
        final_ratio: float | list[float] | None = None,
    ) -> None:
        """Lets the rates decay from here: from what each group has now to `final` in `steps` steps, then `final`.

        lr(t) = final + (lr(begin) - final) * d(q), q = (t - begin) / steps, d as in `schedules.warmup_stable_decay`

        Whatever the scheduler would have done is dropped; it continues to count steps, and a momentum that it cycled
        stays where it is. An edit of a rate is continued, to the same end. `step(epoch)` of an epoch before the branch
        ends it.

        Arguments: `steps`, 1 or more; `final`, a rate or one for each group, default 0; `decay`, "linear", "cosine" or
        "1-sqrt"; `final_ratio`, instead of `final`, as a part of the present rate. Raises ValueError before anything is
        changed. Call it on the scheduler that you step, not on a member of it.

        >>> import torch
        >>> from fusedsched.lr_scheduler import ConstantLR
        >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
        >>> sched = ConstantLR(opt, factor=1.0)
        >>> sched.branch(steps=2, final=0.2)
        >>> sched.expressions()[0].curve(4)
        [0.8, 0.5, 0.2, 0.2]
        """
        replan.branch(self, steps, final, decay, final_ratio)

    def state_dict(self) -> dict[str, Any]:
        """torch's state dict of this class; where the groups have more than its keys say, also the key "fusedsched"."""
        sync_counters(self)
        return state.extended(self, super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` of this class or of torch's wrote; the groups get their rates back too.

        Unlike in torch, the optimizer may be loaded before, after or not at all.
        """
        with host_section(self):
            what = f"This state of {type(self).__name__}"
            with all_or_nothing(what, state.undo(self)):
                state.load(self, state_dict, super().load_state_dict)

    def __getstate__(self) -> Any:
        sync_counters(self)
        if self._branch is not None:
            self._branch.clock = clock_of(self)
        ours = {"advance_on_skip": self._skip_guard is None, "edits": state.current_edits(self)}
        return self.__dict__.copy(), {**ours, "branch": copy.copy(self._branch)}

    def __setstate__(self, pickled: Any) -> None:
        attributes, ours = pickled if isinstance(pickled, tuple) else (pickled, {})
        self.__dict__.update(attributes)
        self._built_on = origin_of(attributes["optimizer"]) if "optimizer" in attributes else None
        set_skip_guard(self, ours.get("advance_on_skip", True))
        self._edits, self._branch = ours.get("edits"), ours.get("branch")


def _group_added(runtime: OptimizerRuntime, i: int) -> None:
    """Group i was added to the optimizer of this runtime: it may need the rate of now."""
    found = [thing for thing in list(OBJECTS.values()) if isinstance(thing, SchedulerMixin)]
    schedulers = [s for s in found if runtime_of(s.__dict__.get("optimizer")) is runtime]
    for scheduler in schedulers:
        if not sets_late_rate(scheduler, schedulers):
            continue
        scheduler._detach()
        try:
            add_groups(scheduler)
        except ValueError:  # the user may append what is missing; if not, the next step raises this
            continue
        write_late_rate(scheduler, i)
        if scheduler._mirror is None:  # else the next plan of the optimizer restarts it
            reattach(scheduler)


GROUP_ADDED.append(_group_added)
