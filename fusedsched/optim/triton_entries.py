# SPDX-License-Identifier: Apache-2.0
"""What a Triton plan knows of its parameters and of the numbers of its groups, and what it checks before a step.

As csrc/plan/collect.cpp and csrc/plan/group.cpp.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedsched._layouts import MAX_HYPERPARAMETERS, MAX_STATES, NUMBER_SOURCES
from fusedsched.optim.python_plan import check_gradient, check_object, read_object, refuse_expanded, where
from fusedsched.optim.spec import OptimizerSpec
from fusedsched.runtime import addresses
from fusedsched.runtime.addresses import unwrap
from fusedsched.triton_kernels import rules

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
_VALUE, _FLOAT32, _FLOAT64 = (NUMBER_SOURCES.index(name) for name in ("value", "float32", "float64"))
_UNREAD = object()
_KINDS = {torch.float32: _FLOAT32, torch.float64: _FLOAT64}


def is_native(tensor: Tensor, device: torch.device) -> bool:
    """Whether kernels can read it: plain strided memory on the device with a dtype of theirs."""
    return tensor.device == device and tensor.dtype in REAL and addresses.is_native(tensor)


class Entry:
    """A parameter, its layout and its state."""

    __slots__ = ("p", "at", "group", "index", "unsupported", "kind", "packed", "sizes", "strides", "contiguous", "kept")
    __slots__ += ("state", "states", "step", "known", "gradient_at")

    def __init__(self, p: Tensor, at: int, group: int, index: int, device: torch.device) -> None:
        self.p, self.at, self.group, self.index = p, at, group, index
        self.unsupported, self.kind = not is_native(p, device), type(p)  # swap_tensors changes the type of an object
        self.kept: dict[str, Any] | None = None  # the dictionary that its state was found in
        self.state: dict[str, Any] = {}
        self.states: tuple[Tensor, ...] | None = None
        self.step: Tensor | None = None
        self.known: tuple[int, ...] = ()  # addresses of memory that was found to be there
        self.gradient_at = 0  # the same
        if self.unsupported:
            return
        like = torch.empty_like(p, device="meta")
        self.packed = like.stride() != p.stride() or p.is_conj() or p.is_neg()
        if self.packed:
            refuse_expanded(p, (group, index))
        self.sizes, self.strides, self.contiguous = like.shape, like.stride(), like.is_contiguous()

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

    def check_memory(self, names: tuple[str, ...]) -> None:
        """Raises RuntimeError where memory that a step reads was freed. Looks only where an address has changed, since
        a storage that is resized moves. `names`: of all states that there may be."""
        states = self.states or ()
        arrays = (self.p, *states, *(() if self.step is None else (self.step,)))
        now = tuple(addresses.place_of(array) for array in arrays)
        if now == self.known:
            return
        roles = ("", *(f"state['{name}'] of " for name in (*names[: len(states)], "step")))
        for role, array in zip(roles, arrays, strict=False):
            addresses.check_backed(array, role + where(self.p, (self.group, self.index)))
        self.known = now

    def packed_gradient(self, spec: OptimizerSpec) -> Tensor:
        """The gradient in the order of the parameter's elements: itself, or a copy. Raises RuntimeError if it does
        not fit."""
        check_gradient(self.p, spec, (self.group, self.index), REAL)
        grad = self.p.grad
        if not addresses.has_address(grad) or addresses.place_of(grad) != self.gradient_at:
            addresses.check_backed(grad, f"the gradient of {where(self.p, (self.group, self.index))}")
            self.gradient_at = addresses.place_of(grad) if addresses.has_address(grad) else 0
        if self.matches(grad) and not grad.is_conj() and not grad.is_neg() and addresses.has_address(grad):
            return grad
        # Strided otherwise than its parameter, walked side by side they would pair the wrong elements. One that is not
        # native is read by its own copy_, which may wait, and raises where it does not mix with plain tensors.
        return torch.empty_strided(self.sizes, self.strides, dtype=grad.dtype, device=grad.device).copy_(grad)


class GroupReader:
    """The numbers of a group, read from the dictionary that users edit, without waiting.

    After `read()`: `values` has them, `sources` says where the kernel finds each.
    """

    def __init__(self, group: dict[str, Any], index: int, spec: OptimizerSpec, device: torch.device) -> None:
        self.group, self._at, self._spec, self._device = group, index, spec, device
        self._index = {hyper.name: k for k, hyper in enumerate(spec.hyperparameters)}
        self._objects: list[Any] = [_UNREAD] * len(spec.hyperparameters)
        self._copies: dict[int, Tensor] = {}
        self.values = [0.0] * MAX_HYPERPARAMETERS
        self.sources = [(_VALUE, 0)] * MAX_HYPERPARAMETERS
        self._nonzero: dict[str, bool] = {}
        self.read()

    def rule(self) -> str:
        """The rule for these numbers."""
        return self._spec.choose(self._nonzero)

    def state_names(self) -> tuple[str, ...]:
        """The state arrays of that rule."""
        return self._spec.state_names[: rules.STATES[self.rule()]]

    def read(self) -> None:
        """Raises KeyError, ValueError or TypeError for what is missing or not a number."""
        for k, hyper in enumerate(self._spec.hyperparameters):
            value = read_object(hyper, self.group, self._at)
            if isinstance(value, Tensor):
                check_object(hyper, value, self._at)
                self._read_tensor(k, hyper.name, value)
            elif value is not self._objects[k]:
                check_object(hyper, value, self._at)
                self._take_number(k, hyper.name, float(value))
            self._objects[k] = value

    def read_from(self, name: str, number: Tensor | None = None) -> None:
        """Lets a hyperparameter be what a float64 tensor holds, until another number is written to the group.

        None: the tensor of last time; the number in the group is no edit then.
        """
        k = self._index[name]
        if number is not None:
            self._copies[k] = number
        self._objects[k] = self._spec.hyperparameters[k].read(self.group)
        self.sources[k], self._nonzero[name] = (_FLOAT64, unwrap(self._copies[k])), True

    def _take_number(self, k: int, name: str, value: float) -> None:
        self.values[k], self.sources[k], self._nonzero[name] = value, (_VALUE, 0), value != 0.0

    def _read_tensor(self, k: int, name: str, tensor: Tensor) -> None:
        if tensor.device != self._device or not addresses.is_native(tensor):
            self._take_number(k, name, float(tensor.detach()))
            return
        addresses.check_backed(tensor, f"the tensor that is the {name} of a group")
        kind = _KINDS.get(tensor.dtype)
        if kind is None:  # rare types are converted on the device
            kind = _FLOAT64
            tensor = self._copies.setdefault(k, tensor.new_empty((), dtype=torch.float64)).copy_(tensor.detach()[...])
        # Its value is the device's business: no kernel is chosen by it.
        self.sources[k], self._nonzero[name] = (kind, unwrap(tensor)), True


def types_of(param: Tensor, grad: Tensor, states: tuple[Tensor, ...]) -> tuple[torch.dtype, ...]:
    """(parameter, gradient, three states, computed in): what a kernel is compiled for."""
    own = REAL[param.dtype]
    stored = tuple(REAL[state.dtype] for state in states) + (own,) * (MAX_STATES - len(states))
    wide = torch.float64 in (own, REAL[grad.dtype], *stored)
    return (own, REAL[grad.dtype], *stored, torch.float64 if wide else torch.float32)


def aligned(addresses: tuple[int, ...]) -> bool:
    return not any(address % _ALIGNED for address in addresses)
