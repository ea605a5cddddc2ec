# SPDX-License-Identifier: Apache-2.0
"""The counters of an optimizer: applied updates, samples, tokens, skipped steps. One int64 tensor on each device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedsched._layouts import CLOCKS

UNITS = ("update", "sample", "token")  # what schedules run on: the first three of CLOCKS

# What an optimizer counts and shows is real, also under a mode that takes tensors for something else (FakeTensorMode).
unwatched = torch._C._DisableTorchDispatch


def number(x: Any) -> float:
    """`x` of a group as a float."""
    if type(x) is not Tensor:
        return float(x)
    with unwatched():
        return float(x)


class Clocks:
    """Kernels advance their own device's tensor, all of them alike.

    >>> clocks = Clocks([5, 0, 0, 1])
    >>> clocks.on("cpu")
    tensor([5, 0, 0, 1])
    >>> clocks.add("tokens", 7)
    >>> clocks.read()
    [5, 0, 7, 1]
    >>> clocks.keep([])
    >>> clocks.tensors(), clocks.read()
    ([], [5, 0, 7, 1])
    """

    def __init__(self, counts: list[int] | None = None) -> None:
        self._start = counts or [0] * len(CLOCKS)
        self._tensors: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device | str) -> Tensor:
        """The tensor on a device. Kernels and captured graphs hold its address: it stays the same one."""
        device = torch.device(device)
        if device not in self._tensors:
            with unwatched():
                pinned = device.type == "cuda"  # so that the copy does not wait for the device
                host = torch.tensor(self.read(), dtype=torch.int64, device="cpu", pin_memory=pinned)
                self._tensors[device] = host.to(device, non_blocking=True)
        return self._tensors[device]

    def tensors(self) -> list[Tensor]:
        """Those of all devices that were asked for."""
        return list(self._tensors.values())

    def read(self) -> list[int]:
        """The present counts, in the order of CLOCKS. Waits for the device, unless the host has them too."""
        if not self._tensors:
            return list(self._start)
        host = self._tensors.get(torch.device("cpu"))
        with unwatched():
            return (next(iter(self._tensors.values())) if host is None else host).tolist()

    def unit(self, name: str) -> int:
        """The clock of schedules with this unit."""
        return self.read()[UNITS.index(name)]

    def set(self, counts: list[int]) -> None:
        self._start = list(counts)
        with unwatched():
            for tensor in self._tensors.values():
                tensor.copy_(torch.tensor(counts, dtype=torch.int64, device="cpu"))

    def keep(self, devices: list[torch.device]) -> None:
        """Drops the tensors of other devices: nothing advances them any more."""
        gone = [device for device in self._tensors if device not in devices]
        if gone:
            self._start = self.read()
        for device in gone:
            del self._tensors[device]

    def add(self, name: str, amount: int | Tensor) -> None:
        index = CLOCKS.index(name)
        if not self._tensors:
            self._start[index] += int(amount)
        with unwatched():
            for tensor in self._tensors.values():
                tensor[index] += amount if not isinstance(amount, Tensor) else amount.to(tensor.device)

    def __reduce__(self) -> tuple[Any, ...]:
        return Clocks, (self.read(),)
