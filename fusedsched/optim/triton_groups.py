# SPDX-License-Identifier: Apache-2.0
"""The hyperparameters of a group for the Triton plan: read from the dictionary that users edit, without waiting."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedsched.runtime.addresses import is_native, unwrap

_VALUE, _FLOAT32, _FLOAT64 = range(3)  # triton_kernels/step.py: where a number is
_KINDS = {torch.float32: _FLOAT32, torch.float64: _FLOAT64}

SlotName = tuple[str, str, int | None]


class GroupReader:
    """One group. After `read()`: `values` has its numbers, `sources` says where the kernel finds each."""

    def __init__(self, group: dict[str, Any], slots: tuple[SlotName, ...], width: int, device: torch.device) -> None:
        self.group, self._slots, self._device = group, slots, device
        self.params = group["params"]
        self.members = list(self.params)
        self._objects: list[Any] = [None] * len(slots)
        self._copies: dict[int, Tensor] = {}
        self.values = [0.0] * width
        self.sources = [(_VALUE, 0)] * width
        self.on: dict[str, bool] = {}

    def same_members(self) -> bool:
        params = self.group.get("params")
        return (
            params is self.params
            and len(params) == len(self.members)
            and all(a is b for a, b in zip(params, self.members, strict=True))
        )

    def read(self) -> None:
        """Raises KeyError, ValueError or TypeError for what is missing or not a number."""
        for k, (name, key, item) in enumerate(self._slots):
            if key not in self.group:
                raise KeyError(f"param_groups[...] has no '{key}': it was removed or never loaded.")
            value = self.group[key] if item is None else self.group[key][item]
            if isinstance(value, Tensor):
                self._read_tensor(k, name, value)
            elif value is not self._objects[k]:
                self._take_number(k, name, _number(name, value))
            self._objects[k] = value

    def read_from(self, name: str, number: Tensor | None = None) -> None:
        """Lets a slot be what a float64 tensor holds, until another number is written to the group.

        None: the tensor of last time; the number that stands in the group is no edit then.
        """
        k = [slot[0] for slot in self._slots].index(name)
        _, key, item = self._slots[k]
        if number is not None:
            self._copies[k] = number
        self._objects[k] = self.group[key] if item is None else self.group[key][item]
        self.sources[k], self.on[name] = (_FLOAT64, unwrap(self._copies[k])), True

    def object(self, name: str) -> Any:
        """What stands in a slot."""
        return self._objects[[slot[0] for slot in self._slots].index(name)]

    def _take_number(self, k: int, name: str, value: float) -> None:
        self.values[k], self.sources[k], self.on[name] = value, (_VALUE, 0), value != 0.0

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
        self.sources[k], self.on[name] = (kind, unwrap(tensor)), True


def _number(name: str, value: Any) -> float:
    if not (hasattr(type(value), "__float__") or hasattr(type(value), "__index__")):
        raise TypeError(
            f"param_groups[...]['{name}'] is {value}, which is not a number. Set it to a float, an int or a tensor "
            "with one element."
        )
    return float(value)
