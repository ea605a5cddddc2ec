# SPDX-License-Identifier: Apache-2.0
"""`advance_on_skip=False`: a scheduler that holds while the optimizer applies no update, as when AMP skips one.

torch's schedulers advance whenever `step()` is called. Whether there was an update since then is known to the
optimizer's clock: one on the CPU is looked at here, one on a device by the kernel that counts the scheduler's steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from . import device


class Gate:
    """The count of applied updates at a scheduler's last step. `on_device`: kernels compare, nobody waits for them."""

    def __init__(self, optimizer: Any, kind: type) -> None:
        check(optimizer, kind)
        self._clocks = optimizer._clocks
        self.on_device = optimizer._counts_on_device()
        self.seen = self._clocks.read()[0]

    def clocks(self, where: Any) -> Tensor:
        """The optimizer's clocks on a device, of which the first counts updates."""
        return self._clocks.on(where)

    def moved(self) -> bool:
        """Whether an update was applied since the last step, which this one then is. On a device, this waits."""
        before, self.seen = self.seen, self._clocks.read()[0]
        return self.seen != before


def check(optimizer: Any, kind: type) -> None:
    """Raises ValueError where nobody can say whether an update was applied."""
    if not hasattr(optimizer, "_clocks"):
        raise ValueError(
            f"{kind.__name__}: advance_on_skip=False needs an optimizer that counts its updates; "
            f"{type(optimizer).__name__} does not. Take one of fusedsched, or leave advance_on_skip at True."
        )


def check_on_device(scheduler: Any) -> None:
    """Raises ValueError where the device can neither decide nor be asked without waiting for it."""
    name, optimizer = type(scheduler).__name__, scheduler.optimizer
    if not scheduler._gate.on_device or scheduler._follows_metric:
        return  # the host decides by its metric anyway
    if not scheduler._has_form():
        raise ValueError(
            f"{name}: advance_on_skip=False needs rates in closed form where parameters are on a GPU. Give the "
            "optimizer a native schedule (fusedsched.schedules.from_function), which holds by itself."
        )
    if device.placement_of(optimizer) is None and not optimizer._can_follow():
        raise ValueError(
            f"{name}: advance_on_skip=False needs an lr that is a tensor on the device: the Triton backend reads "
            "numbers from the host, which would have to wait."
        )


def holds(scheduler: Any) -> bool:
    """Whether a step is none, as far as the host can tell without waiting."""
    gate = scheduler._gate
    if scheduler._is_initial:
        return False
    if gate.on_device:
        return not getattr(scheduler.optimizer, "_opt_called", False)  # then no update can have been applied
    return not gate.moved()


def holds_after_waiting(scheduler: Any) -> bool:
    """The same where the device decides, for steps that are torch's own."""
    gate, rates = scheduler._gate, scheduler._rates
    if not gate.on_device or scheduler._is_initial:
        return False  # decided before, or a first step
    if rates is not None:
        gate.seen = int(rates.clock[1])
    moved = gate.moved()
    if rates is not None:
        rates.see(gate.seen)
    return not moved


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
        with device.momenta_kept(optimizer):
            init(self, *args, **kwargs)
        self._built_on = device.groups_of(self.optimizer)
        if not advance_on_skip:
            self._set_gate(False)
            check_on_device(self)

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
