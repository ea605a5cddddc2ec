# SPDX-License-Identifier: Apache-2.0
"""The device's side of a scheduler that follows a metric: boards, and the host's numbers that are derived from them."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .boards import DTYPES, LAUNCHERS, Board, launcher_for
from .tracks import scalar

if TYPE_CHECKING:
    from .metrics import MetricDriven

Sites = list[tuple[torch.device, Any]]
"""Where a scheduler decides: devices, each with its launcher."""


class Observer:
    """The device's side of one scheduler. To the optimizer it is one of the followers of `optim/_following.py`."""

    def __init__(self, scheduler: MetricDriven, sites: Sites) -> None:
        self._scheduler, self._optimizer = weakref.ref(scheduler), weakref.ref(scheduler.optimizer)
        self._sites, self._busy = sites, False
        self._told: Any = None
        self._boards: list[Board] = []
        self._clocks: dict[torch.device, Tensor] = {}
        if hasattr(scheduler.optimizer, "_followers"):
            scheduler.optimizer._followers.add(self)
            # The rates outlive their scheduler. Until then the registry of finalizers keeps this object.
            weakref.finalize(scheduler, _leave, self).atexit = False
        self._write()

    def serves(self, metric: Tensor) -> bool:
        return any(metric.device == device for device, _ in self._sites)

    def capturing(self) -> bool:
        return any(launcher.capturing(device) for device, launcher in self._sites)

    def observe(self, metric: Tensor) -> None:
        if self._told is None:
            raise RuntimeError(self._scheduler()._misfit(len(self._wrote)))
        if metric.dtype not in DTYPES:
            metric = metric.to(torch.float64)
        for board in self._boards:
            board.observe(metric.to(board.device, non_blocking=True))

    def edited(self) -> bool:
        """Whether a rate or an option is another one than the device was told. Does not wait."""
        now = [group["lr"] for group in _groups(self._optimizer())]
        if len(now) != len(self._wrote) or any(a is not b for a, b in zip(now, self._wrote, strict=True)):
            return True
        return self._told != self._tell(len(now))

    def _tell(self, count: int) -> tuple[Any, ...] | None:
        """What was asked for; None where that does not fit the groups: an error for the next step."""
        scheduler = self._scheduler()
        return None if scheduler._misfit(count) else (scheduler._asked(), scheduler._bounds(count))

    def bring_along(self) -> None:
        """Brings edits to the device. Waits."""
        if self.capturing():
            raise RuntimeError(
                f"The lr of a param group, or an option of {type(self._scheduler()).__name__}, was written to after "
                "the last step. Call optimizer.sync_hparams() or scheduler.state_dict() before the capture, so that "
                "the graph starts from it."
            )
        self.settle()

    def settle(self) -> None:
        """Brings the host up to date, and the device up to an edit. Waits; does nothing while a graph is captured."""
        scheduler, optimizer = self._scheduler(), self._optimizer()
        if self._busy or scheduler is None or optimizer is None or self.capturing():
            return
        with self.paused():
            edited = self.edited()
            self._read(scheduler, optimizer)
            if edited:
                self._write()
            else:
                self._remember()

    def _read(self, scheduler: MetricDriven | None, optimizer: Any) -> None:
        if self._told is None:
            return
        known, window, rates, last = self._boards[0].read()
        groups = _groups(optimizer)
        for group, wrote, rate in zip(groups, self._wrote, rates, strict=False):
            if group["lr"] is wrote and not isinstance(wrote, Tensor) and not rate == wrote:
                group["lr"] = rate
        if scheduler is None or known.epoch == self._epoch:
            return
        scheduler._learn(known, window)
        pairs = zip(self._wrote, last, strict=True)
        scheduler.__dict__["_last_lr"] = [torch.full_like(w, x) if isinstance(w, Tensor) else x for w, x in pairs]
        self._epoch = known.epoch

    def take_over(self) -> None:
        """The host has changed something: all that it knows goes to the device."""
        if not self._busy:
            self._write()

    def _write(self) -> None:
        scheduler, optimizer = self._scheduler(), self._optimizer()
        rates = [group["lr"] for group in _groups(optimizer)]
        self._told = self._tell(len(rates))
        if self._told is None:
            self._wrote = rates
            return
        asked, bounds = self._told
        known, window = scheduler._known()
        self._epoch = known.epoch
        last = [scalar(lr) for lr in scheduler.__dict__["_last_lr"][: len(rates)]] if not self.capturing() else []
        last += [0.0] * (len(rates) - len(last))
        if not self._boards or not self._boards[0].fits(len(rates), asked.window):
            self._boards = [Board(device, launcher, len(rates), asked.window) for device, launcher in self._sites]
        for board in self._boards:
            board.write(asked, known, window, bounds, rates, last)
        self._follow(rates)

    def restart(self) -> None:
        """The optimizer has new plans. The boards stay the truth."""
        if self._busy:
            return
        optimizer = self._optimizer()
        rates = [group["lr"] for group in _groups(optimizer)]
        devices = {device for device, _ in self._sites}
        if self._told is not None and len(rates) == len(self._wrote) and devices == _plans(optimizer).keys():
            return self._follow(rates)
        self._read(self._scheduler(), optimizer)
        self._sites, self._boards = [(d, LAUNCHERS[p.name]) for d, p in _plans(optimizer).items()], []
        self._write()

    def _follow(self, rates: list[Any]) -> None:
        """Lets the updates read the rates on the board, where the groups have floats."""
        floats = [i for i, lr in enumerate(rates) if not isinstance(lr, Tensor)]
        plans = _plans(self._optimizer()) if floats else {}
        for board in self._boards if floats else ():
            clock = self._clocks.setdefault(board.device, torch.zeros(1, dtype=torch.int64, device=board.device))
            for i in floats:
                board.launcher.follow(plans[board.device], i, board, clock)
        self._remember()

    def _remember(self) -> None:
        groups = _groups(self._optimizer())
        self._wrote = [group["lr"] for group in groups]
        floats = [i for i, lr in enumerate(self._wrote) if not isinstance(lr, Tensor)]
        plans = _plans(self._optimizer()) if floats else {}
        for board in self._boards if floats else ():
            board.launcher.accept(plans[board.device], groups, floats)

    @contextmanager
    def paused(self) -> Iterator[None]:
        busy, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = busy


def _leave(observer: Observer) -> None:
    """Its scheduler is gone: the groups get the rates, and the updates read those again."""
    optimizer = observer._optimizer()
    if sys.is_finalizing() or optimizer is None or observer.capturing():
        return
    observer._read(None, optimizer)
    optimizer._followers.discard(observer)
    optimizer._invalidate()


def _groups(optimizer: Any) -> list[dict[str, Any]]:
    return optimizer.__dict__["param_groups"]  # without looking at the board


def _plans(optimizer: Any) -> dict[torch.device, Any]:
    """The plans of our optimizers that run on a GPU, by device."""
    if not hasattr(optimizer, "_ready_plan"):
        return {}
    plan = optimizer._ready_plan()
    return {p.device: p for p in getattr(plan, "plans", [plan]) if p.name in LAUNCHERS}


def sites_for(optimizer: Any, metric: Tensor) -> Sites | str:
    """Where a scheduler of this optimizer decides on such a metric; or why no device does."""
    device, plans = metric.device, _plans(optimizer)
    rates = [group["lr"] for group in _groups(optimizer)]
    tensors = [lr for lr in rates if isinstance(lr, Tensor)]
    if plans and device not in plans:
        where = ", ".join(map(str, plans))
        if device.type != "cpu":
            raise ValueError(f"The metric is on {device}, the parameters are on {where}. Move the metric there.")
        return f"the metric is on the CPU, where a graph cannot look. Give it a tensor on {where}."
    if not plans and len(tensors) < len(rates):
        return f"the lr of a param group is a float, which {type(optimizer).__name__} reads on the host. Make it a tensor."
    if any(lr.device != device or lr.dtype not in DTYPES or lr.numel() != 1 for lr in tensors):
        return f"the lr of a param group is a tensor, but no floating point tensor of one element on {device}."
    if plans and (not tensors or len(plans) == 1):
        return [(d, LAUNCHERS[plan.name]) for d, plan in plans.items()]
    launcher = launcher_for(device) if not plans else None
    return f"there is no kernel for rates on {device}." if launcher is None else [(device, launcher)]


def is_capturing(optimizer: Any) -> bool:
    """Whether a graph is captured on the optimizer's device."""
    plans = _plans(optimizer) if hasattr(optimizer, "_ready_plan") and optimizer._plan is not None else {}
    if plans:
        return any(LAUNCHERS[plan.name].capturing(device) for device, plan in plans.items())
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
