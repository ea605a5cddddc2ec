# SPDX-License-Identifier: Apache-2.0
"""The per-parameter state: made when a parameter first has a gradient, with torch's keys, dtypes and strides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fusedsched.optim._base import FusedOptimizer


def init_states(optimizer: FusedOptimizer, which: list[tuple[int, int]]) -> None:
    """Makes the state of many parameters. Their steps are views of one buffer, so that a step reads them in a row."""
    steps = (
        torch.zeros(len(which), dtype=torch.float32, device="cpu").unbind() if optimizer._adam else [None] * len(which)
    )
    for (g, i), step in zip(which, steps, strict=True):
        group = optimizer.param_groups[g]
        init_state(optimizer, group, group["params"][i], step)


def init_state(optimizer: FusedOptimizer, group: dict[str, Any], p: Tensor, step: Tensor | None = None) -> None:
    """Adds what a parameter's state lacks; what is there stays."""
    if optimizer._adam:
        state = optimizer.state[p]
        if not isinstance(state.get("step"), Tensor):
            value = float(state.get("step") or 0.0)
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu") if step is None else step
            state["step"].fill_(value)
        for name in optimizer._state_names(group):
            if name not in state:
                state[name] = torch.zeros_like(p, memory_format=torch.preserve_format, requires_grad=False)
    elif optimizer._native_plan():  # the reference rule stores the first gradient itself
        for name in optimizer._state_names(group):
            if optimizer.state[p].get(name) is None:
                optimizer.state[p][name] = torch.zeros_like(p, memory_format=torch.preserve_format, requires_grad=False)


def tidy_states(optimizer: FusedOptimizer) -> None:
    """Brings state that somebody else wrote into the form that the kernels read: the step as a 0-dim float32 tensor on
    the CPU, the moments strided like their parameter. Values do not change."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            state = optimizer.state.get(p)
            if not state or p.layout != torch.strided or not p.is_cpu or type(p).__torch_dispatch__ is not _PLAIN:
                continue
            step = state.get("step")
            if step is not None and not _is_plain_step(step):
                state["step"] = torch.tensor(float(step), dtype=torch.float32, device="cpu")
            for name in optimizer._state_names(group):
                moment = state.get(name)
                if isinstance(moment, Tensor) and moment.shape == p.shape:
                    like = torch.empty_like(p, device="meta")
                    if moment.stride() != like.stride() and moment.layout == torch.strided:
                        state[name] = torch.empty_like(p, dtype=moment.dtype).copy_(moment)


_PLAIN = Tensor.__torch_dispatch__


def _is_plain_step(step: Any) -> bool:
    return isinstance(step, Tensor) and step.dtype == torch.float32 and step.is_cpu and step.numel() == 1
