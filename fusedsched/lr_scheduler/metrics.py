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

from fusedsched.lr_scheduler import arguments as checks, captured

from .boards import Asked, Bounds, Known
from .captured import Mirrored
from .observing import Observer, is_capturing, sites_for
from .standing import Represented
from .traced import as_metric, traced_step


class Noted(Mirrored):
    """An attribute that a board knows better than the host; what is assigned goes to the board."""

    def __set__(self, scheduler: Any, value: Any) -> None:
        follower = scheduler._follower
        if not isinstance(follower, Observer):
            return super().__set__(scheduler, value)
        follower.settle()
        scheduler.__dict__[self._name] = value
        follower.take_over()


@contextmanager
def hosted(scheduler: Any) -> Iterator[None]:
    """A stretch in which the host decides; the board gets what comes of it."""
    follower = scheduler._follower
    if not isinstance(follower, Observer):
        yield
        return
    follower.settle()
    with follower.paused():
        yield
    follower.take_over()


def leave_device(scheduler: Any) -> None:
    """The host decides from here on, until a step can be the device's again."""
    follower = scheduler._follower
    if isinstance(follower, Observer):
        follower.settle()
        follower.dissolve()
        scheduler._follower = None


class MetricDriven(Represented):
    """Mixin: `step(metrics)` on the host or on a device. A class says what it was asked for and what it knows."""

    __slots__ = ()
    _follows_metric = True
    last_epoch, best, num_bad_epochs, cooldown_counter, _last_lr = Noted(), Noted(), Noted(), Noted(), Noted()

    def step(self, metrics: Any, epoch: int | None = None) -> None:
        """Takes note of a metric, a number or a tensor of one element, and changes the rates if it is time.

        With a tensor on the parameters' device this waits for nothing. Raises TypeError for what is no number.
        """
        if is_dynamo_compiling():
            with torch.no_grad():  # Dynamo passes by methods that do not name torch, and traces what they call
                return traced_step(self, epoch, as_metric(metrics))
        if epoch is None and type(metrics) is float and self._gate is None and self._branch is None:
            if captured.hosted(self):
                return self._decide(metrics, None)
        metrics = checks.metric(self, metrics)
        if self._gate is not None and not is_capturing(self.optimizer) and not self._gate.moved():
            return
        if self._branch is not None:
            captured.refuse(self, "step(metrics)")
        if self._in_branch(epoch):
            return
        if epoch is None and isinstance(metrics, Tensor) and self._observes(metrics):
            self._follower.observe(metrics)
            return
        capturing = captured.may_capture(self.optimizer)
        if capturing is not None and capturing():
            reason = self._reason(metrics, epoch)
            raise RuntimeError(f"{type(self).__name__}.step(metrics) cannot be captured: {reason}")
        self._hosted = captured.whose(self.optimizer, capturing)
        if self._follower is None:
            return self._decide(metrics, epoch)
        with hosted(self):
            self._decide(metrics, epoch)

    def _observes(self, metric: Tensor) -> bool:
        """Whether the device decides; an observer of its own stands ready then. Behind a gate the host does."""
        follower = self._follower
        if self._gate is not None:
            return False
        if follower is not None:
            if not follower.serves(self, metric):
                return False
            if follower.edited():
                follower.bring_along()
            return True
        if not self._usual() or self.optimizer.__dict__.get("_followers"):
            return False
        sites = sites_for(self.optimizer, metric)
        if isinstance(sites, str):
            return False
        self._follower = Observer(self, sites)
        return True

    def _reason(self, metric: Any, epoch: int | None) -> str:
        """Why the device cannot decide."""
        if epoch is not None:
            return "with an epoch it sets an absolute time. Leave it out."
        if not isinstance(metric, Tensor):
            return "a graph would repeat the decision on this number for ever. Give it a tensor on the device."
        if self._gate is not None:
            return "with advance_on_skip=False the host looks whether an update was applied."
        if not self._usual():
            return "it decides, or prints, in a way of its own, which takes the host."
        if self._follower is None and self.optimizer.__dict__.get("_followers"):
            return (
                "another scheduler of the same optimizer already steps on the device, and the rates can follow one. "
                "Put them into a SequentialLR or ChainedScheduler."
            )
        sites = sites_for(self.optimizer, metric)
        return sites if isinstance(sites, str) else f"the metric is on {metric.device}, the rates are elsewhere."

    def _leave_device(self) -> None:
        leave_device(self)

    def _begin_again(self) -> None:
        """As if it had just been built."""
        with hosted(self):
            self._start_over()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` of this class or of the one that it stands for wrote, the rates included."""
        with hosted(self):
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
