# SPDX-License-Identifier: Apache-2.0
"""Which plans serve the parameters of an optimizer: one for each device that has kernels, the reference for the rest.

What a plan is: `csrc/plan/plan.h`. All have the same methods, in C++ and in Python: `check` reads and checks everything
and changes nothing, `apply` does what was found, `step` is both.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from fusedsched import _native
from fusedsched.optim.counting import may_probe
from fusedsched.optim.inputs import PlanInputs
from fusedsched.optim.python_plan import DONE, IDLE
from fusedsched.optim.reference_plan import ReferencePlan
from fusedsched.optim.spec import Hyperparameter
from fusedsched.optim.state import tidy_states
from fusedsched.runtime import backends
from fusedsched.runtime.clocks import UNITS
from fusedsched.schedules import Schedule


def build_plan(inputs: PlanInputs) -> Any:
    """The plan for the parameters as they are now. Raises RuntimeError if a named backend cannot take one of them."""
    chosen = inputs.backend
    if chosen == "reference" or inputs.differentiable:
        return _alone(inputs)
    plans = []
    for device in dict.fromkeys(p.device for group in inputs.groups for p in group["params"]):
        name = backends.for_device(chosen, device)
        if name is not None:
            tidy_states(inputs, device)
            plans.append(_MAKERS[name](inputs, device))
    unserved = [set(plan.unsupported()) for plan in plans]
    left = sorted(set.intersection(*unserved)) if plans else inputs.members()
    if left and chosen != "auto":
        raise RuntimeError(_refusal(inputs, *left[0]))
    if left:
        _native.module_or_warn()  # only now: a GPU with Triton does without the extension
    if not plans:
        return _alone(inputs)
    inputs.clocks.keep([plan.device for plan in plans])
    _install_schedules(inputs, plans)
    return plans[0] if len(plans) == 1 and not left else PlanGroup(inputs, plans, left)


def _alone(inputs: PlanInputs) -> ReferencePlan:
    plan = ReferencePlan(inputs, inputs.clocks.on("cpu"))
    _install_schedules(inputs, [plan])
    return plan


def _refusal(inputs: PlanInputs, g: int, i: int) -> str:
    p = inputs.groups[g]["params"][i]
    where = "the CPU" if inputs.backend == "cpu" else "a GPU"
    return (
        f'backend="{inputs.backend}" cannot update parameter {i} of group {g} (shape {tuple(p.shape)}, {p.dtype}, '
        f"{p.layout}, on {p.device}): it takes strided floating point tensors on {where}, whose state "
        'is native too. Use backend="auto".'
    )


def _install_schedules(inputs: PlanInputs, plans: list[Any]) -> None:
    for index, _, hyper, schedule in inputs.schedules.of(inputs.groups):
        install_schedule(inputs, plans, index, hyper, schedule)


def install_schedule(
    inputs: PlanInputs, plans: list[Any], index: int, hyper: Hyperparameter, schedule: Schedule
) -> bool:
    """Puts a schedule into the plans. True: a captured graph cannot get it, and the plans are out of date."""
    group = inputs.groups[index]
    device = _device_of(group, plans)
    inputs.schedules.table(device).reserve(len(inputs.groups))
    tensor = inputs.schedules.install(group, hyper, device)
    program, unit = schedule.program.table.tolist(), UNITS.index(schedule.unit)
    refused = [plan.set_program(index, hyper.name, program, unit, tensor) for plan in plans]  # every plan gets it
    return any(refused)


def _device_of(group: dict[str, Any], plans: list[Any]) -> torch.device:
    """Where the value of a schedule is shown: beside the parameters, if a kernel there writes it."""
    served = [plan.device for plan in plans]
    devices = [p.device for p in group["params"] if p.device in served]
    return devices[0] if devices else torch.device("cpu")


def _cpu_plan(inputs: PlanInputs, device: torch.device) -> Any:
    clocks = inputs.clocks.on(device)
    return _native.module().CpuPlan(inputs.spec, inputs.optimizer, inputs.groups, inputs.state, clocks)


def _cuda_plan(inputs: PlanInputs, device: torch.device) -> Any:
    stream_of = torch._C._cuda_getCurrentRawStream if device.type == "cuda" else _no_stream
    table, groups = inputs.schedules.table(device), inputs.groups
    table.reserve(len(groups))
    table.flags.zero_()
    rows = [table.row(group) for group in groups]
    return _native.module().CudaPlan(
        inputs.spec, inputs.optimizer, groups, inputs.state, inputs.clocks.on(device), table.flags, rows, stream_of
    )


def _no_stream(index: int) -> int:
    return 0


def _triton_plan(inputs: PlanInputs, device: torch.device) -> Any:
    from fusedsched.optim.triton_plan import TritonPlan

    return TritonPlan(inputs, inputs.clocks.on(device))


_MAKERS = {"cpu": _cpu_plan, "cuda": _cuda_plan, "triton": _triton_plan}


def recorder_of(plan: Any) -> Any:
    """The one of several plans that keeps telemetry: on a device if any is, so that nothing there is waited for."""
    return plan if not isinstance(plan, PlanGroup) else plan.recorder


def plans_of(plan: Any) -> list[Any]:
    """The plans with kernels in what `build_plan` made."""
    return plan.plans if isinstance(plan, PlanGroup) else [] if isinstance(plan, ReferencePlan) else [plan]


def every_plan(plan: Any) -> list[Any]:
    """The same, or the reference's where it is alone. None: not built yet."""
    return [] if plan is None else plans_of(plan) or [plan]


def between_steps(plan: Any, call: Callable[[], Any]) -> Any:
    """What `call` returns, while no other thread is in a step of this plan."""
    if hasattr(plan, "between_steps"):
        return plan.between_steps(call)
    with plan.turn:
        return call()


class PlanGroup:
    """Several plans, and the reference for parameters that none of them takes, as one. All check before any applies."""

    def __init__(self, inputs: PlanInputs, plans: list[Any], left: list[tuple[int, int]]) -> None:
        self.plans = plans
        self.recorder = min(plans, key=lambda plan: plan.device.type == "cpu")
        clocks = inputs.clocks.on(plans[0].device)
        self._reference = ReferencePlan(inputs, clocks, left) if left else None
        self._waiting: Any = None  # the plan that lacks state
        self.turn = RLock()  # of the thread that is in a step
        self.name = "+".join([*dict.fromkeys(plan.name for plan in plans), *(["reference"] if left else [])])

    def step(self, param_groups: Any, state: Any, scale: Tensor | None, found_inf: Tensor | None) -> int:
        with self.turn:
            return self._step(param_groups, state, scale, found_inf)

    def _step(self, param_groups: Any, state: Any, scale: Tensor | None, found_inf: Tensor | None) -> int:
        if found_inf is not None and (self._reference is not None or found_inf.device.type == "cpu"):
            # The reference has to wait for the device anyway, to know.
            if float(found_inf) != 0.0:
                return self.skip(param_groups, found_inf)
            found_inf = None
        try:
            outcome = self.check(param_groups, state)
            if outcome != DONE:
                return outcome
            idle = not self.pending() or may_probe(param_groups, state)
            return IDLE if idle else self.apply(scale, found_inf, False)
        finally:
            for plan in self.plans:
                plan.release()  # of what one has checked before another one refused

    def check(self, param_groups: Any, state: Any) -> int:
        for plan in self.plans:
            outcome = plan.check(param_groups, state)
            if outcome != DONE:
                self._waiting = plan
                return outcome
        return DONE if self._reference is None else self._reference.check(param_groups, state)

    def pending(self) -> bool:
        return any(plan.pending() for plan in self._every())

    def apply(self, scale: Tensor | None, found_inf: Tensor | None, counts: bool) -> int:
        counts = counts or self.pending()
        if self._reference is not None and self._reference.pending():
            self._reference.apply(scale, None, False)
        return max(plan.apply(scale, found_inf, counts) for plan in self.plans)

    def skip(self, param_groups: Any, found_inf: Tensor) -> int:
        others = [plan for plan in self.plans if plan is not self.recorder]
        for plan in (self.recorder, *others):  # the first may be out of date, and then nothing is counted yet
            outcome = plan.skip(param_groups, found_inf)
            if outcome != DONE:
                return outcome
        return DONE

    def missing(self) -> list[tuple[int, int]]:
        return self._waiting.missing()

    def adopt(self, which: list[tuple[int, int]]) -> None:
        self._waiting.adopt(which)

    def zero_grad(self, param_groups: Any, set_to_none: bool) -> bool:
        return self.plans[0].zero_grad(param_groups, set_to_none)  # a plan resets those of others too

    def advance(self, unit: int, amount: int) -> None:
        for plan in self.plans:
            plan.advance(unit, amount)

    def exact_counts(self) -> list[tuple[Tensor, int]]:
        return [pair for plan in self._every() for pair in plan.exact_counts()]

    def adopt_counts(self, counts: list[tuple[Tensor, int]]) -> None:
        for plan in self._every():
            plan.adopt_counts(counts)

    def _every(self) -> list[Any]:
        return [*self.plans, *([] if self._reference is None else [self._reference])]
