# SPDX-License-Identifier: Apache-2.0
"""The driver of rates that are numbers, of an optimizer with parameters on a GPU.

Steps are made on the host, until one stands in a captured graph or has to hold there while no update is applied: then a
counter on the device is advanced, and what the host shows is derived from it.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

from torch import Tensor

from fusedsched.runtime.clocks import number
from fusedsched.runtime.compile_ops import ReentrancyGuard
from fusedsched.runtime.device_schedule import ScheduledNumber

from ..schedules.edit import DISCARD, Edit
from .device_driver import capture_probe, ending, has_subscribers, refuse_mixed, refuse_without_schedule
from .driver import Inputs, edits_of, groups_of, host_driver
from .places import ScheduledPlaces
from .watched_values import scalar


class CountedDriver(ReentrancyGuard):
    """Steps a scheduler whose rates are numbers, on the host or by a counter of the optimizer's device."""

    on_device = True

    def __init__(self, scheduler: Any, host: Any) -> None:
        self._scheduler, self._host = ref(scheduler), host
        self._probe = capture_probe(scheduler.optimizer)
        guard = scheduler._skip_guard
        self._guarded = guard is not None and guard.on_device
        self._places = ScheduledPlaces(scheduler.optimizer)
        self._known = host.clock  # the clock that the host last read

    @property
    def clock(self) -> int:
        """The step, as the host has it."""
        return self._host.clock

    def step(self, state: dict[str, Any]) -> bool:
        """One step on the host, or of the device's counter. Raises RuntimeError in a capture that cannot be."""
        if not self._places.schedules:  # steps are made on the host
            if not self._guarded and not self._probe():
                return self._host.step(state)
            if not self._host.is_unmodified(state):
                return False
            self._subscribe()
        elif self.edited():
            if self._places.runtime().capturing():
                raise RuntimeError(
                    "The lr of a param group was written to after the last step. Call optimizer.sync_hparams() before "
                    "the capture, so that the graph starts from it."
                )
            self.settle()
        self._advance()
        return True

    def _subscribe(self) -> None:
        """From here on steps are made on the devices."""
        scheduler = self._scheduler()
        refuse_mixed(scheduler)
        if has_subscribers(scheduler.optimizer):
            raise RuntimeError(
                f"{type(scheduler).__name__}.step() cannot be counted on the device (in a captured graph, or with "
                "advance_on_skip=False): another scheduler of the same optimizer already is, and rates that are "
                "numbers can follow one. Put them into a SequentialLR or ChainedScheduler, or give lr as a tensor "
                "on the device."
            )
        scheduler._mirror = self
        self.write_tables()
        self._places.runtime().subscribe(self)

    def _advance(self) -> None:
        """One step on the devices, in stream order."""
        runtime = self._places.runtime()
        if self not in runtime.subscribers:  # the optimizer was loaded, and has another table
            runtime.subscribe(self)
            self.write_tables()
        self._places.advance()

    def write_tables(self) -> None:
        """Writes the tables for where the scheduler is and what the groups have. Also while a graph is captured."""
        with self.paused():
            numbers, self._known = self._renew(), self._host.clock
            self._places.write(numbers, self._known, self._scheduler()._skip_guard)

    # What the optimizer asks.

    def names(self) -> set[str]:
        """The hyperparameters that it writes."""
        return {n.name for n in self._places.numbers}

    def edited(self) -> bool:
        """Whether user code wrote to a number since the host last showed it. Does not wait."""
        return not self._places.fits() or any(self._places.edited())

    def settle(self) -> None:
        """Brings the host up to date, and the devices up to an edit. Waits; does nothing while a graph is captured."""
        places = self._places
        if self._busy or self._scheduler() is None or places.runtime().capturing():
            return
        if not places.fits():
            return self.write_tables()
        edited = places.edited()
        if not any(edited) and places.read_clock() == self._known:
            return
        with self.paused():
            plans = [] if places.runtime().plan is None else places.runtime().cuda_plans()
            for plan in plans:
                places.send(plan, edited)
            self._read([False] * len(edited) if plans else edited)
            for plan in plans:
                plan.sync_hparams(groups_of(self._scheduler().optimizer))  # what is shown now is no edit

    def _read(self, kept: list[bool]) -> None:
        """Reads counter, edits and numbers; `kept`: which of the numbers the groups know better."""
        scheduler, places = self._scheduler(), self._places
        present, found, n = places.present(), places.read(), len(groups_of(scheduler.optimizer))
        if found.clock != self._known:
            places.put(places.shown)  # so that it moves from where it was
            self._move(found.clock)
        device = [value if number(now) != value else now for now, value in zip(present, found.values, strict=True)]
        kept = [known or isinstance(now, Tensor) for known, now in zip(kept, present, strict=True)]
        places.put([now if known else value for known, now, value in zip(kept, present, device, strict=True)])
        if [edit[:2] for edit in found.edits[:n]] != [edit[:2] for edit in self._host.edits()]:
            self._rebuild(found.edits)
        scheduler.__dict__["_last_lr"] = found.written[:n]
        self._known, places.shown = found.clock, places.present()

    def before_build(self) -> None:
        """The optimizer is about to build a plan from what the groups hold."""
        self.settle()

    def restart(self) -> None:
        """After the optimizer has a new plan, and after the scheduler was loaded or set to another step."""
        if not self._busy:
            self.write_tables()

    def _renew(self) -> list[ScheduledNumber]:
        """The numbers from where the scheduler is and what the groups have now. RuntimeError without a schedule."""
        inputs, edits = self._rebuild(self._host.edits())
        numbers = [
            ScheduledNumber(i, "lr", ending(inputs.programs[index], inputs.horizon), inputs.rules[i], edits[i])
            for i, index in enumerate(inputs.rates)
        ]
        name = "beta1" if inputs.momentum_key == "betas" else inputs.momentum_key
        momenta = [(i, index) for i, index in enumerate(inputs.momenta) if index >= 0]
        return numbers + [
            ScheduledNumber(i, name, ending(inputs.programs[index], inputs.horizon), DISCARD) for i, index in momenta
        ]

    def _rebuild(self, known: list[Edit]) -> tuple[Inputs, list[Edit]]:
        """A new host driver. `known`: edits that explain the present rates."""
        scheduler = self._scheduler()
        refuse_mixed(scheduler)
        inputs, clock = scheduler._inputs(on_device=True), self._host.clock
        if inputs is None:
            refuse_without_schedule(scheduler, tensors=False)
        clock = scheduler.__dict__.get("last_epoch", clock)
        groups = groups_of(scheduler.optimizer)
        scales = [scalar(group.get("initial_lr", 0.0)) for group in groups]
        edits = edits_of(inputs, clock, [group["lr"] for group in groups], scales, known)
        self._host = host_driver(scheduler, inputs, clock, edits)
        return inputs, edits

    def _move(self, clock: int) -> None:
        """Sets the host to a clock that was reached on the device, without an edit on the way."""
        scheduler = self._scheduler()
        self._host.seek(clock)
        if "_schedulers" not in scheduler.__dict__:
            scheduler._seek(clock)
        self._host.write(scheduler.__dict__)

    def write(self, state: dict[str, Any]) -> None:
        """Writes what belongs to the present clock, on the host."""
        self._host.write(state)

    def see(self, updates: int) -> None:
        """Sets the count of applied updates at the last step."""
        for schedule in self._places.schedules.values():
            schedule.see(updates)

    # What attributes of the scheduler ask.

    def sync(self, name: str) -> None:
        """Brings the host up to date. Waits; does nothing while a graph is captured."""
        if self._places.schedules:
            self.settle()

    def changed(self, name: str) -> None:
        """An attribute of the scheduler was set."""
        if name == "last_epoch" and self._places.schedules:
            self.restart()

    def release(self) -> None:
        """Brings the host up to date."""
        self.sync("last_epoch")

    def edits(self) -> list[Edit]:
        """The edit of each group."""
        return self._host.edits()
