# SPDX-License-Identifier: Apache-2.0
"""The numbers of an optimizer's groups that one scheduler writes on devices, and what the host shows of them.

A number that is a tensor is written as such. Any other has a place in the optimizer's table of hyperparameters, where
updates read it.
"""

from __future__ import annotations

import sys
from operator import is_not
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor

from fusedsched._layouts import CLOCKS
from fusedsched.runtime.clocks import number
from fusedsched.runtime.device_schedule import DeviceSchedule, ScheduledNumber, Target
from fusedsched.runtime.hyperparameters import OptimizerRuntime, Placement, runtime_of

from ..schedules.edit import Edit
from .devices import number_of, write_number
from .driver import groups_of


class Reading(NamedTuple):
    """What a device has. `written`: what the last launch wrote."""

    clock: int
    edits: list[Edit]
    written: list[float]


class ScheduledPlaces:
    """The numbers, and on each device a `DeviceSchedule` that writes those that have a program.

    `placement`: of tensors, where the optimizer has no plan with kernels there.
    """

    def __init__(self, optimizer: Any, placement: Placement | None = None) -> None:
        self._optimizer, self._placement = ref(optimizer), placement
        self.numbers: list[ScheduledNumber] = []
        self.shown: list[Any] = []  # the objects in the groups
        self.targets: dict[Placement, list[Tensor]] = {}  # what is written on each device; none: nothing was yet
        self.schedules: dict[torch.device, DeviceSchedule] = {}

    def runtime(self) -> OptimizerRuntime | None:
        """The optimizer's."""
        return runtime_of(self._optimizer())

    def _groups(self) -> list[dict[str, Any]]:
        return groups_of(self._optimizer())

    def _plans(self) -> list[Any]:
        runtime = self.runtime()
        return [] if runtime is None else [plan for plan in runtime.plans() if plan.name in ("cuda", "triton")]

    def _targets_on(self, device: torch.device) -> list[Tensor]:
        groups, found = self._groups(), []
        for n, now in zip(self.numbers, self.present(), strict=True):
            in_table = not isinstance(now, Tensor)
            found.append(self.runtime().table(device).place(groups[n.group], n.name) if in_table else now)
        return found

    def write(self, numbers: list[ScheduledNumber], clock: int, guard: Any) -> None:
        """Writes tables and places for these numbers, from what the groups have. Also while a graph is captured.

        `guard`: the scheduler's `SkipGuard`, or None.
        """
        self.numbers, plans = numbers, self._plans()
        self.shown = self.present()
        placements = [Placement(plan.name, plan.device) for plan in plans] or [self._placement]
        self.targets = {placement: self._targets_on(placement.device) for placement in placements}
        for plan, targets in zip(plans, self.targets.values(), strict=False):
            self._read_places(plan, targets)
        for placement, targets in self.targets.items() if any(n.program is not None for n in numbers) else ():
            self._write_on(placement, targets, clock, guard)

    def _read_places(self, plan: Any, targets: list[Tensor]) -> None:
        """Lets updates read the numbers from their places, which get what the groups have."""
        if plan.name == "cuda" and (plan.sync_hparams(self._groups()) or self.runtime().capturing()):
            return
        for n, place, shown in zip(self.numbers, targets, self.shown, strict=True):
            if place is not shown:
                place.fill_(number(shown))  # a CUDA plan is out of date: groups were added
                if plan.name == "triton":
                    plan.read_from(n.group, n.name, place)

    def send(self, edited: list[bool]) -> bool:
        """Stores edits in their places; False where updates read them from the groups until tables are written."""
        plans = [] if self.runtime() is None or self.runtime().plan is None else self._plans()
        for plan, targets in zip(plans, self.targets.values(), strict=False):
            if plan.name != "cuda":
                return False
            plan.sync_hparams(self._groups())
            numbers = zip(edited, targets, self.present(), self.shown, strict=False)
            for is_edited, place, now, shown in numbers:
                if is_edited and not isinstance(now, Tensor) and number(now) == number(shown):
                    place.fill_(number(now))  # the plan has sent that number before, and sees no edit
        return bool(plans)

    def accept(self) -> None:
        """What the groups show now is no edit."""
        for plan in self._plans():
            if plan.name == "cuda":
                plan.sync_hparams(self._groups())
                continue
            for n, shown in zip(self.numbers, self.shown, strict=True):
                if not isinstance(shown, Tensor):
                    plan.read_from(n.group, n.name)

    def _write_on(self, placement: Placement, tensors: list[Tensor], clock: int, guard: Any) -> None:
        device, old = placement.device, self.schedules.get(placement.device)
        targets = [
            Target(tensor, n.program, n.rules, n.edit, number(shown))
            for tensor, n, shown in zip(tensors, self.numbers, self.shown, strict=True)
        ]
        if old is None or len(old) != len(targets):
            updates = None if guard is None else guard.clocks(device)
            past = self.runtime().table(device).flags[CLOCKS.index("skipped") :]
            kept = None if old is None else old.clock
            self.schedules[device] = DeviceSchedule(placement, len(targets), updates, past, kept)
        schedule = self.schedules[device]
        schedule.past_horizon.zero_()
        schedule.write(targets, clock)
        if guard is not None and old is None:
            schedule.set_last_updates(guard.last_updates)

    def advance(self, capturing: bool) -> None:
        """One step, in stream order."""
        for schedule in self.schedules.values():
            schedule.advance()
            if capturing:
                schedule.keep_for_graph()

    def present(self) -> list[Any]:
        """What the groups hold."""
        groups = self._groups()
        return [number_of(groups[n.group], n.name) for n in self.numbers]

    def edited(self) -> list[bool]:
        """Which numbers user code replaced since the host last showed them, and whether groups were added. Does not
        wait."""
        added = len(self._groups()) != sum(n.name == "lr" for n in self.numbers)
        return [*map(is_not, self.present(), self.shown), *[True] * added]

    def read_clock(self) -> int:
        """The clock of the first device. Waits."""
        return next(iter(self.schedules.values())).read_clock()

    def read(self) -> Reading:
        """What the first device has. Waits."""
        schedule = next(iter(self.schedules.values()))
        return Reading(*schedule.read(), schedule.last_values().tolist())

    def values(self) -> list[float]:
        """The numbers on the first device. Waits."""
        targets = next(iter(self.targets.values()))
        return torch.stack([t.detach().reshape(()).to(torch.float64) for t in targets]).tolist()

    def show(self, present: list[Any], values: list[float], edited: list[bool]) -> None:
        """Shows what a device has, but for what user code wrote; tensors show it themselves."""
        self.shown = [
            now if is_edited or isinstance(now, Tensor) or number(now) == value else value
            for now, value, is_edited in zip(present, values, edited, strict=False)
        ]
        self.put(self.shown)

    def leave(self) -> None:
        """The scheduler is gone: shows what the devices have, and lets updates read the groups again."""
        runtime = None if self._optimizer() is None or sys.is_finalizing() else self.runtime()
        if runtime is None or runtime.capturing():
            return
        edited = self.edited()
        kept = [False] * len(edited) if any(edited) and self.send(edited) else edited
        self.show(self.present(), self.values(), kept)
        runtime.rebuild()

    def put(self, values: list[Any]) -> None:
        """Puts objects into the groups."""
        groups = self._groups()
        for n, value in zip(self.numbers, values, strict=True):
            write_number(groups[n.group], n.name, value)
