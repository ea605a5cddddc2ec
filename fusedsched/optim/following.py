# SPDX-License-Identifier: Apache-2.0
"""Drop-in schedulers inside captured graphs.

A captured `sched.step()` adds one to a counter on the device; the groups' slots follow the scheduler's programs at that
counter, so each replay moves on by itself. What the host shows (`last_epoch`, floats in `param_groups`) is derived from
the counter when somebody reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

import torch
from torch import Tensor

from fusedsched.optim.plan import plans_of
from fusedsched.runtime.backends import for_device
from fusedsched.runtime.compile_ops import ReentrancyGuard

if TYPE_CHECKING:
    from fusedsched.optim.optimizer import FusedOptimizer


class Scheduler(Protocol):
    """What a scheduler has to offer to be followed."""

    def programs(self) -> Any:
        """`tables`; `rates` and `momenta`, for each group the index of its table (-1: none); `momentum`, the slot of
        the latter. From where it stands and what the groups hold now. Raises RuntimeError if it has no closed form."""

    def clock(self) -> int: ...

    def move(self, clock: int) -> None:
        """Brings its attributes and the groups to a clock, from what `programs` said."""

    def seen(self) -> int | None:
        """The count of applied updates at its last step, if it holds while there is no further one; else None."""


class Follower(ReentrancyGuard):
    """A scheduler that the groups of an optimizer follow on the device."""

    def __init__(self, optimizer: FusedOptimizer, scheduler: Scheduler) -> None:
        self._optimizer, self._scheduler = ref(optimizer), scheduler
        self._counters: dict[torch.device, Tensor] = {}
        self._seen: dict[torch.device, Tensor] = {}
        self.attach()

    def attach(self) -> None:
        """Hands the programs, from where the scheduler stands, to the plans. Also while a graph is captured."""
        optimizer = self._optimizer()
        self._programs, self._known = self._scheduler.programs(), self._scheduler.clock()
        for plan in optimizer._device_plans():
            tables = [plan.write(torch.frombuffer(table, dtype=torch.float64)) for table in self._programs.tables]
            clock = torch.tensor([self._known], dtype=torch.int64, device="cpu")
            self._counters[plan.device] = counter = plan.write(clock, self._counters.get(plan.device))
            seen = self._scheduler.seen()
            if seen is not None and plan.device not in self._seen:
                self.see(seen)
            for g, (rate, momentum) in enumerate(zip(self._programs.rates, self._programs.momenta, strict=True)):
                # What stands there now counts for the next update, an edit too; the program goes on after it.
                group, until = optimizer._groups()[g], self._known + 1
                plan.follow(g, "lr", tables[rate], counter, group["lr"], until)
                if momentum >= 0:
                    name = self._programs.momentum
                    now = group["betas"][0] if name == "beta1" else group[name]
                    plan.follow(g, name, tables[momentum], counter, now, until)
        self._remember()

    def _remember(self) -> None:
        optimizer = self._optimizer()
        self._wrote = [group["lr"] for group in optimizer._groups()]
        for plan in optimizer._device_plans():
            plan.sync_hparams(optimizer._groups())

    def slots(self) -> set[str]:
        """The names of those that follow."""
        cycled = any(momentum >= 0 for momentum in self._programs.momenta)
        return {"lr", self._programs.momentum} if cycled else {"lr"}

    def edited(self) -> bool:
        """Whether a user wrote to a rate since the host last showed it. Does not wait."""
        now = [group["lr"] for group in self._optimizer()._groups()]
        return len(now) != len(self._wrote) or any(a is not b for a, b in zip(now, self._wrote, strict=True))

    def tick(self) -> None:
        """One step of the scheduler, in stream order."""
        for plan in self._optimizer()._device_plans():
            plan.tick(self._counters[plan.device], self._seen.get(plan.device))

    def capturing(self) -> bool:
        """Whether a graph is being captured."""
        return self._optimizer()._capturing()

    def see(self, updates: int) -> None:
        """Sets the count of applied updates at the scheduler's last step."""
        for plan in self._optimizer()._device_plans():
            count = torch.tensor([updates], dtype=torch.int64, device="cpu")
            self._seen[plan.device] = plan.write(count, self._seen.get(plan.device))

    def settle(self) -> None:
        """Brings the host up to date, and the device up to an edit. Waits; does nothing while a graph is captured."""
        optimizer = self._optimizer()
        if self._busy or optimizer is None or optimizer._capturing():
            return
        with self.paused():
            clock = int(next(iter(self._counters.values())))
            edited = self.edited()
            rates = [group["lr"] for group in optimizer._groups()]
            if clock != self._known:
                for group, rate in zip(optimizer._groups(), self._wrote, strict=False):
                    group["lr"] = rate  # so that it moves from where it was
                self._scheduler.move(clock)
                self._known = clock
            if edited:
                for group, rate in zip(optimizer._groups(), rates, strict=False):
                    group["lr"] = rate
                self.attach()
            else:
                self._remember()

    def restart(self) -> None:
        """After the scheduler was loaded or set to another step."""
        if not self._busy:
            self.attach()


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
        return [plan for plan in plans_of(self._ready_plan()) if hasattr(plan, "follow")]

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
