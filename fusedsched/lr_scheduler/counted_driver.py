# SPDX-License-Identifier: Apache-2.0
"""The driver of rates that are numbers, of an optimizer with parameters on a GPU.

Steps are made on the host, until one stands in a captured graph or has to hold there while no update is applied: then a
counter on the device is advanced, and what the host shows is derived from it.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

from fusedsched.runtime.compile_ops import ReentrancyGuard
from fusedsched.runtime.device_schedule import ScheduledNumber

from ..schedules.edit import DISCARD, Edit
from .device_driver import capture_probe, ending, refuse_mixed, refuse_without_schedule
from .driver import Inputs, edits_of, groups_of, host_driver, scalar


class _Stepper:
    """A scheduler as the optimizer's follower sees it. Does not hold it: its driver holds the follower."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = ref(scheduler)

    def _driver(self) -> CountedDriver:
        return self._scheduler()._mirror

    def clock(self) -> int:
        return self._driver().clock

    def numbers(self) -> list[ScheduledNumber]:
        return self._driver().renew()

    def move(self, clock: int) -> None:
        self._driver().move(clock)

    def learn(self, edits: list[Edit], rates: list[float]) -> None:
        self._driver().learn(edits, rates)

    def seen(self) -> int | None:
        guard = self._scheduler()._skip_guard
        return None if guard is None else guard.seen


class CountedDriver(ReentrancyGuard):
    """Steps a scheduler whose rates are numbers, on the host or by a counter of the optimizer's device."""

    on_device = True

    def __init__(self, scheduler: Any, host: Any) -> None:
        self._scheduler, self._host = ref(scheduler), host
        self._probe = capture_probe(scheduler.optimizer)
        guard = scheduler._skip_guard
        self._guarded = guard is not None and guard.on_device
        self._follower: Any = None

    @property
    def clock(self) -> int:
        """The step, as the host has it."""
        return self._host.clock

    def step(self, state: dict[str, Any]) -> bool:
        """One step on the host, or of the device's counter. Raises RuntimeError in a capture that cannot be."""
        follower = self._follower
        if follower is None and not self._guarded and not self._probe():
            return self._host.step(state)
        scheduler = self._scheduler()
        if follower is None:
            if not self._host.is_unmodified(state):
                return False
            refuse_mixed(scheduler)
            if scheduler.optimizer._followers:
                raise RuntimeError(
                    f"{type(scheduler).__name__}.step() cannot be counted on the device (in a captured graph, or with "
                    "advance_on_skip=False): another scheduler of the same optimizer already is, and rates that are "
                    "numbers can follow one. Put them into a SequentialLR or ChainedScheduler, or give lr as a tensor "
                    "on the device."
                )
            scheduler._mirror = self
            self._follower = follower = scheduler.optimizer._follow(_Stepper(scheduler))
        elif follower.edited():
            if follower.capturing():
                raise RuntimeError(
                    "The lr of a param group was written to after the last step. Call optimizer.sync_hparams() before "
                    "the capture, so that the graph starts from it."
                )
            follower.settle()
        follower.advance()
        return True

    def renew(self) -> list[ScheduledNumber]:
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

    def learn(self, edits: list[Edit], rates: list[float]) -> None:
        """Learns the edits that the device continues, and the rates that its last step wrote."""
        if [edit[:2] for edit in edits] != [edit[:2] for edit in self._host.edits()]:
            self._rebuild(edits)
        self._scheduler().__dict__["_last_lr"] = rates

    def move(self, clock: int) -> None:
        """Sets the host to a clock that was reached on the device, without an edit on the way."""
        scheduler = self._scheduler()
        self._host.seek(clock)
        if "_schedulers" not in scheduler.__dict__:
            scheduler._seek(clock)
        self._host.write(scheduler.__dict__)

    def write(self, state: dict[str, Any]) -> None:
        """Writes what belongs to the present clock, on the host."""
        self._host.write(state)

    def restart(self) -> None:
        """After the scheduler was loaded or set to another step."""
        with self.paused():
            self._follower.restart()

    def see(self, updates: int) -> None:
        """Sets the count of applied updates at the last step."""
        if self._follower is not None:
            self._follower.see(updates)

    # What attributes of the scheduler ask.

    def sync(self, name: str) -> None:
        """Brings the host up to date. Waits; does nothing while a graph is captured."""
        if self._follower is not None and not self._busy:
            with self.paused():
                self._follower.settle()

    def changed(self, name: str) -> None:
        """An attribute of the scheduler was set."""
        if name == "last_epoch" and self._follower is not None and not self._busy:
            self.restart()

    def release(self) -> None:
        """Brings the host up to date."""
        self.sync("last_epoch")

    def edits(self) -> list[Edit]:
        """The edit of each group."""
        return self._host.edits()
