# SPDX-License-Identifier: Apache-2.0
"""A step that needs more than the one call into the plan: hooks, a closure, a GradScaler, torch's differentiable step.

`self` is the optimizer: torch's wrapper finds it by this position.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fusedsched.optim.counting import counts_without_gradients, probes
from fusedsched.optim.python_plan import DONE


def skips_by_itself(defaults: dict[str, Any]) -> bool:
    """Whether a GradScaler leaves skipping to the step. torch's differentiable one does not know how.

    Lightning refuses its own clipping where this is true; fused=False is how users say that they want it.
    """
    return defaults.get("fused") is not False and not defaults.get("differentiable")


@torch.no_grad()
def plain_step(self: Any, closure: Callable[[], Any] | None = None) -> Any:
    if self.defaults["differentiable"]:
        return _differentiable_step(self, closure)
    loss = None
    if closure is not None:
        with torch.enable_grad():
            loss = closure()
    scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
    if not isinstance(found_inf, Tensor):
        found_inf = None  # a GradScaler that saw no gradient of this optimizer leaves the number 0
    runtime = self._runtime
    outcome = runtime.ready().step(runtime.groups(), self.state, scale, found_inf)
    if outcome != DONE:
        runtime.resume(outcome, scale, found_inf)
    return loss


@cache
def watched_step(owner: str) -> Callable[..., Any]:
    """torch's wrapper, whose errors name the class that has the step."""

    def step(self: Any, closure: Callable[[], Any] | None = None) -> Any:
        return plain_step(self, closure)

    step.__qualname__ = f"{owner}.step"
    return Optimizer.profile_hook_step(step)


def _differentiable_step(self: Any, closure: Callable[[], Any] | None) -> Any:
    runtime = self._runtime
    inputs = runtime.inputs
    some = any(p.grad is not None for group in inputs.groups for p in group["params"])
    counts = not probes(inputs.groups, inputs.state) and (some or counts_without_gradients(inputs, False))
    if inputs.ring is not None:
        runtime.ready().record(False)
    step = runtime.spec.torch_class.step
    if getattr(step, "hooked", False):  # torch wraps its class when the first optimizer of it is made
        step = step.__wrapped__
    loss = step(self, closure)
    runtime.clocks.add("updates", int(counts))
    runtime.show()
    return loss
