# SPDX-License-Identifier: Apache-2.0
"""Schedulers that step inside a captured graph: see `fusedsched/optim/_following.py`."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor


class Programs(NamedTuple):
    """What a scheduler does from its clock on: tables; for each group the index of its table, and of its momentum's
    (-1: none); the slot that is cycled, "momentum" or "beta1"."""

    tables: list[Any]
    rates: list[int]
    momenta: list[int]
    momentum: str


class Mirrored:
    """An attribute of a scheduler that is derived from a counter on the device while a graph advances it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, scheduler: Any, owner: type) -> Any:
        if scheduler is None:
            return self
        scheduler._settle()
        try:
            return scheduler.__dict__[self._name]
        except KeyError:
            raise AttributeError(f"'{owner.__name__}' object has no attribute '{self._name}'") from None

    def __set__(self, scheduler: Any, value: Any) -> None:
        scheduler.__dict__[self._name] = value
        if scheduler._follower is not None and self._name == "last_epoch":
            scheduler._follower.restart()


class Stepper:
    """A scheduler as its follower sees it. Does not hold it: it holds the follower."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = weakref.ref(scheduler)

    def clock(self) -> int:
        return self._scheduler().__dict__["last_epoch"]

    def programs(self) -> Programs:
        scheduler = self._scheduler()
        kind = type(scheduler).__name__
        if any(isinstance(group["lr"], Tensor) for group in scheduler.optimizer._groups()):
            raise RuntimeError(
                f"{kind}.step() cannot be captured: the lr of a param group is a tensor. Give it a float; inside a "
                "graph it moves all the same."
            )
        programs = scheduler._programs()
        if programs is None:
            raise RuntimeError(
                f"{kind}.step() cannot be captured: its rates have no closed form, and a graph would repeat the one of "
                "now for ever. Give the optimizer a native schedule (fusedsched.schedules.from_function, from_torch), "
                "or step it outside of the graph."
            )
        return programs

    def move(self, clock: int) -> None:
        self._scheduler()._move(clock)


def may_capture(optimizer: Any) -> Any:
    """A function that says whether a graph is being captured on the optimizer's device; None: there never is one."""
    if not hasattr(optimizer, "_follow"):
        return None
    plan = optimizer._plan
    device = optimizer._has_device() if plan is None else "cuda" in plan.name
    return optimizer._capturing if device else None


def step(scheduler: Any) -> bool:
    """The step, if it belongs to a captured graph or to a scheduler that has been in one."""
    optimizer, follower = scheduler.optimizer, scheduler._follower
    capturing = may_capture(optimizer) if follower is None else optimizer._capturing
    if capturing is None or (follower is None and not capturing()):
        return False
    if follower is None:
        _alone(scheduler, optimizer)
        follower = scheduler._follower = optimizer._follow(Stepper(scheduler))
    elif follower.edited():
        if capturing():
            raise RuntimeError(
                "The lr of a param group was written to after the last step. Call optimizer.sync_hparams() before the "
                "capture, so that the graph starts from it."
            )
        follower.settle()
    follower.tick()
    return True


def refuse(scheduler: Any, what: str) -> None:
    """Raises RuntimeError while a graph is captured: `what` would be the same in every replay."""
    capturing = may_capture(scheduler.optimizer)
    if capturing is not None and capturing():
        raise RuntimeError(
            f"{type(scheduler).__name__}.{what} cannot be captured: a graph would repeat the decision of now for ever. "
            "Call it outside of the graph."
        )


@contextmanager
def paused(scheduler: Any) -> Iterator[None]:
    """A stretch in which torch's own code sets counters and rates; what advances the scheduler starts from the end."""
    follower = scheduler._follower
    if follower is None:
        yield
        return
    follower.settle()
    with follower.paused():
        yield
    follower.restart()


def _alone(scheduler: Any, optimizer: Any) -> None:
    if optimizer._followers:
        raise RuntimeError(
            f"{type(scheduler).__name__}.step() cannot be captured: another scheduler of the same optimizer already "
            "steps inside a graph, and the rates can follow one. Put them into a SequentialLR or ChainedScheduler."
        )
