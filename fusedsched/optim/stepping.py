# SPDX-License-Identifier: Apache-2.0
"""The step itself: one call into the plan, and what to do when that call cannot finish the step.

`step()` is kept free of everything that a plain training loop does not need. torch's wrapper, which runs hooks and
opens the profiler's record, is entered only when there is a hook or a profiler.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.compiler import is_dynamo_compiling
from torch.optim import Optimizer, optimizer as torch_optimizer

from fusedsched.optim.compiled import traced_step, traced_zero_grad
from fusedsched.optim.plan import DONE, DONE_WITH_EDITS, STATE_MISSING, plans_of
from fusedsched.optim.scheduled import warn_of_edits
from fusedsched.optim.state import init_states
from fusedsched.runtime.order import StepCalled
from fusedsched.torch_originals import SGD as TorchSGD


class Stepping(Optimizer):
    """`step` and `zero_grad` of an optimizer that has a plan."""

    _opt_called = StepCalled()

    def step(self, *args: Any, closure: Any = ...) -> Any:
        """One update of all parameters that have a gradient. `closure`: evaluates the model again, returns the loss.

        Raises RuntimeError for a gradient that cannot be used, before anything is changed.
        """
        if is_dynamo_compiling():
            return traced_step(self, (args[0] if args else None) if closure is ... else closure)
        attributes = self.__dict__
        attributes["_opt_called"] = True  # torch's schedulers ask for it; they would patch this method otherwise
        plan = attributes["_plan"]
        if (
            (closure is ... or closure is None)
            and (not args or args == (None,))
            and plan is not None
            and not profiler._is_profiler_enabled
            and "found_inf" not in attributes
            and not attributes["_optimizer_step_pre_hooks"]
            and not attributes["_optimizer_step_post_hooks"]
            and not torch_optimizer._global_optimizer_pre_hooks
            and not torch_optimizer._global_optimizer_post_hooks
        ):
            outcome = plan.step(attributes["param_groups"], self.state, None, None)
            if outcome != DONE:
                self._resume(outcome)
            return None
        # A subclass with a step of its own was wrapped by torch, hooks and all.
        run = _watched(self._spec.name) if type(self).step is Stepping.step else _plain_step
        return run(self, *args) if closure is ... else run(self, *args, closure=closure)

    step.hooked = True  # torch's wrapper is in _watched: entered only where a hook or a profiler is
    step._wrapped_by_lr_sched = True
    step.__signature__ = inspect.signature(TorchSGD.step)  # hooks are told how the closure was passed

    def _resume(self, outcome: int, scale: Tensor | None = None, found_inf: Tensor | None = None) -> None:
        """Finishes a step that the plan could not do at once."""
        if outcome not in (DONE, DONE_WITH_EDITS) and self._runtime.capturing():
            # Not left to the plan: zeros made now would be written by replays alone, and counts cannot be read.
            raise RuntimeError(
                "This CUDA graph cannot hold optimizer.step(): it is the optimizer's first step, or a parameter, its "
                "state or a group has changed since the last one, and what the kernels read has to be written before "
                "the capture. Call step() once with the same gradients, outside of the graph, and capture then."
            )
        with torch.no_grad():
            for _ in range(5):  # rebuild, then state: more than that and somebody changes things as fast as we read
                if outcome in (DONE, DONE_WITH_EDITS):
                    break
                if outcome == STATE_MISSING:
                    if found_inf is not None and self._skips(found_inf):
                        outcome = self._plan.skip(self._groups(), found_inf)
                        continue
                    which = self._plan.missing()
                    init_states(self, which)
                    self._plan.adopt(which)
                    self._refresh_handle()
                elif not (self._runtime.subscribers and self._runtime.sync()):
                    self._invalidate()
                outcome = self._ready_plan().step(self._groups(), self.state, scale, found_inf)
            else:
                raise RuntimeError("The parameters or the state of this optimizer change while a step reads them.")
        if outcome == DONE_WITH_EDITS:
            warn_of_edits(self)

    def _skips(self, found_inf: Tensor) -> bool:
        """Whether a step that would have to make state is skipped: then it makes none.

        The one thing in a step that waits for a device, and only where state is missing.
        """
        if any(plan.capturing() for plan in plans_of(self._plan) if hasattr(plan, "capturing")):
            return False  # nobody can wait now; the capture is refused
        return float(found_inf) != 0.0

    def _differentiable_step(self, closure: Callable[[], Any] | None) -> Any:
        if self._ring is not None:
            self._ready_plan().record(False)
        step = self._spec.torch_class.step
        if getattr(step, "hooked", False):  # torch wraps its class when the first optimizer of it is made
            step = step.__wrapped__
        loss = step(self, closure)
        self._clocks.add("updates", 1)
        self._show()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Resets the gradients of all parameters, as torch's does."""
        if is_dynamo_compiling():
            return traced_zero_grad(self, set_to_none)
        plan = self._plan
        if profiler._is_profiler_enabled or plan is None:
            super().zero_grad(set_to_none)
        elif not plan.zero_grad(self._groups(), set_to_none):  # which waits for nothing
            super().zero_grad(set_to_none)


@torch.no_grad()
def _plain_step(self: Stepping, closure: Callable[[], Any] | None = None) -> Any:
    if self.defaults["differentiable"]:
        return self._differentiable_step(closure)
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
    if not isinstance(found_inf, Tensor):
        found_inf = None  # a GradScaler that saw no gradient of this optimizer leaves the number 0
    outcome = self._ready_plan().step(self._groups(), self.state, scale, found_inf)
    if outcome != DONE:
        self._resume(outcome, scale, found_inf)
    return loss


@cache
def _watched(owner: str) -> Callable[..., Any]:
    """torch's wrapper, whose errors name the class that has the step."""

    def step(self: Stepping, closure: Callable[[], Any] | None = None) -> Any:
        return _plain_step(self, closure)

    step.__qualname__ = f"{owner}.step"
    return Optimizer.profile_hook_step(step)
