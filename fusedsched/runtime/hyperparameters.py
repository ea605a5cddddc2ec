# SPDX-License-Identifier: Apache-2.0
"""Rates in device memory: tables of what a scheduler does to tensors, and one launch that does it.

What the rows are: `csrc/cuda/launch.h`. The kernels: `csrc/cuda/schedule.cu` and
`triton_kernels/scheduled_targets.py`. A launch advances the counter, evaluates every program in float64 at the new
clock and stores it in its tensor, so a captured one moves on with each replay. Edits of a tensor are found by the
kernel, which compares it with what it wrote last.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedsched import _native
from fusedsched.runtime.addresses import is_native, unwrap
from fusedsched.runtime.backends import for_device
from fusedsched.runtime.launching import launching

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # fs::DType
WIDTH = 8  # words of a row, and of a piece
_WRITTEN = 4  # the first of the four numbers in a row that launches change
_captured: list[Rates] = []  # tables that a graph reads: nobody says when it is gone, so they stay


class Carry(IntEnum):
    """How an edit of a tensor goes on; the numbers are those of `csrc/cuda/launch.h`."""

    DISCARD = 0  # it is forgotten at the next step
    HOLD = 1  # it scales the distance from the pivot; where the program stands on the pivot, it stays
    DROP = 2  # as HOLD, but there it is forgotten
    WAVE = 3  # it scales the wave until the next low point, at which it adds to the height of a new one


class Piece(NamedTuple):
    """How edits are carried before the clock `end`. `low`, `turn`, `kick`: of a WAVE, see `csrc/cuda/launch.h`."""

    end: float
    carry: Carry
    pivot: float = 0.0
    low: float = 0.0
    turn: float = 0.0
    kick: float = 0.0


class Target(NamedTuple):
    """A tensor of one element, its program, and how an edit that was made before goes on: `gain`, up to `until`."""

    tensor: Tensor
    program: array
    pieces: tuple[Piece, ...]
    gain: float = 1.0
    until: float = math.inf


class Place(NamedTuple):
    """Where rates lie, and who writes them there: "cuda" or "triton"."""

    backend: str
    device: torch.device


def placement_of(optimizer: Any, groups: list[dict[str, Any]]) -> Place | None:
    """Where the rates of all groups lie, if they are tensors on one device that has kernels."""
    first = groups[0]["lr"] if groups else None
    place = _place(optimizer, first.device) if isinstance(first, Tensor) else None
    return place if place is not None and all(writable(group["lr"], place.device) for group in groups) else None


def _place(optimizer: Any, device: torch.device) -> Place | None:
    # Whose kernels they are, if not those for the device: an optimizer of this package was told, tests tell others.
    chosen = getattr(optimizer, "_backend" if hasattr(optimizer, "_follow") else "_fusedsched_backend", "auto")
    backend = for_device(chosen, device)
    return Place(backend, device) if backend in ("cuda", "triton") else None


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
    if any((place := _place(optimizer, device)) is not None and place.backend == "cuda" for device in devices):
        return lambda: _native.module().cuda_capturing(0)
    return None


def _stream_of(device: torch.device) -> Callable[[int], int]:
    return torch._C._cuda_getCurrentRawStream if device.type == "cuda" else lambda index: 0


def merged(targets: list[Target]) -> list[Target] | None:
    """Each tensor once: one that several groups share is written once, if they agree; None if they do not, or overlap.

    >>> lr, line = torch.zeros(()), array("d", [0.0])
    >>> one = Target(lr, line, ())
    >>> len(merged([one, one])), merged([one, one._replace(gain=0.5)])
    (1, None)
    """
    found: dict[int, Target] = {}
    for target in targets:
        begin = unwrap(target.tensor)
        if begin in found:
            if target.tensor.dtype != found[begin].tensor.dtype or target[1:] != found[begin][1:]:
                return None
        found.setdefault(begin, target)
    ends = sorted((begin, begin + target.tensor.element_size()) for begin, target in found.items())
    if any(end > begin for (_, end), (begin, _) in zip(ends, ends[1:], strict=False)):
        return None
    return list(found.values())


class Rates:
    """The tables of one scheduler on one device. `updates`: the optimizer's clocks, if a step needs an update first."""

    def __init__(self, place: Place, n: int, updates: Tensor | None = None) -> None:
        self.place, self._updates, self.conditional = place, updates, updates is not None
        device = place.device
        self.table = torch.zeros((n, WIDTH), dtype=torch.int64, device=device)
        self.clock = torch.zeros(2, dtype=torch.int64, device=device)  # and the count of updates at the last step
        # The host looks at it without waiting, so it is the host's memory; the device writes there.
        self.past_horizon = torch.zeros(1, dtype=torch.int32, device="cpu", pin_memory=device.type != "cpu")
        self._kept: list[Target] = []
        self._numbers: Tensor | None = None
        self.launch = self._launcher()

    def _launcher(self) -> Callable[[], None]:
        table, clock, updates, past = self.table, self.clock, self._updates, self.past_horizon
        if self.place.backend == "cuda":
            stream_of = _stream_of(self.place.device)
            return _native.module().Rates(table, clock, updates, past, stream_of).launch
        from fusedsched.triton_kernels.scheduled_targets import launch

        def launch_there() -> None:
            with launching(table.device):
                launch(table, clock, updates, past)

        return launch_there

    def write(self, targets: list[Target], rates: list[Tensor], clock: int) -> None:
        """Tables for these targets, at this clock; what the tensors hold now is no edit. In stream order.

        `rates`: those of the groups, one for each.

        Graphs that were captured read the new ones, since they stay where they are.
        """
        numbers, at = array("d"), {}
        for target in targets:
            pieces = array("d", [x for piece in target.pieces for x in (*piece, 0.0, 0.0)])
            for words in (target.program, pieces):
                if words.tobytes() not in at:
                    at[words.tobytes()] = len(numbers)
                    numbers.extend(words)
        device = self.place.device
        self._numbers = torch.tensor(numbers, dtype=torch.float64, device="cpu").to(device)
        first = unwrap(self._numbers)
        rows = torch.zeros((len(targets), WIDTH), dtype=torch.int64, device="cpu")
        for row, target in zip(rows, targets, strict=True):
            pieces = array("d", [x for piece in target.pieces for x in (*piece, 0.0, 0.0)])
            places = [first + 8 * at[words.tobytes()] for words in (target.program, pieces)]
            row[:_WRITTEN] = torch.tensor(
                [places[0], unwrap(target.tensor), places[1], DTYPES.index(target.tensor.dtype)]
            )
            numbers_of_row = [0.0, target.gain, 0.0, target.until]
            row.view(torch.float64)[_WRITTEN:] = torch.tensor(numbers_of_row, dtype=torch.float64)
        self.table.copy_(rows)
        with torch.no_grad():
            now = [target.tensor.detach().reshape(()).to(torch.float64) for target in targets]
            self.table.view(torch.float64)[:, _WRITTEN] = torch.stack(now)
        self.clock[0] = clock
        self._kept, self._rates = targets, rates

    def place_at(self, clock: int) -> None:
        """Sets the counter."""
        self.clock[0] = clock

    def see(self, updates: int | Tensor) -> None:
        """Sets the count of updates at the last step."""
        self.clock[1] = updates

    def seen(self) -> Tensor:
        """The count of updates at the last step. Does not wait."""
        return self.clock[1]

    def __len__(self) -> int:
        return self.table.shape[0]

    def read(self) -> int:
        """The present clock. Waits for the device."""
        return int(self.clock[0])

    def edited(self) -> bool:
        """Whether a launch found an edit that it carries on. Waits for the device."""
        gains = self.table.view(torch.float64)[:, _WRITTEN + 1 : _WRITTEN + 3].tolist()
        return gains != [[target.gain, 0.0] for target in self._kept]

    def written(self) -> list[Tensor]:
        """Copies of what the last launch wrote to the rates of the groups. Does not wait."""
        places = {unwrap(target.tensor): i for i, target in enumerate(self._kept)}
        numbers = self.table.view(torch.float64)[:, _WRITTEN].clone()
        return [numbers[places[unwrap(t)]].to(t.dtype, copy=True).reshape(t.shape) for t in self._rates]

    def keep_for_graph(self) -> None:
        """A graph was captured that reads these tables."""
        if not any(self is kept for kept in _captured):
            _captured.append(self)
