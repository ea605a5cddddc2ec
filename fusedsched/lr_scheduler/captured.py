# SPDX-License-Identifier: Apache-2.0
"""Schedulers that step inside a captured graph: see `fusedsched/optim/_following.py`."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fusedsched.runtime import hyperparameters as _rates

from . import device
from .device import groups_of
from .rows import Programs


class Mirrored:
    """An attribute of a scheduler that is derived from a counter on the device while a graph advances it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, scheduler: Any, owner: type) -> Any:
        if scheduler is None:
            return self
        if scheduler._follower is not None:
            scheduler._settle()
        if self._name == "_last_lr" and scheduler._track is not None:
            scheduler._show_rates()
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
        return self._scheduler()._steps_counted()

    def programs(self) -> Programs:
        scheduler = self._scheduler()
        kind = type(scheduler).__name__
        refuse_mixed(scheduler)
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

    def seen(self) -> int | None:
        gate = self._scheduler()._gate
        return None if gate is None else gate.seen


def refuse_mixed(scheduler: Any) -> None:
    """Raises RuntimeError for rates of which some are tensors that no kernel here writes."""
    optimizer, kind = scheduler.optimizer, type(scheduler).__name__
    tensors = [isinstance(group["lr"], Tensor) for group in groups_of(optimizer)]
    if any(tensors):
        what = "is a tensor, of another a number" if not all(tensors) else "is a tensor that no kernel here can write"
        raise RuntimeError(
            f"{kind}.step() cannot be captured: the lr of a param group {what}. Give every group a tensor of its own "
            "with one floating point element, all on one GPU with a CUDA or Triton backend."
        )
    if not hasattr(optimizer, "_follow"):
        raise RuntimeError(
            f"{kind}.step() cannot be captured: the lr of {type(optimizer).__name__} is a number, which a graph keeps. "
            "Give it a tensor on the device; or take the optimizer of fusedsched, whose numbers move in a graph too."
        )
    if not optimizer._can_follow():
        raise RuntimeError(
            f"{kind}.step() cannot be captured: not every parameter is updated by the CUDA backend, and others read "
            "numbers from the host. Give every group a tensor on the device as lr."
        )


def may_capture(optimizer: Any) -> Any:
    """A function that says whether a graph is being captured on the optimizer's device; None: there never is one."""
    plan, groups = getattr(optimizer, "_plan", None), groups_of(optimizer)
    foreign = not hasattr(optimizer, "_follow") or (plan is not None and "triton" in plan.name)
    if foreign or (groups and isinstance(groups[0]["lr"], Tensor)):
        return _rates.capture_probe(optimizer, groups)
    there_is_one = optimizer._has_device() if plan is None else "cuda" in plan.name
    return optimizer._capturing if there_is_one else None


def hosted(scheduler: Any) -> bool:
    """Whether no device has a part in its steps, as was found out for the plan that the optimizer still has."""
    known = scheduler._hosted
    if known is None or scheduler._follower is not None:
        return False
    optimizer = scheduler.optimizer
    if known is not optimizer:
        return known is getattr(optimizer, "_plan", None)  # it may be another optimizer than then
    groups = groups_of(optimizer)  # another's, who may have got tensors since, or stand in a capture now
    return bool(groups) and type(groups[0]["lr"]) is float and not (_has_gpu() and _on_capturing_stream())


def whose(optimizer: Any, capturing: Any) -> Any:
    """What `hosted` finds `_hosted` to be, if no graph can be captured: the plan, or another's optimizer."""
    if hasattr(optimizer, "_plan"):
        return optimizer._plan if capturing is None else None
    return optimizer if capturing in (None, _on_capturing_stream) else None


_on_capturing_stream = torch.cuda.is_current_stream_capturing  # raises where there is no driver
_has_gpu = cache(torch.cuda.is_available)


def step(scheduler: Any) -> bool:
    """The step, if it is decided or counted on the device: in a captured graph, or after one, or behind a gate."""
    if hosted(scheduler):
        return False
    optimizer, follower = scheduler.optimizer, scheduler._follower
    capturing = may_capture(optimizer) if follower is None else follower.capturing
    gated = scheduler._gate is not None and scheduler._gate.on_device and not scheduler._is_initial
    if follower is None and not gated and (capturing is None or not capturing()):
        scheduler._hosted = whose(optimizer, capturing)
        return False
    if isinstance(follower, device.Driver) or device.placement_of(optimizer) is not None:
        return device.step(scheduler, capturing is not None and capturing())
    if follower is None:
        refuse_mixed(scheduler)
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
            f"{type(scheduler).__name__}.step() cannot be counted on the device (in a captured graph, or with "
            "advance_on_skip=False): another scheduler of the same optimizer already is, and rates that are numbers "
            "can follow one. Put them into a SequentialLR or ChainedScheduler, or give lr as a tensor on the device."
        )
