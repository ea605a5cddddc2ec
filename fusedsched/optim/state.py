# SPDX-License-Identifier: Apache-2.0
"""The per-parameter state: made when a parameter first has a gradient, with torch's keys, dtypes and strides.

Each array has a storage of its own, as torch's have: other code frees, resizes, moves and saves one without the others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedsched.optim.inputs import PlanInputs
from fusedsched.optim.python_plan import state_of
from fusedsched.optim.spec import StateArray
from fusedsched.runtime.addresses import is_backed, is_native


def init_states(inputs: PlanInputs, which: list[tuple[int, int]]) -> None:
    """Makes the state of many parameters of one device for its kernels."""
    groups = [inputs.groups[g] for g, _ in which]
    params = [group["params"][i] for group, (_, i) in zip(groups, which, strict=True)]
    spec = inputs.spec
    needed = {id(group): spec.needed_states(group) for group in groups}
    found = [state_of(inputs.state, p, at) for p, at in zip(params, which, strict=True)]  # all, before any is made
    for group, p, present in zip(groups, params, found, strict=True):
        made = {array.name: zeros(p, array) for array in needed[id(group)] if present.get(array.name) is None}
        if spec.counts_steps:
            _init_step(inputs.state[p], torch.zeros((), dtype=torch.float32, device=p.device))
        if made:
            inputs.state[p].update(made)


def init_state(inputs: PlanInputs, group: dict[str, Any], p: Tensor) -> None:
    """Makes what the reference rule needs; an array that begins with the first gradient it makes itself."""
    spec = inputs.spec
    arrays = [array for array in spec.needed_states(group) if array.init == "zeros"]
    if not arrays and not spec.counts_steps:
        return
    state = inputs.state[p]
    if spec.counts_steps:
        _init_step(state, torch.tensor(0.0, dtype=torch.float32, device="cpu"))  # not zeros: fake ones have no value
    for array in arrays:
        if state.get(array.name) is None:
            state[array.name] = zeros(p, array)


def _init_step(state: dict[str, Any], step: Tensor) -> None:
    if not isinstance(state.get("step"), Tensor):
        state["step"] = step.fill_(float(state.get("step") or 0.0))


def tidy_states(inputs: PlanInputs, device: torch.device) -> None:
    """Brings state that other code wrote into the form that a device's kernels read: the step as a 0-dim float32
    tensor beside the parameter, the moments strided like it. Values do not change."""
    for group in inputs.groups:
        for p in group["params"]:
            state = inputs.state.get(p)
            if not isinstance(state, dict) or p.device != device or not is_native(p):
                continue  # what is no dict is named by the check of the plan
            step = state.get("step")
            if step is not None and not _is_plain_step(step, device):
                state["step"] = torch.tensor(float(step), dtype=torch.float32, device=device)
            for array in inputs.spec.needed_states(group):
                name, moment = array.name, state.get(array.name)
                if isinstance(moment, Tensor) and moment.shape == p.shape:
                    like = torch.empty_like(p, device="meta")
                    if moment.stride() != like.stride() and is_native(moment) and is_backed(moment):
                        state[name] = torch.empty_like(p, dtype=moment.dtype).copy_(moment)


def _is_plain_step(step: Any, device: torch.device) -> bool:
    return (
        isinstance(step, Tensor)
        and step.dtype == torch.float32
        and step.device == device
        and step.numel() == 1
        and is_native(step)
    )


def zeros(p: Tensor, array: StateArray) -> Tensor:
    """Zeros with the shape and strides of a parameter (dense ones if it has gaps), in the dtype of the array.

    >>> moment = zeros(torch.ones(2, 3).t(), StateArray("exp_avg"))
    >>> moment.shape, moment.stride(), moment.sum().item()
    (torch.Size([3, 2]), (1, 3), 0.0)
    """
    return torch.zeros_like(p, dtype=array.dtype, memory_format=torch.preserve_format, requires_grad=False)
