# SPDX-License-Identifier: Apache-2.0
"""The numbers that kernels read: a table of them on each device, and where rates that are tensors can be written.

Every number that a kernel reads is a place in one table (`HyperparameterTable`) or a tensor of the user. Whatever moves
a number writes it there: the host, the tail of a step for native schedules, a metric's decision, and a `DeviceSchedule`
(`device_schedule.py`) for drop-in schedulers. So values are one update ahead: a place holds what the next update uses.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fusedsched import _layouts, _native
from fusedsched._layouts import CLOCKS, MAX_HYPERPARAMETERS
from fusedsched.runtime.addresses import is_native
from fusedsched.runtime.backends import for_device
from fusedsched.runtime.clocks import Clocks, unwatched

DTYPES = tuple(getattr(torch, name) for name in _layouts.DTYPES)


class HyperparameterTable:
    """The hyperparameters of an optimizer's groups on one device: float64, a row for each group, at one address.

    A row has two places for each hyperparameter: `place`, the number that kernels read, and `current`, the tensor that
    stands in the group of a native schedule. A table grows by blocks, since captured graphs hold its addresses.

    `names`: the hyperparameters in the order of the columns. `flags`: int32, one for each clock, set by kernels and
    read by the host without waiting; `csrc/plan/cuda_plan.h` says what they mean.

    >>> table, group = HyperparameterTable("cpu", ("lr", "momentum")), {}
    >>> table.reserve(1)
    >>> table.place(group, "momentum").fill_(0.5)
    tensor(0.5000, dtype=torch.float64)
    >>> table.row(group)[0, :2]
    tensor([0.0000, 0.5000], dtype=torch.float64)
    """

    def __init__(self, device: torch.device | str, names: Sequence[str]) -> None:
        self.device, self.names = torch.device(device), tuple(names)
        self.blocks: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._row_of: dict[int, Tensor] = {}  # by the identity of the group
        self._places: dict[tuple[int, int, str], Tensor] = {}
        with unwatched():
            pinned = self.device.type == "cuda"
            self.flags = torch.zeros(len(CLOCKS), dtype=torch.int32, device="cpu", pin_memory=pinned)

    def reserve(self, rows: int) -> None:
        """Allocates so many rows, together with those in use."""
        missing = rows - len(self._rows) - len(self._row_of)
        if missing > 0:
            with unwatched():
                block = torch.zeros((missing, 2, MAX_HYPERPARAMETERS), dtype=torch.float64, device=self.device)
                self._rows += block.unbind()
            self.blocks.append(block)

    def row(self, group: dict[str, Any]) -> Tensor:
        """The row of a group, [2, MAX_HYPERPARAMETERS]: numbers, then the values of native schedules."""
        if id(group) not in self._row_of:
            self.reserve(1 + len(self._row_of))
            self._row_of[id(group)] = self._rows.pop(0)
        return self._row_of[id(group)]

    def place(self, group: dict[str, Any], name: str) -> Tensor:
        """The 0-dim tensor whose number the kernels read for this hyperparameter."""
        return self._tensor(group, 0, name)

    def current(self, group: dict[str, Any], name: str) -> Tensor:
        """The 0-dim tensor for the value of a native schedule."""
        return self._tensor(group, 1, name)

    def _tensor(self, group: dict[str, Any], kind: int, name: str) -> Tensor:
        key = (id(group), kind, name)
        if key not in self._places:
            row = self.row(group)
            offset = row.storage_offset() + kind * MAX_HYPERPARAMETERS + self.names.index(name)
            with unwatched():
                # Not a view to autograd: each has a version counter of its own.
                number = torch.empty(0, dtype=torch.float64, device=self.device)
                self._places[key] = number.set_(row.untyped_storage(), offset, (), ())
        return self._places[key]


class Subscriber(Protocol):
    """A scheduler's driver whose numbers are on devices of an optimizer."""

    def names(self) -> set[str]:
        """The hyperparameters that it writes."""

    def edited(self) -> bool:
        """Whether user code wrote to one of them since the host last showed it. Does not wait."""

    def synchronize(self) -> None:
        """Brings the host up to date, and the device up to an edit. Waits; does nothing while a graph is captured."""

    def restart(self) -> None:
        """The optimizer has a new plan."""


class OptimizerRuntime(Protocol):
    """`optimizer._runtime`: what an optimizer of this package has for schedulers. Other optimizers have none."""

    clocks: Clocks
    plan: Any  # the present one, or None
    subscribers: Collection[Subscriber]

    def plans(self) -> list[Any]:
        """The plans of the devices, built if there are none."""

    def cuda_plans(self) -> list[Any]:
        """Those whose kernels read numbers from places."""

    def rebuild(self) -> None:
        """Drops the plan: the next step builds another one."""

    def capturing(self) -> bool:
        """Whether a graph is captured on a device of the parameters."""

    def backend(self, device: torch.device) -> str | None:
        """What updates parameters on a device; None: the reference."""

    def backends(self) -> set[str | None]:
        """What updates the parameters."""

    def table(self, device: torch.device) -> HyperparameterTable:
        """The numbers that kernels read on a device."""

    def subscribe(self, subscriber: Subscriber) -> None:
        """Keeps a driver informed for as long as it lives."""

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Forgets a driver."""


GROUP_ADDED: list[Callable[[OptimizerRuntime, int], Any]] = []
"""Called after a group was added to an optimizer of this package, with its index. Schedulers are told by these."""


def runtime_of(optimizer: Any) -> OptimizerRuntime | None:
    """The runtime of an optimizer of this package; None for others."""
    return getattr(optimizer, "_runtime", None)


class Placement(NamedTuple):
    """Where numbers are, and whose kernels write them there: "cuda" or "triton"."""

    backend: str
    device: torch.device


def placement_of(optimizer: Any, groups: list[dict[str, Any]]) -> Placement | None:
    """Where the rates of all groups are, if they are tensors on one device that has kernels."""
    first = groups[0]["lr"] if groups else None
    found = _placement_on(optimizer, first.device) if isinstance(first, Tensor) else None
    return found if found is not None and all(writable(group["lr"], found.device) for group in groups) else None


def _placement_on(optimizer: Any, device: torch.device) -> Placement | None:
    # An optimizer of this package was given a backend; tests give one to others.
    runtime, chosen = runtime_of(optimizer), getattr(optimizer, "_fusedsched_backend", "auto")
    backend = for_device(chosen, device) if runtime is None else runtime.backend(device)
    return Placement(backend, device) if backend in ("cuda", "triton") else None


def writable(number: Any, device: torch.device) -> bool:
    """Whether a kernel on this device can write a hyperparameter."""
    return (
        isinstance(number, Tensor)
        and number.device == device
        and number.dtype in DTYPES
        and number.numel() == 1
        and is_native(number)
    )


def capture_probe(optimizer: Any, groups: list[dict[str, Any]]) -> Callable[[], bool] | None:
    """A function that says whether a graph is being captured where this optimizer works; None: there never is one."""
    devices = {t.device for group in groups for t in (*group["params"][:1], group["lr"]) if isinstance(t, Tensor)}
    if any(device.type == "cuda" for device in devices):
        return torch.cuda.is_current_stream_capturing
    found = [_placement_on(optimizer, device) for device in devices]
    if any(placement is not None and placement.backend == "cuda" for placement in found):
        return lambda: _native.module().cuda_capturing(0)
    return None
