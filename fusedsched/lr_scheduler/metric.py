# SPDX-License-Identifier: Apache-2.0
"""Schedulers that follow a metric, on the host and on a device.

A number, or a tensor on the CPU, is read and decided on in Python. A tensor on the parameters' device is not read at
all: one launch there compares it and rewrites the rates (`observing.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from fusedsched.lr_scheduler import arguments as checks
from fusedsched.runtime.hyperparameters import runtime_of

from .boards import Asked, Bounds, Known
from .building import attach, refuse_capture
from .device_driver import capture_probe, has_subscribers
from .driver import groups_of
from .observing import Observer, sites_for
from .param_groups import add_groups
from .replan import step_in_branch
from .scheduler import DerivedAttribute, SchedulerMixin
from .traced import as_metric, traced_step


class SyncedAttribute(DerivedAttribute):
    """An attribute that a device may know better than the host; what is assigned goes to the device."""


@contextmanager
def host_section(scheduler: Any) -> Iterator[None]:
    """A section in which the host decides; the device gets what comes of it."""
    mirror = scheduler._mirror
    if not isinstance(mirror, Observer):
        yield
        return
    mirror.settle()
    with mirror.paused():
        yield
    mirror.take_over()


def is_on_host(scheduler: Any) -> bool:
    """Whether no device has a part in its steps, as was found out for the optimizer's present plan."""
    known, optimizer = scheduler._on_host, scheduler.optimizer
    if known is None or scheduler._mirror is not None:
        return False
    if known is not optimizer:
        runtime = runtime_of(optimizer)
        return runtime is not None and known is runtime.plan
    groups = groups_of(optimizer)  # of another package: its rates may be tensors by now
    return bool(groups) and type(groups[0]["lr"]) is float


class MetricScheduler(SchedulerMixin):
    """Mixin: `step(metrics)` on the host or on a device. A class says its settings and its state."""

    __slots__ = ("_on_host",)
    _follows_metric = True
    _counts_steps = False
    last_epoch, best, num_bad_epochs = SyncedAttribute(), SyncedAttribute(), SyncedAttribute()
    cooldown_counter, _last_lr = SyncedAttribute(), SyncedAttribute()

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._on_host = None
        return self

    def step(self, metrics: Any, epoch: int | None = None) -> None:
        """Takes note of a metric, a number or a tensor of one element, and changes the rates if it is time.

        With a tensor on the parameters' device this waits for nothing. Raises TypeError for what is no number.
        """
        if is_dynamo_compiling():
            with torch.no_grad():  # Dynamo skips frames without a torch global and traces what they call
                return traced_step(self, epoch, as_metric(metrics))
        if epoch is None and type(metrics) is float and self._skip_guard is None and self._branch is None:
            if is_on_host(self):
                return self._decide(metrics, None)
        metrics, probe = checks.metric(self, metrics), capture_probe(self.optimizer)
        capturing = probe is not None and probe()
        if self._skip_guard is not None and not capturing and not self._skip_guard.has_moved():
            return
        if self._branch is not None and self._step_in_branch(epoch):
            return
        if epoch is None and isinstance(metrics, Tensor) and self._observes(metrics):
            self._mirror.observe(metrics)
            return
        if capturing:
            reason = self._reason(metrics, epoch)
            raise RuntimeError(f"{type(self).__name__}.step(metrics) cannot be captured: {reason}")
        if probe is None:
            runtime = runtime_of(self.optimizer)
            self._on_host = self.optimizer if runtime is None else runtime.plan
        with host_section(self):
            self._decide(metrics, epoch)

    def _step_in_branch(self, epoch: int | None) -> bool:
        """The step, if it belongs to a branch; one to an epoch before that ends it."""
        refuse_capture(self, "step(metrics)")
        if epoch is not None and epoch < self._branch.begin:
            self._detach()
            self._branch = None
            return False
        driver = self._driver
        if epoch is None and driver is not None and driver.step(self.__dict__):
            return True
        self._detach()
        add_groups(self)
        driver = attach(self) if epoch is None else None
        if driver is None or not driver.step(self.__dict__):
            self._detach()
            step_in_branch(self, epoch)
        return True

    def _observes(self, metric: Tensor) -> bool:
        """Whether the device decides; an observer of its own stands ready then. Behind a gate the host does."""
        follower = self._mirror if isinstance(self._mirror, Observer) else None
        if self._skip_guard is not None:
            return False
        if follower is not None:
            if not follower.serves(self, metric):
                return False
            if follower.edited():
                follower.bring_along()
            return True
        if not self._usual() or has_subscribers(self.optimizer):
            return False
        sites = sites_for(self.optimizer, metric)
        if isinstance(sites, str):
            return False
        self._mirror = Observer(self, sites)
        return True

    def _reason(self, metric: Any, epoch: int | None) -> str:
        """Why the device cannot decide."""
        if epoch is not None:
            return "with an epoch it sets an absolute time. Leave it out."
        if not isinstance(metric, Tensor):
            return "a graph would repeat the decision on this number for ever. Give it a tensor on the device."
        if self._skip_guard is not None:
            return "with advance_on_skip=False the host looks whether an update was applied."
        if not self._usual():
            return "it decides, or prints, in a way of its own, which takes the host."
        if self._mirror is None and has_subscribers(self.optimizer):
            return (
                "another scheduler of the same optimizer already steps on the device, and the rates can follow one. "
                "Put them into a SequentialLR or ChainedScheduler."
            )
        sites = sites_for(self.optimizer, metric)
        return sites if isinstance(sites, str) else f"the metric is on {metric.device}, the rates are elsewhere."

    def _begin_again(self) -> None:
        """As if it had just been built."""
        with host_section(self):
            self._start_over()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` of this class or of the one that it stands for wrote, the rates included."""
        with host_section(self):
            super().load_state_dict(state_dict)

    # What a class has to say.

    def _decide(self, metrics: Any, epoch: int | None) -> None:
        """The step on the host."""
        raise NotImplementedError

    def _start_over(self) -> None:
        """Forgets all metrics. The groups' present rates are those it starts from."""
        raise NotImplementedError

    def _usual(self) -> bool:
        """Whether nobody has overridden how it decides."""
        raise NotImplementedError

    def _asked(self) -> Asked:
        raise NotImplementedError

    def _known(self) -> tuple[Known, list[float]]:
        """What it knows, and the window of its running mean."""
        raise NotImplementedError

    def _misfit(self, count: int) -> str | None:
        """What is wrong where its lists have no value for each of so many groups."""
        raise NotImplementedError

    def _bounds(self, count: int) -> list[Bounds]:
        """Of so many groups, which fit."""
        raise NotImplementedError

    def _learn(self, known: Known, window: list[float]) -> None:
        """Takes over what the board knows."""
        raise NotImplementedError

    def _note(self, name: str, value: float, integer: bool = True) -> None:
        """Sets an attribute that has changed, in Python's type for it."""
        if not self.__dict__[name] == value:
            self.__dict__[name] = int(value) if integer and value.is_integer() else value


def overrides(scheduler: Any, base: type, *names: str) -> bool:
    """Whether a user's subclass, or somebody in this object, has replaced one of these methods."""
    kind = type(scheduler)
    return any(getattr(kind, name) is not getattr(base, name) or name in scheduler.__dict__ for name in names)
