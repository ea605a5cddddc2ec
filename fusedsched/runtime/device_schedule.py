# SPDX-License-Identifier: Apache-2.0
"""A scheduler on a device: tables of what it writes, and the launch that is its step.

What the rows are: `csrc/cuda/launch.h`. The kernels: `csrc/cuda/schedule.cu` and
`triton_kernels/scheduled_targets.py`. A launch advances the counter, evaluates every program in float64 at the new
clock and stores it in its target, so a captured one advances with each replay. The kernel finds edits of a target by
comparing it with what it wrote last.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fusedsched import _native
from fusedsched._layouts import EDIT_RULE, SCHEDULED_TARGET
from fusedsched.runtime.addresses import unwrap
from fusedsched.runtime.flags import new_flags
from fusedsched.runtime.hyperparameters import DTYPES, Placement
from fusedsched.runtime.launching import launching
from fusedsched.schedules.edit import Edit, EditRule

WIDTH = len(SCHEDULED_TARGET)
_WRITTEN = SCHEDULED_TARGET.index("written")  # the first of the four numbers in a row that launches change
_captured: list[DeviceSchedule] = []  # tables that a graph reads: nothing tells when it is gone, so they stay


class Target(NamedTuple):
    """What a scheduler writes: a place of a table, or a tensor of one element; its program from the base.

    `rules`: how edits are continued. `edit`: the one in force. `value`: what the tensor holds, where the host knows.
    """

    tensor: Tensor
    program: array | Tensor  # a tensor: it is on the device already
    rules: tuple[EditRule, ...]
    edit: Edit = Edit()
    value: float | None = None


class ScheduledNumber(NamedTuple):
    """A number of a group that a scheduler writes. `program`: None where decisions alone write it.

    `rules`: how its edits are continued. `edit`: the one in force.
    """

    group: int
    name: str
    program: array | None
    rules: tuple[EditRule, ...]
    edit: Edit = Edit()


def stream_of(device: torch.device) -> Callable[[int], int]:
    """The present stream of a device, as a number, by the device's index."""
    return torch._C._cuda_getCurrentRawStream if device.type == "cuda" else lambda index: 0


def is_capturing(placement: Placement) -> bool:
    """Whether a graph is captured into which a copy would go. Triton's tables are written before a capture."""
    if placement.backend != "cuda":
        return False
    return _native.module().cuda_capturing(stream_of(placement.device)(placement.device.index or 0))


def allocate(placement: Placement, words: int) -> Tensor:
    """Float64 numbers; in a capture, memory that is not the graph's."""
    if is_capturing(placement):
        return _native.module().cuda_allocate(placement.device, words)
    return torch.zeros(words, dtype=torch.float64, device=placement.device)


def store(placement: Placement, target: Tensor, host: Tensor) -> None:
    """Copies from the host in stream order; in a capture, of which the copy becomes no part, at once."""
    if is_capturing(placement):
        _native.module().cuda_write_now(target, host)
    else:
        target.copy_(host)


def merged(targets: list[Target]) -> list[Target] | None:
    """Each tensor once: one that several groups share is written once, if they agree; None if they do not, or overlap.

    >>> lr, line = torch.zeros(()), array("d", [0.0])
    >>> one = Target(lr, line, ())
    >>> len(merged([one, one])), merged([one, one._replace(edit=Edit(gain=0.5))])
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


class DeviceSchedule:
    """The tables of one scheduler on one device, and the launch that is its step.

    `updates`: the optimizer's clocks, if a step needs an update first. `past_horizon`: int32 that the host can read,
    set to 1 past the last step. `clock`: int64, the counter, the count of updates at the last step, and the programs of
    a launch that are done. Captured graphs hold the tables' addresses and read what is written there later.
    """

    def __init__(
        self,
        placement: Placement,
        n: int,
        updates: Tensor | None = None,
        past_horizon: Tensor | None = None,
        clock: Tensor | None = None,
    ) -> None:
        self.placement, self._updates, self.conditional = placement, updates, updates is not None
        device = placement.device
        self.table = allocate(placement, n * WIDTH).view(torch.int64).view(n, WIDTH)
        self.clock = allocate(placement, 3).view(torch.int64) if clock is None else clock
        self.past_horizon = new_flags(1, device) if past_horizon is None else past_horizon
        self._targets: list[Target] = []
        self._rates: Sequence[Tensor] = ()
        self._numbers: Tensor | None = None
        self.advance = self._launcher()

    def _launcher(self) -> Callable[[], None]:
        table, clock, updates, past = self.table, self.clock, self._updates, self.past_horizon
        if self.placement.backend == "cuda":
            stream = stream_of(self.placement.device)
            return _native.module().DeviceSchedule(table, clock, updates, past, stream).launch
        from fusedsched.triton_kernels.scheduled_targets import launch

        def launch_there() -> None:
            with launching(table.device):
                launch(table, clock, updates, past)

        return launch_there

    def __len__(self) -> int:
        return self.table.shape[0]

    def write(self, targets: list[Target], clock: int, rates: Sequence[Tensor] = ()) -> None:
        """Writes the tables for these targets, at this clock; what the tensors hold now is no edit. In stream order.

        `rates`: the groups' tensors, of which several may share one target; see `last_rates`.
        """
        places = self._write_numbers(targets)
        rows = torch.zeros((len(targets), WIDTH), dtype=torch.int64, device="cpu")
        for row, target, (program, rules) in zip(rows, targets, places, strict=True):
            addresses = [program, unwrap(target.tensor), rules, DTYPES.index(target.tensor.dtype)]
            row[:_WRITTEN] = torch.tensor(addresses)
            numbers = [0.0 if target.value is None else target.value, *target.edit]
            row.view(torch.float64)[_WRITTEN:] = torch.tensor(numbers, dtype=torch.float64)
        store(self.placement, self.table, rows)
        if any(target.value is None for target in targets):
            with torch.no_grad():
                now = [target.tensor.detach().reshape(()).to(torch.float64) for target in targets]
                self.table.view(torch.float64)[:, _WRITTEN] = torch.stack(now)
        self.seek(clock)
        self._targets, self._rates = targets, rates

    def _write_numbers(self, targets: list[Target]) -> list[tuple[int, int]]:
        """Copies programs and rules to the device, equal ones once; where those of each target are."""
        numbers, at = array("d"), {}
        words = [(target.program, _words_of(target.rules)) for target in targets]
        for block in (block for pair in words for block in pair if not isinstance(block, Tensor)):
            if block.tobytes() not in at:
                at[block.tobytes()] = len(numbers)
                numbers.extend(block)
        host = torch.frombuffer(numbers, dtype=torch.float64)
        self._numbers = allocate(self.placement, len(numbers))
        store(self.placement, self._numbers, host)
        first = unwrap(self._numbers)

        def address(block: array | Tensor) -> int:
            return unwrap(block) if isinstance(block, Tensor) else first + 8 * at[block.tobytes()]

        return [(address(program), address(rules)) for program, rules in words]

    def clear_past_horizon(self) -> None:
        """In stream order, since launches that are under way may set it; at once in a capture, before which the device
        is idle."""
        if is_capturing(self.placement):
            self.past_horizon.zero_()
        else:
            zeros = torch.zeros(len(self.past_horizon), dtype=torch.int32, device=self.placement.device)
            self.past_horizon.copy_(zeros, non_blocking=True)

    def seek(self, clock: int) -> None:
        """Sets the counter."""
        store(self.placement, self.clock[:1], torch.tensor([clock], dtype=torch.int64, device="cpu"))

    def set_last_updates(self, updates: int | Tensor) -> None:
        """Sets the count of updates at the last step."""
        if isinstance(updates, Tensor):
            self.clock[1] = updates
        else:
            store(self.placement, self.clock[1:2], torch.tensor([updates], dtype=torch.int64, device="cpu"))

    def last_updates(self) -> Tensor:
        """The count of updates at the last step. Does not wait."""
        return self.clock[1]

    def read_clock(self) -> int:
        """The present clock. Waits for the device."""
        return int(self.clock[0])

    def read(self) -> tuple[int, list[Edit]]:
        """The present clock, and the edits that launches have found. Waits for the device."""
        numbers = self.table.view(torch.float64)[:, _WRITTEN + 1 :].tolist()
        return self.read_clock(), [Edit(*row) for row in numbers]

    def last_values(self) -> Tensor:
        """Copies of what the last launch wrote, float64, one for each target. Does not wait."""
        return self.table.view(torch.float64)[:, _WRITTEN].clone()

    def last_rates(self) -> list[Tensor]:
        """The same for `rates`, each as its tensor keeps it."""
        numbers, rates = self.last_values(), zip(self._places_of_rates(), self._rates, strict=True)
        return [numbers[place].to(rate.dtype, copy=True).reshape(rate.shape) for place, rate in rates]

    def edits_of_rates(self) -> list[Edit]:
        """The edit of each of `rates`. Waits for the device."""
        places, edits = self._places_of_rates(), self.read()[1]
        return [edits[place] for place in places]

    def _places_of_rates(self) -> list[int]:
        places = {unwrap(target.tensor): i for i, target in enumerate(self._targets)}
        return [places[unwrap(rate)] for rate in self._rates]

    def keep_for_graph(self) -> None:
        """A graph was captured that reads these tables."""
        if not any(self is kept for kept in _captured):
            _captured.append(self)


def _words_of(rules: tuple[EditRule, ...]) -> array:
    """As `csrc/cuda/launch.h` has them."""
    return array("d", [float(getattr(rule, name)) for rule in rules for name in EDIT_RULE])
