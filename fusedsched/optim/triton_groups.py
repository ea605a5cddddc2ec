# SPDX-License-Identifier: Apache-2.0
"""The hyperparameters of a group for the Triton plan: read from the dictionary that users edit, without waiting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedsched._layouts import MAX_HYPERPARAMETERS, NUMBER_SOURCES
from fusedsched.optim.spec import Hyperparameter
from fusedsched.runtime.addresses import is_native, unwrap

_VALUE, _FLOAT32, _FLOAT64 = (NUMBER_SOURCES.index(name) for name in ("value", "float32", "float64"))
_KINDS = {torch.float32: _FLOAT32, torch.float64: _FLOAT64}


class GroupReader:
    """One group. After `read()`: `values` has its numbers, `sources` says where the kernel finds each."""

    def __init__(
        self, group: dict[str, Any], hyperparameters: tuple[Hyperparameter, ...], device: torch.device
    ) -> None:
        self.group, self._hyperparameters, self._device = group, hyperparameters, device
        self._index = {hyper.name: k for k, hyper in enumerate(hyperparameters)}
        self.params = group["params"]
        self.members = list(self.params)
        self._objects: list[Any] = [None] * len(hyperparameters)
        self._copies: dict[int, Tensor] = {}
        self.values = [0.0] * MAX_HYPERPARAMETERS
        self.sources = [(_VALUE, 0)] * MAX_HYPERPARAMETERS
        self.nonzero: dict[str, bool] = {}

    def same_members(self) -> bool:
        params = self.group.get("params")
        return (
            params is self.params
            and len(params) == len(self.members)
            and all(a is b for a, b in zip(params, self.members, strict=True))
        )

    def read(self) -> None:
        """Raises KeyError, ValueError or TypeError for what is missing or not a number."""
        for k, hyper in enumerate(self._hyperparameters):
            if hyper.key not in self.group:
                raise KeyError(f"param_groups[...] has no '{hyper.key}': it was removed or never loaded.")
            value = hyper.read(self.group)
            if isinstance(value, Tensor):
                self._read_tensor(k, hyper.name, value)
            elif value is not self._objects[k]:
                self._take_number(k, hyper.name, _number(hyper.name, value))
            self._objects[k] = value

    def read_from(self, name: str, number: Tensor | None = None) -> None:
        """Lets a hyperparameter be what a float64 tensor holds, until another number is written to the group.

        None: the tensor of last time; the number that stands in the group is no edit then.
        """
        k = self._index[name]
        if number is not None:
            self._copies[k] = number
        self._objects[k] = self._hyperparameters[k].read(self.group)
        self.sources[k], self.nonzero[name] = (_FLOAT64, unwrap(self._copies[k])), True

    def object(self, name: str) -> Any:
        """What the group holds, as last read."""
        return self._objects[self._index[name]]

    def _take_number(self, k: int, name: str, value: float) -> None:
        self.values[k], self.sources[k], self.nonzero[name] = value, (_VALUE, 0), value != 0.0

    def _read_tensor(self, k: int, name: str, tensor: Tensor) -> None:
        if tensor.numel() != 1:
            raise ValueError(f"Tensor {name} must be 1-element, got {tensor.numel()} elements.")
        if tensor.device != self._device or not is_native(tensor):
            self._take_number(k, name, float(tensor.detach()))
            return
        kind = _KINDS.get(tensor.dtype)
        if kind is None:  # rare types are converted on the device
            kind = _FLOAT64
            tensor = self._copies.setdefault(k, tensor.new_empty((), dtype=torch.float64)).copy_(tensor.detach()[...])
        # Its value is the device's business: no kernel is chosen by it.
        self.sources[k], self.nonzero[name] = (kind, unwrap(tensor)), True


def _number(name: str, value: Any) -> float:
    if not (hasattr(type(value), "__float__") or hasattr(type(value), "__index__")):
        raise TypeError(
            f"param_groups[...]['{name}'] is {value}, which is not a number. Set it to a float, an int or a tensor "
            "with one element."
        )
    return float(value)
