# SPDX-License-Identifier: Apache-2.0
"""The numbers of an optimizer's groups that one scheduler writes on devices, in the places where updates read them."""

from __future__ import annotations

from operator import is_not
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor

from fusedsched._layouts import CLOCKS
from fusedsched.runtime.clocks import number
from fusedsched.runtime.device_schedule import DeviceSchedule, ScheduledNumber, Target
from fusedsched.runtime.hyperparameters import OptimizerRuntime, Placement

from ..schedules.edit import Edit
from .driver import groups_of
from .tensors import number_of, write_number


class Reading(NamedTuple):
    """What a device has. `values`: what is in the places. `written`: what the last launch wrote there."""

    clock: int
    edits: list[Edit]
    values: list[float]
    written: list[float]


class ScheduledPlaces:
    """Places of the tables of an optimizer, a `DeviceSchedule` on each device that writes them, and what the host shows
    of them in the groups. The runtime's CUDA plans are the devices."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = ref(optimizer)
        self.numbers: list[ScheduledNumber] = []
        self.shown: list[Any] = []  # the objects in the groups
        self.schedules: dict[torch.device, DeviceSchedule] = {}  # none: nothing was written yet

    def runtime(self) -> OptimizerRuntime:
        """The optimizer's."""
        return self._optimizer()._runtime

    def _groups(self) -> list[dict[str, Any]]:
        return groups_of(self._optimizer())

    def _places(self, device: torch.device) -> list[Tensor]:
        table, groups = self.runtime().table(device), self._groups()
        return [table.place(groups[n.group], n.name) for n in self.numbers]

    def write(self, numbers: list[ScheduledNumber], clock: int, guard: Any) -> None:
        """Writes tables and places for these numbers, from what the groups have. Also while a graph is captured.

        `guard`: the scheduler's `SkipGuard`, or None.
        """
        self.numbers, runtime = numbers, self.runtime()
        self.shown = self.present()
        for plan in runtime.cuda_plans():
            if not plan.sync_hparams(self._groups()) and not runtime.capturing():
                for place, shown in zip(self._places(plan.device), self.shown, strict=True):
                    place.fill_(number(shown))  # the plan is out of date: groups were added
            self._write_on(plan, clock, guard)

    def _write_on(self, plan: Any, clock: int, guard: Any) -> None:
        device, old = plan.device, self.schedules.get(plan.device)
        targets = [
            Target(place, n.program, n.rules, n.edit, number(shown))
            for place, n, shown in zip(self._places(device), self.numbers, self.shown, strict=True)
        ]
        if old is None or len(old) != len(targets):
            updates = None if guard is None else guard.clocks(device)
            past = self.runtime().table(device).flags[CLOCKS.index("skipped") :]
            kept = None if old is None else old.clock
            self.schedules[device] = DeviceSchedule(Placement(plan.name, device), len(targets), updates, past, kept)
        schedule = self.schedules[device]
        schedule.past_horizon.zero_()
        schedule.write(targets, clock)
        if guard is not None and old is None:
            schedule.see(guard.seen)

    def advance(self) -> None:
        """One step, in stream order."""
        for plan in self.runtime().cuda_plans():
            self.schedules[plan.device].advance()
            if plan.capturing():
                self.schedules[plan.device].keep_for_graph()

    def present(self) -> list[Any]:
        """What the groups hold."""
        groups = self._groups()
        return [number_of(groups[n.group], n.name) for n in self.numbers]

    def fits(self) -> bool:
        """Whether the groups are as many as they were."""
        return len(self._groups()) == sum(n.name == "lr" for n in self.numbers)

    def edited(self) -> list[bool]:
        """Which numbers user code wrote to since the host last showed them. Does not wait."""
        return list(map(is_not, self.present(), self.shown))

    def send(self, plan: Any, edited: list[bool]) -> None:
        """Stores edits in their places."""
        plan.sync_hparams(self._groups())
        numbers = zip(edited, self._places(plan.device), self.present(), self.shown, strict=True)
        for is_edited, place, now, shown in numbers:
            if is_edited and number(now) == number(shown):  # the plan has sent that number before, and sees no edit
                place.fill_(number(now))

    def read_clock(self) -> int:
        """The clock of the first device. Waits."""
        return next(iter(self.schedules.values())).read_clock()

    def read(self) -> Reading:
        """What the first device has. Waits."""
        device, schedule = next(iter(self.schedules.items()))
        values = torch.stack(self._places(device)).tolist()
        return Reading(*schedule.read(), values, schedule.last_values().tolist())

    def put(self, values: list[Any]) -> None:
        """Puts objects into the groups."""
        groups = self._groups()
        for n, value in zip(self.numbers, values, strict=True):
            write_number(groups[n.group], n.name, value)
