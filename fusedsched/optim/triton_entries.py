# SPDX-License-Identifier: Apache-2.0
"""One parameter of a Triton plan: what is known of it, and what is checked before a step. As csrc/plan/collect.cpp."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedsched._layouts import MAX_STATES
from fusedsched.optim.reference_plan import refuse_sparse
from fusedsched.optim.spec import OptimizerSpec
from fusedsched.runtime import addresses

# How numbers are stored; complex ones are pairs.
REAL = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.bfloat16,
    torch.float16: torch.float16,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
    torch.complex32: torch.float16,
}
_ALIGNED = 16  # bytes of the widest access


def is_native(tensor: Tensor, device: torch.device) -> bool:
    """Whether kernels can read it: plain strided memory on the device with a dtype of theirs."""
    return tensor.device == device and tensor.dtype in REAL and addresses.is_native(tensor)


class Entry:
    """A parameter, its layout and its state."""

    __slots__ = ("p", "at", "group", "index", "unsupported", "kind", "packed", "sizes", "strides", "contiguous", "kept")
    __slots__ += ("state", "states", "step")

    def __init__(self, p: Tensor, at: int, group: int, index: int, device: torch.device) -> None:
        self.p, self.at, self.group, self.index = p, at, group, index
        self.unsupported, self.kind = not is_native(p, device), type(p)  # swap_tensors changes the type of an object
        self.kept: dict[str, Any] | None = None  # the dictionary that its state was found in
        self.state: dict[str, Any] = {}
        self.states: tuple[Tensor, ...] | None = None
        self.step: Tensor | None = None
        if self.unsupported:
            return
        like = torch.empty_like(p, device="meta")
        self.packed = like.stride() != p.stride() or p.is_conj() or p.is_neg()
        if self.packed and any(n > 1 and s == 0 for n, s in zip(p.shape, p.stride(), strict=True)):
            raise RuntimeError(
                "unsupported operation: more than one element of the written-to tensor refers to a single memory "
                f"location. Parameter {index} of group {group} with shape {list(p.shape)} is expanded; clone() it "
                "before it becomes a parameter."
            )
        self.sizes, self.strides, self.contiguous = like.shape, like.stride(), like.is_contiguous()

    def where(self) -> str:
        return (
            f"parameter {self.index} of group {self.group} (shape {list(self.p.shape)}, {self.p.dtype} on "
            f"{self.p.device})"
        )

    def matches(self, tensor: Tensor) -> bool:
        """Whether its elements lie in the order of the parameter's."""
        return tensor.shape == self.sizes and (
            tensor.stride() == self.strides or (self.contiguous and tensor.is_contiguous())
        )

    def read_state(self, state: dict[str, Any] | None, names: tuple[str, ...], counted: bool) -> None:
        """Records the state tensors, none if some are missing. Raises RuntimeError for state of another model."""
        self.kept, self.states, self.step = state, None, None
        device = self.p.device
        if not isinstance(state, dict):
            return
        found = tuple(state.get(name) for name in names)
        if not all(isinstance(tensor, Tensor) for tensor in found):
            return
        for name, tensor in zip(names, found, strict=True):
            if not is_native(tensor, device) or not self.matches(tensor):
                raise RuntimeError(
                    f"state['{name}'] of parameter {self.index} of group {self.group} has shape {list(tensor.shape)}, "
                    f"strides {list(tensor.stride())} and dtype {tensor.dtype} on {tensor.device}; the parameter has "
                    f"shape {list(self.p.shape)} on {device}. Load a state that belongs to this model."
                )
        if counted:
            step = state.get("step")
            if not isinstance(step, Tensor):
                return
            if not is_native(step, device) or step.dtype != torch.float32 or step.numel() != 1:
                raise RuntimeError(
                    f"state['step'] of parameter {self.index} of group {self.group} must be a float32 tensor with one "
                    f"element on {device}."
                )
            self.step = step
        self.states = found

    def state_unchanged(self, state: dict[str, Any] | None, names: tuple[str, ...]) -> bool:
        if state is not self.kept or self.states is None:
            return state is self.kept
        # An edit of the group may ask for more state than there was; that is missing, not changed.
        same = all(state.get(name) is tensor for name, tensor in zip(names, self.states, strict=False))
        return same and (self.step is None or state.get("step") is self.step)

    def has_state(self, state: Any, names: tuple[str, ...], counted: bool) -> bool:
        """Whether all of it is there: a plan that was made under a rule of less state did not read it."""
        keys = (*names, "step") if counted else names
        return isinstance(state, dict) and all(isinstance(state.get(key), Tensor) for key in keys)

    def packed_gradient(self, spec: OptimizerSpec) -> Tensor:
        """The gradient in the order of the parameter's elements: itself, or a copy. Raises RuntimeError if it does
        not fit."""
        p, grad = self.p, self.p.grad
        if grad.layout != torch.strided:
            refuse_sparse(spec, self.where())
        if grad.device != p.device:
            raise RuntimeError(
                f"The gradient of {self.where()} is on {grad.device}. Move it to the device of its parameter."
            )
        if grad.shape != p.shape:
            raise RuntimeError(
                f"The gradient of {self.where()} has shape {list(grad.shape)}. It must have the shape of its parameter."
            )
        if grad.dtype not in REAL or grad.is_complex() != p.is_complex():
            raise RuntimeError(
                f"The gradient of {self.where()} is of dtype {grad.dtype}. Cast it to the dtype of its parameter."
            )
        if self.matches(grad) and not grad.is_conj() and not grad.is_neg() and addresses.has_address(grad):
            return grad
        # Strided otherwise than its parameter, walked side by side they would pair the wrong elements. One that is not
        # native is read by its own copy_, which may wait, and raises where it does not mix with plain tensors.
        return torch.empty_strided(self.sizes, self.strides, dtype=grad.dtype, device=grad.device).copy_(grad)


def types_of(param: Tensor, grad: Tensor, states: tuple[Tensor, ...]) -> tuple[torch.dtype, ...]:
    """(parameter, gradient, three states, computed in): what a kernel is compiled for."""
    own = REAL[param.dtype]
    stored = tuple(REAL[state.dtype] for state in states) + (own,) * (MAX_STATES - len(states))
    wide = torch.float64 in (own, REAL[grad.dtype], *stored)
    return (own, REAL[grad.dtype], *stored, torch.float64 if wide else torch.float32)


def aligned(addresses: tuple[int, ...]) -> bool:
    return not any(address % _ALIGNED for address in addresses)


def reset_gradients(params: list[Tensor], set_to_none: bool) -> None:
    """As `torch.optim.Optimizer.zero_grad`."""
    for p in params:
        if set_to_none:
            p.grad = None
        elif p.grad.grad_fn is not None:
            p.grad.detach_()
        else:
            p.grad.requires_grad_(False)
    if params and not set_to_none:
        with torch.no_grad():
            for p in params:
                p.grad.zero_()
