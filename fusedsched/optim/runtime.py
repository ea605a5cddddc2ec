# SPDX-License-Identifier: Apache-2.0
"""The plan of an optimizer: when it is built, dropped and built again. What schedulers see of an optimizer.

A plan is dropped when anything is replaced and built again at the next step; nothing else is kept beside torch's own
attributes, so that other code that edits groups, parameters and state keeps working.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.optim import Optimizer

from fusedsched.optim.compiled import StepHandle
from fusedsched.optim.counting import counts_without_gradients, probes
from fusedsched.optim.inputs import PlanInputs
from fusedsched.optim.plan import build_plan, every_plan, install_schedule, plans_of, recorder_of
from fusedsched.optim.python_plan import DONE, DONE_WITH_EDITS, IDLE, STATE_MISSING
from fusedsched.optim.spec import Hyperparameter, OptimizerSpec
from fusedsched.optim.state import init_states
from fusedsched.optim.telemetry import Ring
from fusedsched.runtime.backends import for_device
from fusedsched.runtime.clocks import Clocks
from fusedsched.runtime.hyperparameters import HyperparameterTable, Subscriber
from fusedsched.runtime.order import levels_outside
from fusedsched.schedules import Schedule


class Runtime:
    """`optimizer._runtime`: what an optimizer of this package has beside torch's attributes.

    To schedulers it is the `OptimizerRuntime` of `fusedsched/runtime/hyperparameters.py`. Copies and pickles of the
    optimizer get `saved()`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        spec: OptimizerSpec,
        backend: str = "auto",
        clocks: Clocks | None = None,
        counts: dict[Tensor, int] | None = None,
        default_schedules: dict[str, Schedule] | None = None,
    ) -> None:
        self.inputs = PlanInputs(optimizer, spec, backend, clocks or Clocks())
        self.spec, self.clocks = spec, self.inputs.clocks
        self.inputs.counts = counts or {}
        self.default_schedules = default_schedules or {}
        self.compiled = StepHandle(optimizer, self.inputs)
        self.subscribers: WeakSet[Subscriber] = WeakSet()
        self.plan: Any = None  # None: the next step builds one
        self.loads = 0  # of a state
        self.complete = True  # False while the groups of a new optimizer are added
        self._captured: list[Any] = []  # replaced plans that captured graphs still use

    def saved(self) -> dict[str, Any]:
        """The arguments for the runtime of a copy."""
        self.inputs.schedules.drop_edited(self.inputs.groups)
        found = {"backend": self.inputs.backend, "clocks": self.clocks, "counts": self.counts()}
        return found | {"default_schedules": self.default_schedules}

    # The plan.

    def ready(self) -> Any:
        """The plan, built if there is none."""
        if self.plan is None:
            if self.subscribers:
                self.sync()  # a new plan hands the numbers of the groups to the devices
            self.plan = build_plan(self.inputs)
            if self.inputs.counts:
                self.plan.adopt_counts(list(self.inputs.counts.items()))
                self.inputs.counts = {}  # which would keep parameters alive
            self.record_to(self.inputs.ring)
            for subscriber in list(self.subscribers):
                subscriber.restart()
        return self.plan

    def rebuild(self, fresh: Collection[tuple[int, str]] = ()) -> None:
        """Drops the plan: the next step builds another one. `fresh`: as in `NativeSchedules.drop_edited`."""
        if self.plan is not None:
            self.inputs.schedules.drop_edited(self.inputs.groups, fresh)
            self.inputs.counts = self.counts()
        self._drop()
        self.compiled.refresh()

    def reset(self) -> None:
        """Forgets the plan and the tables for a load. What the plan counted belongs to the state before."""
        self.loads += 1
        self._drop()
        self.subscribers.clear()
        self.inputs.renew_schedules()

    def _drop(self) -> None:
        if self.plan is not None:
            self._captured += [plan for plan in self.cuda_plans() if plan.captured]
        self.plan = None

    def counts(self) -> dict[Tensor, int]:
        """Exact numbers of updates by parameter, where the state cannot hold them."""
        return self.inputs.counts if self.plan is None else dict(self.plan.exact_counts())

    def check_counts(self) -> None:
        """Raises ValueError for what a device found wrong in a number of samples or tokens."""
        for plan in every_plan(self.plan):
            plan.check_counts()

    def resume(self, outcome: int, scale: Tensor | None = None, found_inf: Tensor | None = None) -> None:
        """Finishes a step that the plan could not do at once."""
        inputs, finished, capturing = self.inputs, (DONE, DONE_WITH_EDITS, IDLE), self.capturing()
        if outcome not in finished and capturing:
            # Not left to the plan: zeros made now would be written by replays alone, and counts cannot be read.
            raise RuntimeError(
                "This CUDA graph cannot hold optimizer.step(): it is the optimizer's first step, or a parameter, its "
                "state or a group has changed since the last one, and what the kernels read has to be written before "
                "the capture. Call step() once with the same gradients, outside of the graph, and capture then."
            )
        clocks = self.clocks.read() if not capturing and probes(inputs.groups, inputs.state) else None
        with torch.no_grad():
            for _ in range(5):  # rebuild, then state: after more, other code changes things as fast as they are read
                if outcome in (DONE, DONE_WITH_EDITS):
                    break
                if outcome == IDLE:  # no gradient, or no state and a rate of 0; probes() has let other code run
                    outcome = self.plan.check(inputs.groups, inputs.state)
                    if outcome == DONE:
                        counts = self.plan.pending() or counts_without_gradients(inputs, capturing)
                        outcome = self.plan.apply(scale, found_inf, counts)
                    continue
                if outcome == STATE_MISSING:
                    if found_inf is not None and self.skips(found_inf):
                        outcome = self.plan.skip(inputs.groups, found_inf)
                        continue
                    which = self.plan.missing()
                    init_states(inputs, which)
                    self.plan.adopt(which)
                    self.compiled.refresh()
                elif not (self.subscribers and self.sync()):
                    self.rebuild()
                outcome = self.ready().step(inputs.groups, inputs.state, scale, found_inf)
            else:
                raise RuntimeError("The parameters or the state of this optimizer change while a step reads them.")
        if clocks is not None:
            self.clocks.set(clocks)
            self.plan.advance(0, 0)
        elif outcome == DONE_WITH_EDITS and not self.capturing():  # which reads numbers of devices
            self.restore_copies(updates=1)
            inputs.schedules.warn_of_edits(inputs.groups)

    def skips(self, found_inf: Tensor) -> bool:
        """Whether a step that would have to make state is skipped: then it makes none.

        The one thing in a step that waits for a device, and only where state is missing.
        """
        if any(plan.capturing() for plan in plans_of(self.plan) if hasattr(plan, "capturing")):
            return False  # a capture cannot wait; it is refused
        return float(found_inf) != 0.0

    # Schedules and telemetry.

    def show(self) -> None:
        """Writes the values of schedules into the groups, between steps; a step does so by itself."""
        groups = self.inputs.groups
        if self.complete and any("schedules" in group for group in groups):
            # A step asks for numbers that are to be filled in.
            if all(group.get(hyper.key) is not None for group in groups for hyper in self.spec.numbers):
                self.ready().advance(0, 0)

    def put_schedules(self, hyper: Hyperparameter, chosen: dict[int, Schedule]) -> None:
        """Puts schedules in the place of a number of each of these groups."""
        plans, left = every_plan(self.plan), []
        for index, schedule in chosen.items():
            self.inputs.schedules.replace(self.inputs.groups[index], hyper, schedule)
            if plans and install_schedule(self.inputs, plans, index, hyper, schedule):
                left.append(index)
        if left:
            self.rebuild(fresh=[(index, hyper.name) for index in chosen])
        self.show()
        if left:
            warnings.warn(
                f"set_schedule('{hyper.name}') gives group {left[0]} another update rule than the CUDA graph has that "
                "was captured. That graph goes on as it was; capture again.",
                UserWarning,
                stacklevel=levels_outside(),
            )

    def restore_copies(self, updates: int = 0) -> None:
        """Puts schedules back where user code has put their own values; `updates`: applied since."""
        for index, _, hyper, schedule in self.inputs.schedules.copies(self.inputs.groups, updates):
            self.put_schedules(hyper, {index: schedule})

    def record_to(self, ring: Ring | None) -> None:
        """Keeps telemetry in a ring from here on; None: no more."""
        self.inputs.ring = ring
        if self.plan is not None:
            recorder = recorder_of(self.plan)
            recorder.record_to(None) if ring is None else ring.attach(recorder, len(self.inputs.groups))
            self.compiled.refresh()

    # What schedulers and commands ask.

    def groups(self) -> list[dict[str, Any]]:
        """The groups, without bringing them up to date."""
        return self.inputs.groups

    def plans(self) -> list[Any]:
        """The plans of the devices, built if there are none."""
        return plans_of(self.ready())

    def cuda_plans(self) -> list[Any]:
        """Those whose kernels read numbers from places."""
        return [plan for plan in self.plans() if plan.name == "cuda"]

    def capturing(self) -> bool:
        """Whether a graph is captured on a device of the parameters."""
        if self.plan is None:
            return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
        return any(plan.capturing() for plan in plans_of(self.plan) if plan.name != "cpu")

    def backend(self, device: torch.device) -> str | None:
        """What updates parameters on a device; None: the reference."""
        return for_device(self.inputs.backend, device)

    def backends(self) -> set[str | None]:
        """What updates the parameters."""
        return set(map(self.backend, {p.device for group in self.groups() for p in group["params"]}))

    def table(self, device: torch.device) -> HyperparameterTable:
        """The numbers that kernels read on a device."""
        return self.inputs.schedules.table(device)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Keeps a scheduler's driver informed for as long as it lives."""
        self.subscribers.add(subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Forgets a driver."""
        self.subscribers.discard(subscriber)

    def sync(self) -> bool:
        """Brings groups and devices up to date with each other; whether an edit was found. Waits for the devices."""
        edited = any(subscriber.edited() for subscriber in self.subscribers)
        for subscriber in self.subscribers:
            subscriber.synchronize()
        return edited

    def refuse_scheduled(self, name: str) -> None:
        """Raises RuntimeError for a hyperparameter that a scheduler writes on a device."""
        if any(name in subscriber.names() for subscriber in self.subscribers):
            raise RuntimeError(
                f"set_schedule() got '{name}', which follows a scheduler that steps inside a captured graph. Capture "
                "again without that scheduler."
            )
