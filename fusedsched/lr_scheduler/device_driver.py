# SPDX-License-Identifier: Apache-2.0
"""The driver of numbers on devices, for an optimizer with parameters on a GPU.

Steps are made on the host, until a graph captures one, or a device has to decide: by a metric, or because no update was
applied. Then launches write the numbers, and what the host shows is derived from the device's clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import finalize, ref

from torch import Tensor

from fusedsched.runtime.addresses import is_native
from fusedsched.runtime.compile_ops import ReentrancyGuard
from fusedsched.runtime.device_schedule import ScheduledNumber
from fusedsched.runtime.hyperparameters import Placement

from ..schedules.edit import DISCARD, Edit
from .devices import (
    WithoutScheduleError,
    capture_probe,
    has_subscribers,
    refuse_edited,
    refuse_mixed,
    refuse_second,
    refuse_without_schedule,
)
from .driver import Inputs, edits_of, ending, groups_of, host_driver
from .inputs import inputs_of
from .metric_state import Decisions
from .param_groups import add_groups
from .places import ScheduledPlaces
from .watched_values import scalar


class DeviceDriver(ReentrancyGuard):
    """Steps a scheduler on the host, or by launches on devices.

    `host`: its host driver; None for a metric scheduler, which has no schedule. `decisions`: those of a metric
    scheduler, or of a member that is one. `placement`: of tensors of another package's optimizer.
    """

    on_device = True

    def __init__(
        self, scheduler: Any, host: Any, decisions: Decisions | None = None, placement: Placement | None = None
    ) -> None:
        self._scheduler, self._optimizer, self._host = ref(scheduler), ref(scheduler.optimizer), host
        self._decisions, self._probe = decisions, capture_probe(scheduler.optimizer)
        guard = scheduler._skip_guard
        self._guarded = guard is not None and guard.on_device
        self._places = ScheduledPlaces(scheduler.optimizer, placement)
        self._known = 0 if host is None else host.clock  # the clock that the host last read

    @property
    def clock(self) -> int:
        """The step, as the host has it."""
        return self._known if self._host is None else self._host.clock

    def read_clock(self) -> int:
        """The step, as the devices have it. Waits, but while a graph is captured: then as the host has it."""
        if not self._places.targets or self._capturing():
            return self.clock
        return self._places.read_clock() if self._decisions is None else self._decisions.read().clock

    def _capturing(self) -> bool:
        return self._probe is not None and self._probe()

    def advance(self, state: dict[str, Any]) -> bool:
        """One step on the host, or of the device's counter. Raises RuntimeError in a capture that cannot be."""
        if not self._places.targets:  # steps are made on the host
            if not self._guarded and not self._capturing():
                return self._host.advance(state)
            if not self._host.is_unmodified(state):
                return False
            scheduler = self._scheduler()
            refuse_mixed(scheduler)
            if has_subscribers(scheduler.optimizer):
                refuse_second(
                    scheduler,
                    "counted on the device (in a captured graph, or with advance_on_skip=False): another scheduler of "
                    "the same optimizer already is",
                    tensors=False,
                )
            self.begin()
        self.launch()
        return True

    def decides(self) -> bool:
        """Whether steps take a metric."""
        return self._decisions is not None

    def serves(self, metric: Any) -> bool:
        """Whether a device decides by this metric."""
        return (
            isinstance(metric, Tensor)
            and is_native(metric)
            and any(metric.device == placement.device for placement in self._places.targets)
        )

    def begin(self) -> None:
        """From here on steps are made on the devices."""
        scheduler, runtime = self._scheduler(), self._places.runtime()
        scheduler._mirror = self
        self.restart()
        if runtime is not None:
            runtime.subscribe(self)
        if runtime is not None:
            # The rates outlive their scheduler. The registry of finalizers keeps its arguments until then.
            self._finalizer = finalize(scheduler, self._places.leave)
            self._finalizer.atexit = False

    def launch(self, metric: Tensor | None = None) -> None:
        """One step on the devices, in stream order. `metric`: where decisions are made."""
        runtime, capturing = self._places.runtime(), self._capturing()
        if runtime is not None:
            runtime.plans()  # a new one calls `restart`
        if self.edited():
            if capturing:
                refuse_edited(self._scheduler())
            self.synchronize()
            if self.edited():
                self.restart()  # which says why it could not be sent
        if runtime is not None and self not in runtime.subscribers:  # the optimizer was loaded: it has another table
            runtime.subscribe(self)
            self.restart()
        if self._decisions is not None:
            if self._decisions.misfit is not None:
                raise RuntimeError(self._decisions.misfit)
            self._decisions.observe(metric, capturing)
        self._places.advance(capturing)

    # What the optimizer asks.

    def names(self) -> set[str]:
        """The hyperparameters that it writes."""
        return {n.name for n in self._places.numbers}

    def edited(self) -> bool:
        """Whether user code wrote to a number, or to what the schedule is made from, since the last step. Does not
        wait."""
        scheduler = self._scheduler()
        if self._busy or scheduler is None:  # it is about to be finalized
            return False
        changed = self._decisions is not None and self._decisions.is_changed()
        with self.paused():  # it reads param_groups, which asks again
            changed = changed or not (self._host is None or self._host.is_unmodified(scheduler.__dict__))
        return changed or any(self._places.edited())

    def synchronize(self) -> None:
        """Brings the host up to date, and the devices up to an edit. Waits; does nothing while a graph is captured."""
        if self._busy or self._scheduler() is None or not self._places.targets or self._capturing():
            return
        edited = self.edited()
        if not edited and self.read_clock() == self._known:
            return
        with self.paused():
            self._read()
            runtime = self._places.runtime()
            if runtime is not None and runtime.plan is None:
                return  # `restart` comes with the next one
            if not edited:
                return self._places.accept()
        with suppress(WithoutScheduleError):  # the next step raises it, if the user does not undo the change
            self.restart()

    def _read(self) -> None:
        """Reads counters, edits and numbers; what user code wrote stays."""
        scheduler, places, clock = self._scheduler(), self._places, self._known
        present, edited = places.present(), places.edited()
        if any(edited) and places.send(edited):  # the device may have used them, and moved on
            edited = [False] * len(edited)
        values = places.values()
        decided = None if self._decisions is None else self._decisions.read()
        found = None if self._host is None else places.read()
        if decided is not None or found is not None:
            clock = decided.clock if found is None else found.clock
        moved = clock != self._known and scheduler is not None
        if moved:
            places.put(places.shown)  # so that it moves from where it was
            self._move(clock)
            if decided is not None:
                self._decisions.load(decided)
        places.show(present, values, edited)
        if found is not None and scheduler is not None:
            rates = len([n for n in places.numbers if n.name == "lr"])
            if [edit[:2] for edit in found.edits[:rates]] != [edit[:2] for edit in self._host.edits()]:
                self._rebuild(found.edits)
            if moved:
                scheduler.__dict__["_last_lr"] = found.written[:rates]
        self._known = clock

    def restart(self) -> None:
        """Writes the tables for where the scheduler is and what the groups have. Also while a graph is captured.

        After the optimizer has a new plan, and after the scheduler was loaded or set to another step.
        """
        if self._busy or self._scheduler() is None:
            return
        with self.paused():
            numbers, self._known = self._numbers(), self.clock
            self._places.write(numbers, self._known, self._scheduler()._skip_guard)
            if self._decisions is not None:
                self._decisions.write(self._places.targets, self._known, self._capturing())

    def _numbers(self) -> list[ScheduledNumber]:
        """The numbers from where the scheduler is and what the groups have now. RuntimeError without a schedule."""
        if self._host is None:
            return [ScheduledNumber(i, "lr", None, ()) for i in range(len(groups_of(self._optimizer())))]
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
        add_groups(scheduler)
        inputs = inputs_of(scheduler, on_device=True)
        clock = scheduler.__dict__.get("last_epoch", self._host.clock)
        if inputs is None:
            refuse_without_schedule(scheduler, tensors=False)
        groups = groups_of(scheduler.optimizer)
        scales = [scalar(group.get("initial_lr", 0.0)) for group in groups]
        edits = edits_of(inputs, clock, [group["lr"] for group in groups], scales, known)
        self._host = host_driver(scheduler, inputs, clock, edits)
        return inputs, edits

    def _move(self, clock: int) -> None:
        """Sets the host to a clock that was reached on the device, without an edit on the way."""
        scheduler = self._scheduler()
        if self._host is not None:
            self._host.seek(clock)
            if "_schedulers" not in scheduler.__dict__:
                scheduler._seek(clock)
            self._host.write(scheduler.__dict__)

    def write(self, state: dict[str, Any]) -> None:
        """Writes what belongs to the present clock, on the host."""
        self._host.write(state)

    def set_last_updates(self, updates: int) -> None:
        """Sets the count of applied updates at the last step."""
        for schedule in self._places.schedules.values():
            schedule.set_last_updates(updates)

    # What attributes of the scheduler ask.

    def sync(self, name: str) -> None:
        """Brings the host up to date. Waits; does nothing while a graph is captured."""
        self.synchronize()

    def changed(self, name: str) -> None:
        """An attribute of the scheduler was set."""
        if self._decisions is not None or (name == "last_epoch" and self._places.targets):
            self.restart()

    def release(self) -> None:
        """Brings the host up to date. Decisions are made there from now on."""
        self.synchronize()
        if self._decisions is not None and not self._busy and not self._capturing():
            self._unsubscribe()
            self._scheduler()._mirror = None

    def _unsubscribe(self) -> None:
        """Updates read the groups again."""
        runtime = self._places.runtime()
        if runtime is not None:
            self._finalizer.detach()
            runtime.unsubscribe(self)
            runtime.rebuild()

    def edits(self) -> list[Edit]:
        """The edit of each group."""
        return [] if self._host is None else self._host.edits()


@contextmanager
def host_section(scheduler: Any) -> Iterator[None]:
    """A section in which the host decides; the devices get what comes of it."""
    mirror = scheduler._mirror
    if not isinstance(mirror, DeviceDriver):
        yield
        return
    mirror.synchronize()
    with mirror.paused():
        yield
    mirror.restart()
