# SPDX-License-Identifier: Apache-2.0
"""The step itself: one call into the plan, and what to do when that call cannot finish the step.

`step()` is kept free of everything that a plain training loop does not need. torch's wrapper, which runs hooks and
opens the profiler's record, is entered only when there is a hook or a profiler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import profiler
from torch.optim import Optimizer, optimizer as torch_optimizer

from fusedsched.optim._eager import EagerPlan
from fusedsched.optim._state import init_states

_DONE, _REBUILD, _STATE_MISSING, _DONE_WITH_EDITS = range(4)  # Plan::Outcome


class Stepping(Optimizer):
    """`step` and `zero_grad` of an optimizer that has a plan."""

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
        run = _watched_step if type(self).step is Stepping.step else _plain_step
        return run(self) if closure is None else run(self, closure)

    step.hooked = True  # torch's wrapper is _watched_step: entered only when somebody watches
    step._wrapped_by_lr_sched = True

    def _resume(self, outcome: int, gain: float = 1.0) -> None:
        """Finishes a step that the plan could not do at once."""
        with torch.no_grad():
            outcome = self._settle(outcome, gain)
        if outcome == _DONE_WITH_EDITS:
            self._shown.warn("lr")

    def _settle(self, outcome: int, gain: float) -> int:
        for _ in range(5):  # rebuild, then state: more than that and somebody changes things as fast as we read them
            if outcome in (_DONE, _DONE_WITH_EDITS):
                return outcome
            if outcome == _STATE_MISSING:
                which = self._plan.missing()
                init_states(self, which)
                self._plan.adopt(which)
            else:
                self._invalidate()
            outcome = self._attempt(gain)
        raise RuntimeError("The parameters or the state of this optimizer change while a step reads them.")

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


def _plain_step(self: Stepping, closure: Callable[[], Any] | None = None) -> Any:
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
        self._plan.scale_gradients(gain)
    return loss


_plain_step = torch.no_grad()(_plain_step)
_watched_step = Optimizer.profile_hook_step(_plain_step)
