# SPDX-License-Identifier: Apache-2.0
"""Drop-in schedulers whose rates are numbers, inside captured graphs.

A captured `sched.step()` is one launch of a `DeviceSchedule`: it advances a counter on the device and writes the places
from which the update reads the groups' numbers, so each replay advances by itself. An edit of a number reaches its
place with the next host call; the kernel continues it. What the host shows (`last_epoch`, floats in `param_groups`) is
read from the device on demand.
"""

from __future__ import annotations

from operator import is_not
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

import torch
from torch import Tensor

from fusedsched._layouts import CLOCKS
from fusedsched.optim.plan import plans_of
from fusedsched.runtime.backends import for_device
from fusedsched.runtime.clocks import number
from fusedsched.runtime.compile_ops import ReentrancyGuard
from fusedsched.runtime.device_schedule import DeviceSchedule, ScheduledNumber, Target
from fusedsched.runtime.hyperparameters import HyperparameterTable, Placement
from fusedsched.schedules.edit import Edit

if TYPE_CHECKING:
    from fusedsched.optim.optimizer import FusedOptimizer


class Scheduler(Protocol):
    """What a scheduler has to offer to be counted on a device."""

    def numbers(self) -> list[ScheduledNumber]:
        """The rates of all groups, then momenta, from where it is and what the groups hold now.

        Raises RuntimeError where the scheduler has no schedule.
        """

    def clock(self) -> int: ...

    def move(self, clock: int) -> None:
        """Brings its attributes and the groups to a clock that was reached on the device."""

    def learn(self, edits: list[Edit], rates: list[float]) -> None:
        """Learns the edits that a device continues, one for each rate, and what its last step wrote to the groups."""

    def seen(self) -> int | None:
        """The count of applied updates at its last step, if it holds while there is no further one; else None."""


class Follower(ReentrancyGuard):
    """A scheduler that is counted on the devices of an optimizer, by a `DeviceSchedule` on each."""

    def __init__(self, optimizer: FusedOptimizer, scheduler: Scheduler) -> None:
        self._optimizer, self._scheduler = ref(optimizer), scheduler
        self._schedules: dict[torch.device, DeviceSchedule] = {}
        self._hypers = {hyper.name: hyper for hyper in optimizer._spec.hyperparameters}
        self.attach()

    def attach(self) -> None:
        """Writes the tables for where the scheduler is. Also while a graph is captured."""
        optimizer = self._optimizer()
        with self.paused():
            self._numbers, self._known = self._scheduler.numbers(), self._scheduler.clock()
            self._shown = self._present()
            for plan in optimizer._device_plans():
                if not plan.sync_hparams(optimizer._groups()) and not optimizer._capturing():
                    for place, shown in zip(self._places(plan.device), self._shown, strict=True):
                        place.fill_(number(shown))  # the plan is out of date: groups were added
                self._write(plan)

    def _write(self, plan: Any) -> None:
        optimizer, seen, old = self._optimizer(), self._scheduler.seen(), self._schedules.get(plan.device)
        targets = [
            Target(place, n.program, n.rules, n.edit, number(shown))
            for place, n, shown in zip(self._places(plan.device), self._numbers, self._shown, strict=True)
        ]
        if old is None or len(old) != len(targets):
            updates = None if seen is None else optimizer._clocks.on(plan.device)
            past = optimizer._shown.table(plan.device).flags[CLOCKS.index("skipped") :]
            clock = None if old is None else old.clock
            placement = Placement(plan.name, plan.device)
            self._schedules[plan.device] = DeviceSchedule(placement, len(targets), updates, past, clock)
        schedule = self._schedules[plan.device]
        schedule.past_horizon.zero_()
        schedule.write(targets, self._known)
        if seen is not None and old is None:
            schedule.see(seen)

    def _places(self, device: torch.device) -> list[Tensor]:
        table, groups = self._optimizer()._shown.table(device), self._optimizer()._groups()
        return [table.place(groups[n.group], n.name) for n in self._numbers]

    def _present(self) -> list[Any]:
        """What the groups hold."""
        groups = self._optimizer()._groups()
        return [self._hypers[n.name].read(groups[n.group]) for n in self._numbers]

    def _fits(self) -> bool:
        """Whether the groups are as many as they were."""
        return len(self._optimizer()._groups()) == sum(n.name == "lr" for n in self._numbers)

    def slots(self) -> set[str]:
        """The names of the numbers that it writes."""
        return {n.name for n in self._numbers}

    def edited(self) -> bool:
        """Whether a user wrote to a number since the host last showed it. Does not wait."""
        return not self._fits() or any(map(is_not, self._present(), self._shown))

    def advance(self) -> None:
        """One step of the scheduler, in stream order."""
        optimizer = self._optimizer()
        if self not in optimizer._followers:  # it was loaded, and has another table
            optimizer._followers.add(self)
            self.attach()
        for plan in optimizer._device_plans():
            self._schedules[plan.device].advance()
            if plan.capturing():
                self._schedules[plan.device].keep_for_graph()

    def capturing(self) -> bool:
        """Whether a graph is being captured."""
        return self._optimizer()._capturing()

    def see(self, updates: int) -> None:
        """Sets the count of applied updates at the scheduler's last step."""
        for schedule in self._schedules.values():
            schedule.see(updates)

    def settle(self) -> None:
        """Brings the host up to date, and the device up to an edit. Waits; does nothing while a graph is captured."""
        optimizer = self._optimizer()
        if self._busy or optimizer is None or optimizer._capturing():
            return
        if not self._fits():
            return self.attach()
        edited = list(map(is_not, self._present(), self._shown))
        if not any(edited) and next(iter(self._schedules.values())).read_clock() == self._known:
            return
        with self.paused():
            plans = [] if optimizer._plan is None else optimizer._device_plans()
            for plan in plans:
                self._send(plan, edited)
            self._read(kept=[] if plans else edited)
            for plan in plans:
                plan.sync_hparams(optimizer._groups())  # what is shown now is no edit

    def _send(self, plan: Any, edited: list[bool]) -> None:
        """Stores edits in their places."""
        plan.sync_hparams(self._optimizer()._groups())
        numbers = zip(edited, self._places(plan.device), self._present(), self._shown, strict=True)
        for is_edited, place, now, shown in numbers:
            if is_edited and number(now) == number(shown):  # the plan has sent that number before, and sees no edit
                place.fill_(number(now))

    def _read(self, kept: list[bool]) -> None:
        """Reads counter and numbers; `kept`: which of these the groups know better."""
        device, schedule = next(iter(self._schedules.items()))
        groups, present = self._optimizer()._groups(), self._present()
        clock, edits = schedule.read()
        values, wrote = torch.stack(self._places(device)).tolist(), schedule.last_values().tolist()
        if clock != self._known:
            for n, shown in zip(self._numbers, self._shown, strict=True):
                self._hypers[n.name].write(groups[n.group], shown)  # so that it moves from where it was
            self._scheduler.move(clock)
        for i, n in enumerate(self._numbers):
            known = present[i] if isinstance(present[i], Tensor) or (kept and kept[i]) else values[i]
            self._hypers[n.name].write(groups[n.group], present[i] if number(present[i]) == number(known) else known)
        self._scheduler.learn(edits[: len(groups)], wrote[: len(groups)])
        self._known, self._shown = clock, self._present()

    def restart(self) -> None:
        """After the scheduler was loaded or set to another step."""
        if not self._busy:
            self.attach()


class OptimizerRuntime:
    """What an optimizer of this package has for schedulers."""

    def __init__(self, optimizer: FusedOptimizer) -> None:
        self._optimizer = optimizer

    def table(self, device: torch.device) -> HyperparameterTable:
        """The numbers that its kernels read on a device."""
        return self._optimizer._shown.table(device)


class Followed:
    """What an optimizer has for its followers."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """torch's list of groups, up to date with captured graphs (which, after a capture, waits for the device)."""
        followers = self.__dict__.get("_followers")
        if followers is not None and followers.data:  # of the WeakSet: to ask that itself takes three times as long
            self._settle()
        try:
            return self.__dict__["param_groups"]
        except KeyError:  # wrappers of some trainers take this class and hand its attributes through
            raise AttributeError(f"'{type(self).__name__}' object has no attribute 'param_groups'") from None

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.__dict__["param_groups"] = groups

    def _follow(self, scheduler: Scheduler) -> Follower:
        follower = Follower(self, scheduler)
        self._followers.add(follower)
        return follower

    @property
    def _runtime(self) -> OptimizerRuntime:
        return OptimizerRuntime(self)

    def _refuse_followed(self, name: str) -> None:
        if any(name in follower.slots() for follower in self._followers):
            raise RuntimeError(
                f"set_schedule() got '{name}', which follows a scheduler that steps inside a captured graph. Capture "
                "again without that scheduler."
            )

    def _has_device(self) -> bool:
        """Whether some parameters are updated by CUDA kernels."""
        devices = {p.device for group in self._groups() for p in group["params"]}
        return any(for_device(self._backend, device) == "cuda" for device in devices)

    def _counts_on_device(self) -> bool:
        """Whether kernels count the updates, and no clock is on the host."""
        devices = {p.device for group in self._groups() for p in group["params"]}
        return bool(devices) and all(for_device(self._backend, d) in ("cuda", "triton") for d in devices)

    def _can_follow(self) -> bool:
        """Whether numbers of the groups can follow a counter on the device."""
        devices = {p.device for group in self._groups() for p in group["params"]}
        return all(for_device(self._backend, device) == "cuda" for device in devices)

    def _groups(self) -> list[dict[str, Any]]:
        groups = self.__dict__.get("param_groups")  # without looking at the counters
        return self.param_groups if groups is None else groups

    def _device_plans(self) -> list[Any]:
        return [plan for plan in plans_of(self._ready_plan()) if plan.name == "cuda"]

    def _capturing(self) -> bool:
        if self._plan is None:
            return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
        return any(plan.capturing() for plan in plans_of(self._plan) if plan.name != "cpu")

    def _settle(self) -> bool:
        """Whether an edit was found, and brought to the device."""
        edited = any(follower.edited() for follower in self._followers)
        for follower in self._followers:
            follower.settle()
        return edited

    def _settle_counters(self) -> None:
        """Brings the groups up to date with schedulers that are counted on the device."""
        for follower in list(self._followers):
            if isinstance(follower, Follower):
                follower.settle()

    def sync_hparams(self) -> None:
        """Makes edits of `param_groups` reach captured graphs: the next replay uses them.

        Without it they act at the next `step()`. An edit of a tensor needs neither. Waits for the device.
        """
        self._settle()
        self._check_counts()
        for plan in self._device_plans():
            if not plan.sync_hparams(self._groups()):
                self._invalidate()
                return
