# SPDX-License-Identifier: Apache-2.0
"""Which calls of `step()` count for native schedules.

All that nothing held back, whether or not this process had a gradient: ranks with empty shards stay together with the
others. Two kinds of calls do not count. Before the first gradient, in a process that is alone, people call `step()` to
silence a warning. And checkpoint libraries make an optimizer create its state by a step with zeros: a probing step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedsched.optim.inputs import PlanInputs
from fusedsched.runtime.addresses import is_native
from fusedsched.runtime.clocks import number, unwatched


def counts_without_gradients(inputs: PlanInputs, capturing: bool) -> bool:
    """Whether a step that finds no gradient in this process is an update. `capturing`: a graph is, which follows a
    step outside of it. Waits for the device at most once."""
    if not inputs.begun:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        inputs.begun = bool(distributed or capturing or inputs.state) or inputs.clocks.read()[0] > 0
    return inputs.begun


def may_probe(groups: list[dict[str, Any]], state: Any) -> bool:
    """Whether a step may be a probing one, as far as can be said without waiting: no state, and each rate is 0."""
    return not state and all(_is_zero(group.get("lr")) for group in groups)


def _is_zero(lr: Any) -> bool:
    if not isinstance(lr, Tensor):
        try:
            return number(lr) == 0.0
        except (TypeError, ValueError):
            return False  # no number: the step says so
    if lr.device.type != "cpu" or not is_native(lr):
        return False
    with unwatched():
        return float(lr.detach()) == 0.0


def probes(groups: list[dict[str, Any]], state: Any) -> bool:
    """Whether a step is a probing one: then each gradient is 0, too. Waits for the device if it may be one."""
    if not may_probe(groups, state):
        return False
    grads = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    local = [grad.to_local() if hasattr(grad, "to_local") else grad for grad in grads]  # of a DTensor
    return bool(grads) and not any(bool(grad.detach().any()) for grad in local)
