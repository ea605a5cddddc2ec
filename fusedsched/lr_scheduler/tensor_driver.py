# SPDX-License-Identifier: Apache-2.0
"""The driver of rates that are tensors on a device: a step is one launch that writes them all, which a graph may hold.

Any optimizer will do, since the kernel writes the tensors that it reads. Until a graph advances the device's counter
the host counts along; from then on its counters are derived from that one when they are read.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

from torch.optim import Optimizer

from fusedsched.runtime.device_schedule import DeviceSchedule, Target, merged
from fusedsched.runtime.hyperparameters import Placement

from ..schedules.edit import DISCARD, Edit
from .devices import capture_probe, has_subscribers, momentum_tensor, refuse_second, refuse_yet
from .driver import Inputs, ending, groups_of, host_driver

# Schedulers whose steps a graph holds, by optimizer.
_IN_GRAPHS: WeakKeyDictionary[Optimizer, WeakSet[Any]] = WeakKeyDictionary()


class LaunchedDriver:
    """Steps a scheduler whose rates are tensors on a device. Does not hold the scheduler, which holds it."""

    on_device = True

    @classmethod
    def make(
        cls, scheduler: Any, inputs: Inputs, clock: int, placement: Placement, edits: list[Edit]
    ) -> LaunchedDriver | None:
        """None where no kernel can write the rates: tensors that groups share and do not agree on."""
        self = cls()
        self._scheduler, self._inputs, self._probe = ref(scheduler), inputs, capture_probe(scheduler.optimizer)
        groups = groups_of(scheduler.optimizer)
        targets, numbers, momenta = [], [], []
        slot = "beta1" if inputs.momentum_key == "betas" else inputs.momentum_key
        for i, group in enumerate(groups):
            program = ending(inputs.programs[inputs.rates[i]], inputs.horizon)
            targets.append(Target(group["lr"], program, inputs.rules[i], edits[i]))
            index = inputs.momenta[i]
            tensor = momentum_tensor(group, slot, placement) if index >= 0 else None
            if tensor is not None:
                targets.append(Target(tensor, ending(inputs.programs[index], inputs.horizon), DISCARD))
                index = 0
            elif index >= 0:
                numbers.append(inputs.programs[index])
                index = len(numbers) - 1
            momenta.append(index)
        schedule = tables(scheduler, targets, placement, clock)
        if schedule is None:
            return None
        self._schedule, self._in_graph = schedule, scheduler in _IN_GRAPHS.get(scheduler.optimizer, ())
        host = inputs._replace(programs=numbers, rates=[0] * len(groups), momenta=momenta)
        self._host = host_driver(scheduler, host, clock, edits, schedule.advance)
        self._is_counted, self._start = self._in_graph or scheduler._skip_guard is not None, clock
        scheduler._mirror = self
        return self

    @property
    def clock(self) -> int:
        """The step, as the host has it."""
        return self._host.clock

    def read_clock(self) -> int:
        """The step, as the device has it. Waits, but while a graph is captured: then as the host has it."""
        return self.clock if self._capturing() or not self._is_counted else self._schedule.read_clock()

    def advance(self, state: dict[str, Any]) -> bool:
        """One launch, or False and nothing changed. Raises RuntimeError in a capture that cannot be."""
        if self._probe is not None and self._probe():
            return self._capture(state)
        if self._in_graph and int(self._schedule.past_horizon[0]):
            raise RuntimeError("A scheduler inside a captured graph was stepped past its last step.")
        return self._host.advance(state)

    def write(self, state: dict[str, Any]) -> None:
        """Writes what belongs to the present clock."""
        self._schedule.seek(self._host.clock - 1)  # a launch advances it
        self._host.write(state)

    def _capture(self, state: dict[str, Any]) -> bool:
        scheduler = self._scheduler()
        if not self._host.is_unmodified(state):
            refuse_yet(scheduler)
        others = _IN_GRAPHS.setdefault(scheduler.optimizer, WeakSet())
        if has_subscribers(scheduler.optimizer) or any(other is not scheduler for other in others):
            refuse_second(
                scheduler, "captured: another scheduler of the same optimizer already steps inside a graph", True
            )
        others.add(scheduler)
        self._check_momenta(scheduler)
        self._host.launch()
        self._schedule.keep_for_graph()
        self._in_graph = self._is_counted = True
        return True

    def _check_momenta(self, scheduler: Any) -> None:
        key, placement = self._inputs.momentum_key, self._schedule.placement
        slot = "beta1" if key == "betas" else key
        if key and any(momentum_tensor(group, slot, placement) is None for group in groups_of(scheduler.optimizer)):
            raise RuntimeError(
                f"{type(scheduler).__name__}.step() cannot be captured: it cycles {slot}, which is a number that a "
                f"graph would keep. Give the optimizer a tensor on {placement.device} for it, as for lr, or "
                "cycle_momentum=False."
            )

    def _capturing(self) -> bool:
        return self._probe is not None and self._probe()

    def sync(self, name: str) -> None:
        """Brings the host's counters, or `_last_lr`, up to date. The former waits; nothing does in a capture."""
        scheduler = self._scheduler()
        if scheduler is None or scheduler._driver is not self:
            return
        if name == "_last_lr":
            if self._host.clock != self._start or (self._in_graph and self._schedule.read_clock() != self._start):
                scheduler.__dict__["_last_lr"] = self._schedule.last_rates()
        elif self._is_counted and not self._capturing():
            clock = self._schedule.read_clock()
            if clock != self._host.clock:
                self._host.seek(clock)
                if "_schedulers" not in scheduler.__dict__:
                    scheduler._seek(clock)
                elif "last_epoch" in scheduler.__dict__:
                    scheduler.__dict__["last_epoch"] = clock

    def changed(self, name: str) -> None:
        """An attribute of the scheduler was set: tables for where it is now, which captured graphs follow."""
        scheduler = self._scheduler()
        if name == "last_epoch" and self._in_graph and scheduler._driver is self:
            scheduler._reattach()

    def release(self) -> None:
        """Brings the host up to date, for another driver or torch's code to continue."""
        self.sync("last_epoch")
        self.sync("_last_lr")
        scheduler = self._scheduler()
        if scheduler is not None:
            scheduler._mirror = None

    def set_last_updates(self, updates: int) -> None:
        """Sets the count of applied updates at the last step."""
        self._schedule.set_last_updates(updates)

    def edits(self) -> list[Edit]:
        """The edits that the device has continued so far. Waits, but in a capture."""
        if self._capturing():
            return self._host.edits()
        return self._schedule.edits_of_rates()


def tables(scheduler: Any, targets: list[Target], placement: Placement, clock: int) -> DeviceSchedule | None:
    """The scheduler's tables with these targets, written anew in place; None where no kernel can."""
    found = merged(targets)
    if found is None:
        return None
    schedule, guard = scheduler._device_schedule, scheduler._skip_guard
    fits = schedule is not None and len(schedule) == len(found) and schedule.placement == placement
    if not fits or schedule.conditional != (guard is not None):
        updates, before = None if guard is None else guard.clocks(placement.device), schedule
        schedule = scheduler._device_schedule = DeviceSchedule(placement, len(found), updates)
        if guard is not None:  # launches have counted on in the old tables, without telling the host
            schedule.set_last_updates(
                before.last_updates() if before is not None and before.conditional else guard.last_updates
            )
    schedule.write(found, clock, [group["lr"] for group in groups_of(scheduler.optimizer)])
    return schedule
