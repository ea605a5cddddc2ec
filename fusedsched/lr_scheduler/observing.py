# SPDX-License-Identifier: Apache-2.0
"""The device's side of a scheduler that follows a metric: boards, and the host's numbers that are derived from them."""

from __future__ import annotations

import sys
import weakref
from operator import is_not
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fusedsched.runtime.addresses import is_native
from fusedsched.runtime.compile_ops import ReentrancyGuard
from fusedsched.runtime.hyperparameters import runtime_of

from .boards import DTYPES, LAUNCHERS, Asked, Board, Bounds, Turn, launcher_for, targets_of
from .device_driver import capture_probe
from .driver import groups_of
from .watched_values import scalar

if TYPE_CHECKING:
    from .boards import Contents
    from .metric import MetricScheduler

Sites = list[tuple[torch.device, Any]]
"""Where a scheduler decides: devices, each with its launcher."""

_captured: list[Board] = []  # boards that a graph reads and writes: nobody says when it is gone, so they stay


class Observer(ReentrancyGuard):
    """The device's side of one scheduler. To the optimizer it is one of the subscribers of its runtime."""

    def __init__(self, scheduler: Any, sites: Sites) -> None:
        self._scheduler, self._optimizer = weakref.ref(scheduler), weakref.ref(scheduler.optimizer)
        self._sites = sites
        self._told: Any = None
        self._wrote: list[Any] = []
        self._ready = False
        self._plans: dict[torch.device, Any] = {}  # those that follow the boards
        self._boards: list[Board] = []
        if runtime_of(scheduler.optimizer) is not None:
            # The rates outlive their scheduler. Until then the registry of finalizers keeps this object.
            self._finalizer = weakref.finalize(scheduler, _leave, self)
            self._finalizer.atexit = False
        self._join()
        self._write()

    def _join(self) -> bool:
        """Lets the optimizer know of this; False: it does. A loaded optimizer has forgotten."""
        runtime = runtime_of(self._optimizer())
        if runtime is None or self in runtime.subscribers:
            return False
        runtime.subscribe(self)
        return True

    def names(self) -> set[str]:
        """The hyperparameters that it writes."""
        return {"lr"}

    def before_build(self) -> None:
        """Nothing: the boards hold the rates."""

    # What attributes of the scheduler ask.

    def sync(self, name: str) -> None:
        """Brings the host up to date."""
        self.settle()

    def changed(self, name: str) -> None:
        """An attribute of the scheduler was set."""
        self.take_over()

    def release(self) -> None:
        """The host decides from here on, until a step can be the device's again."""
        scheduler = self._scheduler()
        if not self._busy and scheduler is not None and not self.capturing():
            self.settle()
            self.dissolve()
            scheduler._mirror = None

    def serves(self, scheduler: Any, metric: Tensor) -> bool:
        there = any(metric.device == device for device, _ in self._sites)
        return there and self._scheduler() is scheduler and is_native(metric)

    def see(self, updates: int) -> None:
        """Nothing: behind a gate the host decides."""

    def ready(self) -> bool:
        """Whether its boards hold what the groups have now."""
        return self._ready

    # What a board holds, and what the host makes of it.

    def decider(self) -> MetricScheduler:
        """Whose decisions it makes."""
        return self._scheduler()

    def _tell(self, count: int) -> tuple[Asked, list[Bounds], Turn] | None:
        """What was asked for; None where that does not fit the groups: an error for the next step."""
        decider = self.decider()
        return None if decider._misfit(count) else (decider._asked(), decider._bounds(count), Turn())

    def _start(self) -> int:
        """The clock that a board begins with."""
        return 0

    def _rates(self) -> list[Any] | None:
        """Of each group its rate, or a program for it. None: there is no such program."""
        return [group["lr"] for group in groups_of(self._optimizer())]

    def _move(self, contents: Contents) -> None:
        """The host follows the device."""
        scheduler = self._scheduler()
        scheduler._learn(contents.known, contents.window)
        pairs = zip(self._wrote, contents.last, strict=True)
        scheduler.__dict__["_last_lr"] = [torch.full_like(w, x) if isinstance(w, Tensor) else x for w, x in pairs]

    def capturing(self) -> bool:
        return any(launcher.capturing(device) for device, launcher in self._sites)

    def observe(self, metric: Tensor) -> None:
        if self._join():
            self.restart()
        if not self._ready:
            raise RuntimeError(self.decider()._misfit(len(self._wrote)))
        if metric.dtype not in DTYPES:
            metric = metric.to(torch.float64)
        if self.capturing():
            _captured.extend(board for board in self._boards if board not in _captured)
        for board in self._boards:
            board.observe(metric.to(board.device, non_blocking=True))

    def edited(self) -> bool:
        """Whether a rate or an option is another one than the device was told. Does not wait."""
        now = [group["lr"] for group in groups_of(self._optimizer())]
        if len(now) != len(self._wrote) or any(a is not b for a, b in zip(now, self._wrote, strict=True)):
            return True
        return self._told != self._tell(len(now))

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
            self._refresh(optimizer)

    def restart(self) -> None:
        """The optimizer has new plans. The boards stay the truth."""
        optimizer = self._optimizer()
        if self._busy or optimizer is None:
            return
        with self.paused():
            self._follow() if self.capturing() else self._refresh(optimizer)

    def _refresh(self, optimizer: Any) -> None:
        plans, edited = plans_of(optimizer), self.edited()
        self._read(optimizer)
        moved = runtime_of(optimizer) is not None and {device for device, _ in self._sites} != plans.keys()
        if moved:
            self._sites, self._boards = [(d, LAUNCHERS[p.name]) for d, p in plans.items()], []
        if edited or moved or self._has_new_places():
            self._write()
        elif any(plans.get(device) is not plan for device, plan in self._plans.items()):
            self._follow()
        else:
            self._remember()

    def _has_new_places(self) -> bool:
        """Whether the optimizer has another table, as a loaded one has."""
        groups = groups_of(self._optimizer())
        now = [place for b in self._boards for place in b.launcher.places(self._optimizer(), b.device, groups)]
        return any(map(is_not, now, (place for board in self._boards for place in board.places)))

    def _read(self, optimizer: Any) -> None:
        if not self._ready:
            return
        contents = self._boards[0].read()
        if self._scheduler() is not None and contents.clock != self._clock:
            self._move(contents)
            self._clock = contents.clock
        for group, wrote, rate in zip(groups_of(optimizer), self._wrote, contents.rates, strict=False):
            if group["lr"] is wrote and not isinstance(wrote, Tensor) and not rate == wrote:
                group["lr"] = rate

    def take_over(self) -> None:
        """The host has changed something: all that it knows goes to the device."""
        if not self._busy:
            self._write()

    def _write(self) -> None:
        self._wrote = [group["lr"] for group in groups_of(self._optimizer())]
        self._told, rates = self._tell(len(self._wrote)), self._rates()
        self._ready = self._told is not None and rates is not None and bool(self._sites)
        if not self._ready:
            self._plans = {}
            return
        asked, bounds, turn = self._told
        known, window = self.decider()._known()
        self._clock = self._start()
        last = [scalar(lr) for lr in self._scheduler().__dict__["_last_lr"][: len(rates)] if not self.capturing()]
        last += [0.0] * (len(rates) - len(last))
        boards = []
        for k, (device, launcher) in enumerate(self._sites):
            places = launcher.places(self._optimizer(), device, groups_of(self._optimizer()))
            targets = targets_of(rates, places)
            fits = k < len(self._boards) and self._boards[k].fits(targets, asked.window)
            board = self._boards[k] if fits else Board(device, launcher, targets, places, asked.window)
            board.places = places
            board.write(asked, turn, self._clock, known, window, bounds, targets, last)
            boards.append(board)
        self._boards = boards
        self._follow()

    def _follow(self) -> None:
        """Lets the updates read the rates on the board, where the groups have floats."""
        self._plans = self._plans_of_floats()
        for board in self._boards if self._plans else ():
            for i, lr in enumerate(self._wrote):
                if not isinstance(lr, Tensor):
                    board.launcher.follow(self._plans[board.device], i, board)
        self._remember()

    def _plans_of_floats(self) -> dict[torch.device, Any]:
        floats = any(not isinstance(lr, Tensor) for lr in self._wrote)
        return plans_of(self._optimizer()) if floats and self._ready else {}

    def _remember(self) -> None:
        groups = groups_of(self._optimizer())
        self._wrote = [group["lr"] for group in groups]
        floats = [i for i, lr in enumerate(self._wrote) if not isinstance(lr, Tensor)]
        for board in self._boards if self._plans else ():
            board.launcher.accept(self._plans[board.device], groups, floats)

    def dissolve(self) -> None:
        """The updates read the groups again."""
        optimizer = self._optimizer()
        runtime = runtime_of(optimizer)
        if runtime is not None:
            self._finalizer.detach()
            runtime.unsubscribe(self)
            runtime.rebuild()


def _leave(observer: Observer) -> None:
    """Its scheduler is gone: the groups get the rates, and the updates read those again."""
    optimizer = observer._optimizer()
    if sys.is_finalizing() or optimizer is None or observer.capturing():
        return
    observer._read(optimizer)
    observer.dissolve()


def plans_of(optimizer: Any) -> dict[torch.device, Any]:
    """The plans of our optimizers that run on a GPU, by device."""
    runtime = runtime_of(optimizer)
    return {} if runtime is None else {plan.device: plan for plan in runtime.plans() if plan.name in LAUNCHERS}


def sites_for(optimizer: Any, metric: Tensor) -> Sites | str:
    """Where a scheduler of this optimizer decides on such a metric; or why no device does."""
    device, plans = metric.device, plans_of(optimizer)
    rates = [group["lr"] for group in groups_of(optimizer)]
    tensors = [lr for lr in rates if isinstance(lr, Tensor)]
    if plans and device not in plans:
        where = ", ".join(map(str, plans))
        if device.type != "cpu":
            raise ValueError(f"The metric is on {device}, the parameters are on {where}. Move the metric there.")
        return f"the metric is on the CPU, where a graph cannot look. Give it a tensor on {where}."
    if not is_native(metric):
        return f"the metric is a {type(metric).__name__}, which a kernel cannot read. Give it a plain tensor."
    if not plans and len(tensors) < len(rates):
        kind = type(optimizer).__name__
        return f"the lr of a param group is a float, which {kind} reads on the host. Make it a tensor."
    if any(lr.device != device or lr.dtype not in DTYPES or lr.numel() != 1 or not is_native(lr) for lr in tensors):
        return f"the lr of a param group is a tensor, but no floating point tensor of one element on {device}."
    if plans and (not tensors or len(plans) == 1):
        return [(d, LAUNCHERS[plan.name]) for d, plan in plans.items()]
    launcher = launcher_for(device) if not plans else None
    return f"there is no kernel for rates on {device}." if launcher is None else [(device, launcher)]


def is_capturing(optimizer: Any) -> bool:
    """Whether a graph is captured on the optimizer's device."""
    probe = capture_probe(optimizer)
    return probe is not None and probe()
