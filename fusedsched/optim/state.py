# SPDX-License-Identifier: Apache-2.0
"""The per-parameter state: made when a parameter first has a gradient, with torch's keys, dtypes and strides.

Small tensors share one storage: a step over thousands of them is bound by the number of cache lines that it reads, and
one storage is one object to check instead of thousands. A large 16-bit one on the CPU begins at the page offset of its
parameter: where the four arrays that are walked side by side lie at different offsets, a store is mistaken for one to
the address of a later load (the processor compares the lowest 12 bits first), and a step takes up to a tenth longer.
Wider types wait for memory anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedsched.optim.inputs import PlanInputs
from fusedsched.runtime.addresses import is_native, unwrap

_LINE = 64  # bytes
_PAGE = 4096
_SMALL = 16 * 1024  # bytes


def init_states(inputs: PlanInputs, which: list[tuple[int, int]]) -> None:
    """Makes the state of many parameters of one device for its kernels. Their steps are views of one buffer."""
    groups = [inputs.groups[g] for g, _ in which]
    params = [group["params"][i] for group, (_, i) in zip(groups, which, strict=True)]
    spec = inputs.spec
    needed = {id(group): spec.needed_states(group) for group in groups}
    missing = [
        [array.name for array in needed[id(group)] if (inputs.state.get(p) or {}).get(array.name) is None]
        for group, p in zip(groups, params, strict=True)
    ]
    zeros = zeros_for(params, [len(names) for names in missing])
    steps = torch.zeros(len(which), dtype=torch.float32, device=params[0].device).unbind()
    for p, names, tensors, step in zip(params, missing, zeros, steps, strict=True):
        if spec.counts_steps:
            _init_step(inputs.state[p], step)
        if names:
            inputs.state[p].update(zip(names, tensors, strict=True))


def init_state(inputs: PlanInputs, group: dict[str, Any], p: Tensor) -> None:
    """Makes what the reference rule needs; an array that begins with the first gradient it makes itself."""
    spec = inputs.spec
    names = [array.name for array in spec.needed_states(group) if array.init == "zeros"]
    if not names and not spec.counts_steps:
        return
    state = inputs.state[p]
    if spec.counts_steps:
        _init_step(state, torch.tensor(0.0, dtype=torch.float32, device="cpu"))  # not zeros: fake ones have no value
    for name in names:
        if name not in state:
            state[name] = torch.zeros_like(p, memory_format=torch.preserve_format, requires_grad=False)


def _init_step(state: dict[str, Any], step: Tensor) -> None:
    if not isinstance(state.get("step"), Tensor):
        state["step"] = step.fill_(float(state.get("step") or 0.0))


def tidy_states(inputs: PlanInputs, device: torch.device) -> None:
    """Brings state that other code wrote into the form that a device's kernels read: the step as a 0-dim float32
    tensor beside the parameter, the moments strided like it. Values do not change."""
    for group in inputs.groups:
        for p in group["params"]:
            state = inputs.state.get(p)
            if not state or p.device != device or not is_native(p):
                continue
            step = state.get("step")
            if step is not None and not _is_plain_step(step, device):
                state["step"] = torch.tensor(float(step), dtype=torch.float32, device=device)
            for array in inputs.spec.needed_states(group):
                name, moment = array.name, state.get(array.name)
                if isinstance(moment, Tensor) and moment.shape == p.shape:
                    like = torch.empty_like(p, device="meta")
                    if moment.stride() != like.stride() and is_native(moment):
                        state[name] = torch.empty_like(p, dtype=moment.dtype).copy_(moment)


def _is_plain_step(step: Any, device: torch.device) -> bool:
    return (
        isinstance(step, Tensor)
        and step.dtype == torch.float32
        and step.device == device
        and step.numel() == 1
        and is_native(step)
    )


def zeros_for(params: list[Tensor], counts: list[int]) -> list[list[Tensor]]:
    """For each parameter `counts[i]` tensors of zeros, with its shape, dtype and strides (dense ones if it has gaps).

    >>> p = torch.ones(2, 3).t()
    >>> [(z.shape, z.stride(), z.sum().item()) for z in zeros_for([p], [2])[0]]
    [(torch.Size([3, 2]), (1, 3), 0.0), (torch.Size([3, 2]), (1, 3), 0.0)]
    """
    lengths: dict[tuple[torch.dtype, torch.device], int] = {}
    for p, count in zip(params, counts, strict=True):
        if _bytes(p) <= _SMALL:
            lengths[p.dtype, p.device] = lengths.get((p.dtype, p.device), 0) + count * _padded(p)
    shared = {
        (dtype, device): torch.zeros(n, dtype=dtype, device=device).untyped_storage()
        for (dtype, device), n in lengths.items()
    }
    used = dict.fromkeys(shared, 0)
    placed = []
    for p, count in zip(params, counts, strict=True):
        tensors = []
        for _ in range(count):
            if _bytes(p) > _SMALL:
                tensors.append(_at_offset_of(p))
            else:
                key = p.dtype, p.device
                tensors.append(_view(shared[key], used[key], p))
                used[key] += _padded(p)
        placed.append(tensors)
    return placed


def _bytes(p: Tensor) -> int:
    return p.numel() * p.element_size()


def _padded(p: Tensor) -> int:
    """Elements up to the next cache line, so that no two threads write to one."""
    return -(-_bytes(p) // _LINE) * _LINE // p.element_size()


def _at_offset_of(p: Tensor) -> Tensor:
    """Zeros like p, in a storage of their own, at p's place within a page."""
    if p.device.type != "cpu" or p.element_size() > 2:
        return torch.zeros_like(p, memory_format=torch.preserve_format, requires_grad=False)
    size = p.element_size()
    buffer = torch.zeros(p.numel() + _PAGE // size, dtype=p.dtype, device="cpu")
    return _view(buffer.untyped_storage(), (unwrap(p) - unwrap(buffer)) % _PAGE // size, p)


def _view(storage: torch.UntypedStorage, offset: int, p: Tensor) -> Tensor:
    """Not a view to autograd: each has a version counter of its own."""
    strides = p.stride() if p.is_contiguous() else torch.empty_like(p, device="meta").stride()
    return torch.empty(0, dtype=p.dtype, device=p.device).set_(storage, offset, p.size(), strides)
