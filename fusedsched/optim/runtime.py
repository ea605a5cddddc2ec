# SPDX-License-Identifier: Apache-2.0
"""What an optimizer has for schedulers: `fusedsched/runtime/hyperparameters.py` has the protocol."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet, ref

import torch

from fusedsched.optim.plan import plans_of
from fusedsched.runtime.backends import for_device
from fusedsched.runtime.clocks import Clocks
from fusedsched.runtime.hyperparameters import HyperparameterTable, Subscriber


class Runtime:
    """The `OptimizerRuntime` of one optimizer of this package."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = ref(optimizer)
        self.subscribers: WeakSet[Subscriber] = WeakSet()

    @property
    def clocks(self) -> Clocks:
        """The counts of updates, samples, tokens and skipped steps."""
        return self._optimizer()._clocks

    @property
    def plan(self) -> Any:
        """The present plan; None: the next step builds one."""
        return self._optimizer()._plan

    def groups(self) -> list[dict[str, Any]]:
        """The groups, without bringing them up to date."""
        return self._optimizer()._groups()

    def plans(self) -> list[Any]:
        """The plans of the devices, built if there are none."""
        return plans_of(self._optimizer()._ready_plan())

    def cuda_plans(self) -> list[Any]:
        """Those whose kernels read numbers from places."""
        return [plan for plan in self.plans() if plan.name == "cuda"]

    def rebuild(self) -> None:
        """Drops the plan: the next step builds another one."""
        self._optimizer()._invalidate()

    def capturing(self) -> bool:
        """Whether a graph is captured on a device of the parameters."""
        if self.plan is None:
            return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
        return any(plan.capturing() for plan in plans_of(self.plan) if plan.name != "cpu")

    def backend(self, device: torch.device) -> str | None:
        """What updates parameters on a device; None: the reference."""
        return for_device(self._optimizer()._backend, device)

    def backends(self) -> set[str | None]:
        """What updates the parameters."""
        return set(map(self.backend, {p.device for group in self.groups() for p in group["params"]}))

    def table(self, device: torch.device) -> HyperparameterTable:
        """The numbers that kernels read on a device."""
        return self._optimizer()._shown.table(device)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Keeps a scheduler's driver informed for as long as it lives."""
        self.subscribers.add(subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Forgets a driver."""
        self.subscribers.discard(subscriber)

    # What the optimizer asks of the subscribers.

    def sync(self) -> bool:
        """Brings groups and devices up to date with each other; whether an edit was found. Waits for the devices."""
        edited = any(subscriber.edited() for subscriber in self.subscribers)
        for subscriber in self.subscribers:
            subscriber.settle()
        return edited

    def before_build(self) -> None:
        """A new plan hands the numbers of the groups to the devices."""
        for subscriber in list(self.subscribers):
            subscriber.settle()

    def after_build(self) -> None:
        """There is a new plan."""
        for subscriber in list(self.subscribers):
            subscriber.restart()

    def refuse_scheduled(self, name: str) -> None:
        """Raises RuntimeError for a hyperparameter that a scheduler writes on a device."""
        if any(name in subscriber.names() for subscriber in self.subscribers):
            raise RuntimeError(
                f"set_schedule() got '{name}', which follows a scheduler that steps inside a captured graph. Capture "
                "again without that scheduler."
            )
