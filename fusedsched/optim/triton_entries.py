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


def _tensors(held: Any, keys: tuple[str, ...]) -> list[Tensor] | None:
    found = [held.get(key) for key in keys] if isinstance(held, dict) else [None] * len(keys)
    return found if all(isinstance(array, Tensor) for array in found) else None


def _is_count(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.numel() == 1


class OutOfDate(Exception):
    """The plan has to be built anew."""


class Entry:
    """The layout of a parameter, and where it and its state lay when they were looked at last. It holds neither."""

    __slots__ = ("at", "group", "index", "unsupported", "layout", "packed", "sizes", "strides", "contiguous", "kept")
    __slots__ += ("states", "step", "known", "adopted", "gradient_at")

    def __init__(self, p: Tensor, at: int, group: int, index: int, device: torch.device) -> None:
        self.at, self.group, self.index = at, group, index
        self.unsupported = not is_native(p, device)
        self.kept = 0  # the id of the dictionary that its state was found in
        self.states = 0  # how many arrays of state there were
        self.step = 0  # the address of the count that users see
        self.known: tuple[Any, ...] = ()  # where everything lay, and how, when it was found to be in order
        self.adopted: tuple[Any, ...] = ()  # the same, when it was adopted
        self.gradient_at = 0  # an address at which there was memory
        if self.unsupported:
            return
        self.layout = addresses.layout_of(p)[1:]
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

    def adopt(self, p: Tensor, held: Any, keys: tuple[str, ...]) -> None:
        """Takes the state that there is. `held`: all state of the parameter. `keys`: what the rule reads of it."""
        found = _tensors(held, keys)
        self.kept, self.states = id(held), 0 if found is None else len(keys)
        self.adopted = () if found is None else tuple(map(addresses.layout_of, (p, *found)))

    def look_at(self, p: Tensor, held: Any, keys: tuple[str, ...]) -> list[Tensor] | None:
        """The state as it is now, None where some is missing. `held` and `keys`: as in `adopt`.

        Raises OutOfDate, RuntimeError for state of another model and for memory that is gone. Checks what lies
        elsewhere or otherwise than before; a storage that is resized moves.
        """
        if id(held) != self.kept:
            raise OutOfDate
        found = _tensors(held, keys)
        if found is None:
            addresses.check_backed(p, where(p, (self.group, self.index)))  # before any state is created
            return None
        now = tuple(map(addresses.layout_of, (p, *found)))
        if now != self.known:
            # A plan for a rule of less state did not read what there is.
            if now[0][1:] != self.layout or len(keys) > self.states:
                raise OutOfDate
            self._check(p, dict(zip(keys, found, strict=True)), now == self.adopted)
            self.known, self.step = now, addresses.place_of(found[-1]) if keys[-1:] == ("step",) else 0
        return found

    def _check(self, p: Tensor, found: dict[str, Tensor], adopted: bool) -> None:
        name = where(p, (self.group, self.index))
        addresses.check_backed(p, name)
        for key, array in found.items():
            fits = is_native(array, p.device) and (_is_count(array) if key == "step" else self.matches(array))
            if not fits and not adopted:
                raise OutOfDate  # another plan takes what can be converted
            if not fits:
                wanted = "a float32 tensor with one element" if key == "step" else "that of its parameter"
                raise RuntimeError(
                    f"state['{key}'] of {name} has shape {list(array.shape)}, strides {list(array.stride())} and dtype "
                    f"{array.dtype} on {array.device}; it must be {wanted}. Load a state that belongs to this model."
                )
            addresses.check_backed(array, f"state['{key}'] of {name}")

    def packed_gradient(self, p: Tensor, spec: OptimizerSpec) -> Tensor:
        """The gradient in the order of the parameter's elements: itself, or a copy. Raises RuntimeError if it does
        not fit."""
        check_gradient(p, spec, (self.group, self.index), REAL)
        grad = p.grad
        if not addresses.has_address(grad) or addresses.place_of(grad) != self.gradient_at:
            addresses.check_backed(grad, f"the gradient of {where(p, (self.group, self.index))}")
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
        self._at, self._spec, self._device = index, spec, device
        self._index = {hyper.name: k for k, hyper in enumerate(spec.hyperparameters)}
        self._objects: list[Any] = [_UNREAD] * len(spec.hyperparameters)  # numbers, and no tensor
        self._seen = [0.0] * len(spec.hyperparameters)  # their values, since an array of numpy is written in place
        self._copies: dict[int, Tensor] = {}
        self.values = [0.0] * MAX_HYPERPARAMETERS
        self.sources = [(_VALUE, 0)] * MAX_HYPERPARAMETERS
        self._nonzero: dict[str, bool] = {}
        self.read(group)

    def rule(self) -> str:
        """The rule for these numbers."""
        return self._spec.choose(self._nonzero)

    def keys(self) -> tuple[str, ...]:
        """What that rule reads of a parameter's state: arrays, and the count if there is one."""
        return (*self._spec.state_names[: rules.STATES[self.rule()]], *(("step",) if self._spec.counts_steps else ()))

    def read(self, group: dict[str, Any]) -> None:
        """Raises KeyError, ValueError or TypeError for what is missing or not a number."""
        for k, hyper in enumerate(self._spec.hyperparameters):
            value = read_object(hyper, group, self._at)
            if isinstance(value, Tensor):
                check_object(hyper, value, self._at)
                self._read_tensor(k, hyper.name, value)
                self._objects[k] = _UNREAD
            elif value is not self._objects[k] or float(value) != self._seen[k]:
                check_object(hyper, value, self._at)
                self._take_number(k, hyper.name, float(value))
                self._objects[k], self._seen[k] = value, float(value)

    def read_from(self, group: dict[str, Any], name: str, number: Tensor | None = None) -> None:
        """Lets a hyperparameter be what a float64 tensor holds, until another number is written to the group.

        None: the tensor of last time; the number in the group is no edit then.
        """
        k = self._index[name]
        if number is not None:
            self._copies[k] = number
        value = self._spec.hyperparameters[k].read(group)
        if not isinstance(value, Tensor):
            self._objects[k], self._seen[k] = value, float(value)
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


def read_groups(readers: list[GroupReader], groups: list[dict[str, Any]]) -> None:
    """Reads all groups, as `GroupReader.read`."""
    for reader, group in zip(readers, groups, strict=True):
        reader.read(group)


def types_of(param: Tensor, grad: Tensor, states: list[Tensor]) -> tuple[torch.dtype, ...]:
    """(parameter, gradient, three states, computed in): what a kernel is compiled for."""
    own = REAL[param.dtype]
    stored = tuple(REAL[state.dtype] for state in states) + (own,) * (MAX_STATES - len(states))
    wide = torch.float64 in (own, REAL[grad.dtype], *stored)
    return (own, REAL[grad.dtype], *stored, torch.float64 if wide else torch.float32)


def aligned(addresses: tuple[int, ...]) -> bool:
    return not any(address % _ALIGNED for address in addresses)
