# SPDX-License-Identifier: Apache-2.0
"""`advance_on_skip=False`: a scheduler that holds while the optimizer applies no update, as when AMP skips one.

torch's schedulers advance whenever `step()` is called. Whether there was an update since then is known to the
optimizer's clock: one on the CPU is read here, one on a device by the kernel that counts the scheduler's steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from fusedsched.runtime.hyperparameters import runtime_of

from .devices import placement_of, tensors_kept
from .driver import groups_of
from .inputs import inputs_of


class SkipGuard:
    """The count of applied updates at a scheduler's last step. `on_device`: kernels compare; the host does not wait."""

    def __init__(self, optimizer: Any, kind: type) -> None:
        check(optimizer, kind)
        runtime = optimizer._runtime
        self._clocks = runtime.clocks
        self.on_device = bool(runtime.backends()) and runtime.backends() <= {"cuda", "triton"}
        self.last_updates = self._clocks.read()[0]

    def clocks(self, where: Any) -> Tensor:
        """The optimizer's clocks on a device, of which the first counts updates."""
        return self._clocks.on(where)

    def has_moved(self) -> bool:
        """Whether an update was applied since the last step, which this one then is. On a device, this waits."""
        before, self.last_updates = self.last_updates, self._clocks.read()[0]
        return self.last_updates != before

    def should_skip_after_waiting(self, device_schedule: Any) -> bool:
        """Whether a step is none, where a device decides but torch's own code makes the step."""
        if not self.on_device:
            return False  # decided before
        if device_schedule is not None:
            self.last_updates = int(device_schedule.clock[1])
        moved = self.has_moved()
        if device_schedule is not None:
            device_schedule.set_last_updates(self.last_updates)
        return not moved


def check(optimizer: Any, kind: type) -> None:
    """Raises ValueError where the optimizer does not count applied updates."""
    if runtime_of(optimizer) is None:
        raise ValueError(
            f"{kind.__name__}: advance_on_skip=False needs an optimizer that counts its updates; "
            f"{type(optimizer).__name__} does not. Take one of fusedsched, or leave advance_on_skip at True."
        )


def check_guarded(scheduler: Any) -> None:
    """Raises ValueError where a device can neither decide whether a step is skipped nor be asked without waiting."""
    name, optimizer = type(scheduler).__name__, scheduler.optimizer
    if not scheduler._skip_guard.on_device or scheduler._follows_metric:
        return  # the host decides by its metric anyway
    if inputs_of(scheduler) is None:
        raise ValueError(
            f"{name}: advance_on_skip=False needs rates in closed form where parameters are on a GPU. Give the "
            "optimizer a native schedule (fusedsched.schedules.from_function), which holds by itself."
        )
    if placement_of(optimizer) is None and not optimizer._runtime.backends() <= {"cuda"}:
        raise ValueError(
            f"{name}: advance_on_skip=False needs an lr that is a tensor on the device: the Triton backend reads "
            "numbers from the host, which would have to wait."
        )


def set_skip_guard(scheduler: Any, advance_on_skip: bool) -> None:
    """Gives a scheduler its guard, or none."""
    scheduler._skip_guard = None if advance_on_skip else SkipGuard(scheduler.optimizer, type(scheduler))
    if scheduler._skip_guard is not None and scheduler._mirror is not None:
        scheduler._mirror.set_last_updates(scheduler._skip_guard.last_updates)


def should_skip(scheduler: Any) -> bool:
    """Whether a step is none, as far as the host can tell without waiting."""
    guard = scheduler._skip_guard
    if guard.on_device:
        return not getattr(scheduler.optimizer, "_opt_called", False)  # then no update can have been applied
    return not guard.has_moved()


def extended(init: Callable[..., None]) -> Callable[..., None]:
    """torch's constructor with what ours has beside its arguments: the keyword, and momenta that stay tensors."""
    signature = inspect.signature(init)

    @wraps(init)
    def constructor(self: Any, *args: Any, advance_on_skip: bool = True, **kwargs: Any) -> None:
        if type(advance_on_skip) is not bool:
            raise TypeError(f"{type(self).__name__}: advance_on_skip must be True or False, got {advance_on_skip!r}.")
        optimizer = _optimizer_of(signature, self, args, kwargs)
        if not advance_on_skip and isinstance(optimizer, Optimizer):
            check(optimizer, type(self))
        with tensors_kept(optimizer):
            init(self, *args, **kwargs)
        self._built_on = groups_of(self.optimizer)
        if not advance_on_skip:
            set_skip_guard(self, False)
            check_guarded(self)

    keyword = inspect.Parameter("advance_on_skip", inspect.Parameter.KEYWORD_ONLY, default=True, annotation="bool")
    constructor.__signature__ = signature.replace(parameters=[*signature.parameters.values(), keyword])
    return constructor


def _optimizer_of(signature: inspect.Signature, scheduler: Any, args: Any, kwargs: Any) -> Any:
    try:
        given = signature.bind(scheduler, *args, **kwargs).arguments
    except TypeError:
        return None  # the constructor itself says what is wrong
    first = next(iter(given.get("schedulers", None) or ()), None)
    return given.get("optimizer") or getattr(first, "optimizer", None)
