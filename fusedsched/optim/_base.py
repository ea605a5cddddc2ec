# SPDX-License-Identifier: Apache-2.0
"""What the optimizers share: construction, the step, native schedules.

`step()` hands the groups to a plan, which reads every pointer, checks it, and updates all parameters of all groups in
one call. The plan is dropped when anything is replaced and built again at the next step; nothing else is kept beside
torch's own attributes, so that other people's code that edits groups, parameters and state goes on working.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.optim import Optimizer, optimizer as torch_optimizer

from fusedsched import _native
from fusedsched.optim import _checkpoint, backends
from fusedsched.optim._eager import EagerPlan, EagerUpdates
from fusedsched.optim._hyperparameters import Slot
from fusedsched.optim._scheduled import UNITS, Shown, check_schedule, scheduled_slots, take_schedules
from fusedsched.optim._state import init_states, init_state, tidy_states
from fusedsched.schedules import Schedule

_DONE, _REBUILD, _STATE_MISSING, _DONE_WITH_EDITS = range(4)


class FusedOptimizer(Optimizer):
    """Base of `AdamW`, `Adam` and `SGD`; goes before torch's class of the same name."""

    _adam: bool
    _tensor_states: tuple[str, ...]
    _slots: tuple[Slot, ...]

    def _construct(self, params: Any, scalars: dict[str, Any], options: dict[str, Any], backend: str) -> None:
        self._backend = backends.check(backend)
        self._plan = self._eager = None
        self._constructed = False
        self._shown = Shown()
        self._clocks = torch.zeros(len(UNITS), dtype=torch.int64)  # updates, samples, tokens
        self._skipped = 0
        self._counts: dict[Tensor, int] = {}
        self._fast = not options["differentiable"]
        self._default_schedules = take_schedules(scalars, self._slots)
        super().__init__(params, **scalars, **options)
        self._constructed = True
        self._show()
        # Lightning refuses its own clipping where this is true; fused=False is how users say that they want it.
        self._step_supports_amp_scaling = options["fused"] is not False

    # ---- groups ---------------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as torch's does. Its scalars may be schedules; it joins the optimizer's clocks as they stand."""
        if isinstance(param_group, dict):
            schedules = take_schedules(param_group, self._slots)
            for slot in self._slots:
                inherited = self._default_schedules.get(slot.name)
                if inherited is not None and slot.key not in param_group:
                    schedules[slot.name] = inherited
            if schedules:
                param_group["schedules"] = {**param_group.get("schedules", {}), **schedules}
            self._check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)
        self._invalidate()
        self._show()

    def _check_group(self, group: dict[str, Any]) -> None:
        for slot in self._slots:
            if slot.name not in group.get("schedules", {}):
                slot.verify(group)

    def set_schedule(self, name: str, schedule: Schedule, group: int | None = None) -> None:
        """Puts a schedule in the place of a scalar, in one group or (None) in all. It runs on the present clock.

        `name`: "lr", "beta1", "beta2", "momentum" or "weight_decay", as the optimizer has them.
        Raises ValueError for an unknown name and for a schedule that is negative or not finite somewhere.

        >>> from fusedsched import SGD, schedules
        >>> opt = SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
        >>> opt.set_schedule("lr", schedules.linear(0.25, 0.0, steps=10))
        >>> opt.param_groups[0]["lr"]
        tensor(0.2500, dtype=torch.float64)
        """
        slot = next((s for s in self._slots if s.name == name and s.schedulable), None)
        if slot is None:
            names = ", ".join(s.name for s in self._slots if s.schedulable)
            raise ValueError(f"'{name}' cannot be scheduled. {type(self).__name__} has {names}.")
        if not isinstance(schedule, Schedule):
            raise TypeError(f"set_schedule takes a schedule, got {type(schedule).__name__}. See fusedsched.schedules.")
        check_schedule(slot, schedule)
        for target in self.param_groups if group is None else [self.param_groups[group]]:
            self._shown.forget(target, name)
            target["schedules"] = {**target.get("schedules", {}), name: schedule}
        self._invalidate()
        self._show()

    def advance(self, *, samples: int = 0, tokens: int = 0) -> None:
        """Advances the clocks of schedules with `unit="sample"` or `unit="token"`. Updates count themselves.

        Raises ValueError for a negative number.
        """
        if samples < 0 or tokens < 0:
            raise ValueError(f"advance() got samples={samples}, tokens={tokens}. Neither may be negative.")
        self._clocks[1] += samples
        self._clocks[2] += tokens
        self._show()

    def _show(self) -> None:
        # The values of schedules, between steps; a step shows them itself.
        if self._constructed and any("schedules" in group for group in self.param_groups):
            plan = self._ready_plan()
            plan.show(self) if isinstance(plan, EagerPlan) else plan.advance(0, 0)

    # ---- the plan -------------------------------------------------------------------------------------------------

    @property
    def backend(self) -> str:
        """What updates the parameters: "cpu" or "reference", or "cpu+reference" if some parameters need the latter."""
        plan = self._ready_plan()
        if isinstance(plan, EagerPlan):
            return "reference"
        return "cpu" if self._eager is None else "cpu+reference"

    @property
    def skipped_steps(self) -> int:
        """How many calls of `step()` a GradScaler made without effect."""
        return self._skipped

    def _invalidate(self) -> None:
        if self._plan is not None:
            _checkpoint.remember_counts(self)
        self._plan = self._eager = None

    def _invalidate_loaded(self) -> None:
        self._plan = self._eager = None  # what the plan counted belongs to the state before
        self._shown = Shown()
        self._show()

    def _native_plan(self) -> bool:
        return not isinstance(self._plan, EagerPlan)

    def _ready_plan(self) -> Any:
        if self._plan is None:
            self._plan = self._build_plan()
            _checkpoint.recall_counts(self)
        return self._plan

    def _build_plan(self) -> Any:
        eager = self._backend == "reference" or self.defaults["differentiable"]
        module = None if eager else _native.module_or_warn()
        self._eager = None
        if module is None:
            self._fast = False
            plan = EagerPlan(self)
            plan.show(self)
            return plan
        tidy_states(self)
        plan = module.Plan(self._adam, self.param_groups, self.state, self._clocks)
        for index, group, slot, schedule in scheduled_slots(self.param_groups, self._slots):
            tensor = self._shown.install(group, slot)
            plan.set_program(index, slot.name, schedule.program.table.tolist(), UNITS.index(schedule.unit), tensor)
        foreign = plan.foreign()
        if foreign:
            if self._backend == "cpu":
                g, i = foreign[0]
                p = self.param_groups[g]["params"][i]
                raise RuntimeError(
                    f'backend="cpu" cannot update parameter {i} of group {g} (shape {tuple(p.shape)}, {p.dtype}, '
                    f'{p.layout}, on {p.device}): it takes strided floating point tensors on the CPU. Use backend="auto".'
                )
            self._eager = EagerUpdates(self, foreign)
        self._fast = not foreign
        return plan

    # ---- the step -------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient. `closure`: evaluates the model again, returns the loss.

        Raises RuntimeError for a gradient that cannot be used, before anything is changed.
        """
        self._opt_called = True  # torch's schedulers ask for it; they would patch this method otherwise
        attributes = self.__dict__
        plan = attributes["_plan"]
        if (
            closure is None
            and attributes["_fast"]
            and plan is not None
            and not profiler._is_profiler_enabled
            and "found_inf" not in attributes
            and not attributes["_optimizer_step_pre_hooks"]
            and not attributes["_optimizer_step_post_hooks"]
            and not torch_optimizer._global_optimizer_pre_hooks
            and not torch_optimizer._global_optimizer_post_hooks
        ):
            outcome = plan.step(self.param_groups, self.state, 1.0)
            if outcome != _DONE:
                self._resume(outcome)
            return None
        # A subclass with a step of its own was wrapped by torch, hooks and all.
        run = _watched_step if type(self).step is FusedOptimizer.step else _plain_step
        return run(self) if closure is None else run(self, closure)

    step.hooked = True  # torch's wrapper is _watched_step: entered only when somebody watches
    step._wrapped_by_lr_sched = True

    def _resume(self, outcome: int, gain: float = 1.0) -> None:
        """Finishes a step that the plan could not do at once."""
        for _ in range(5):  # rebuild, then state: more than that and somebody changes things as fast as we read them
            if outcome in (_DONE, _DONE_WITH_EDITS):
                break
            if outcome == _STATE_MISSING:
                which = self._plan.missing()
                init_states(self, which)
                self._plan.adopt(which)
            else:
                self._invalidate()
            outcome = self._attempt(gain)
        else:
            raise RuntimeError("The parameters or the state of this optimizer change while a step reads them.")
        if outcome == _DONE_WITH_EDITS:
            self._shown.warn("lr")

    def _attempt(self, gain: float) -> int:
        plan = self._ready_plan()
        if isinstance(plan, EagerPlan):
            if not plan.current(self):
                return _REBUILD
            edited = plan.edited(self)
            plan.step(self, gain)
            return _DONE if edited is None else _DONE_WITH_EDITS
        if self._eager is None:
            return plan.step(self.param_groups, self.state, gain)
        outcome = plan.check(self.param_groups, self.state)
        if outcome == _DONE:
            updated = self._eager.check()
            if updated:
                self._eager.run(self, gain)
            outcome = plan.apply(gain, updated)
        return outcome

    def _differentiable_step(self, closure: Callable[[], Any] | None) -> Any:
        step = torch.optim.Adam.step if self._adam else torch.optim.SGD.step
        if getattr(step, "hooked", False):  # torch wraps its class when the first optimizer of it is made
            step = step.__wrapped__
        loss = step(self, closure)
        self._clocks[0] += 1
        self._show()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Resets the gradients of all parameters, as torch's does."""
        plan = self._plan
        if profiler._is_profiler_enabled or plan is None or isinstance(plan, EagerPlan):
            super().zero_grad(set_to_none)
        elif not plan.zero_grad(self.param_groups, set_to_none):
            self._invalidate()
            super().zero_grad(set_to_none)

    # ---- state ----------------------------------------------------------------------------------------------------

    def _init_state(self, group: dict[str, Any], p: Tensor) -> None:
        init_state(self, group, p)

    def state_dict(self) -> dict[str, Any]:
        """torch's layout. Schedules are saved as expressions in the groups, scheduled scalars as numbers.

        A plain configuration loads into torch's class of the same name, with `weights_only=True` too.
        """
        return _checkpoint.state_dict(self, super().state_dict)

    def load_state_dict(self, state_dict: dict[str, Any], *, override: str = "checkpoint") -> None:
        """Loads a state of this class or of torch's. State keeps the dtype that it was saved with.

        `override`: what wins where the saved schedule is not the present one: "checkpoint" (with a warning that says
        what differs), "present", or "error". Clocks are always the checkpoint's; a state of torch's class, which has
        none, sets them to the largest step of a parameter.
        Raises ValueError for a state of another model or, with "error", of another schedule; nothing is changed then.
        """
        _checkpoint.load_state_dict(self, super().load_state_dict, state_dict, override)

    def __getstate__(self) -> dict[str, Any]:
        _checkpoint.remember_counts(self)
        return {**super().__getstate__(), **_checkpoint.settled(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = _checkpoint.fresh_attributes(self) | state
        super().__setstate__(state)
        self._show()


def _plain_step(self: FusedOptimizer, closure: Callable[[], Any] | None = None) -> Any:
    if self.defaults["differentiable"]:
        return self._differentiable_step(closure)
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    found_inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
    if found_inf is not None and float(found_inf) != 0.0:
        self._skipped += 1
        return loss
    gain = 1.0 if scale is None else 1.0 / float(scale)
    outcome = self._attempt(gain)
    if outcome != _DONE:
        self._resume(outcome, gain)
    if scale is not None:  # users find unscaled gradients after the step, as with torch's fused optimizers
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            p.grad.mul_(gain)
    return loss


_plain_step = torch.no_grad()(_plain_step)
_watched_step = Optimizer.profile_hook_step(_plain_step)
