# SPDX-License-Identifier: Apache-2.0
"""Device memory of a Triton plan, and its launches. Tables are written anew only when something in them moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedsched._layouts import MAX_HYPERPARAMETERS, MAX_SCALARS, MAX_STATES
from fusedsched.optim.python_plan import Programs
from fusedsched.runtime.addresses import native, unwrap
from fusedsched.runtime.flags import new_flags
from fusedsched.runtime.launching import launching
from fusedsched.triton_kernels import rules, step, tuning
from fusedsched.triton_kernels.telemetry import record_kernel

Key = tuple[str, tuple[torch.dtype, ...], bool]  # (rule, types, aligned): what a kernel is compiled for

# Tables that a captured graph reads, and plans that own some. Nobody says when a graph is gone, so they stay.
_captured: list[Any] = []
_TYPES = ("P", "G", "S0", "S1", "S2", "A")  # what a kernel calls them
_WORD = 8  # bytes of an int64, of a float64 and of an address
_EVEN = 2  # words in 128 bits: a slice of a table that begins there keeps its alignment


class Job(NamedTuple):
    """One parameter's update: where everything is. `entry`: which row of scalars is its own."""

    entry: int
    key: Key
    param: int
    states: tuple[int, ...]
    numel: int


class Launch(NamedTuple):
    key: Key
    jobs: list[int]  # which of the step's jobs, in the order of `arrays`
    first: int  # of them in the table of gradients
    arrays: Tensor
    chunks: Tensor


class Memory:
    """Copies of host numbers on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._spare: Tensor | None = None

    def capturing(self) -> bool:
        return self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    def keep_for_graph(self, owner: Any) -> None:
        if not self.in_graph(owner):
            _captured.append(owner)

    def in_graph(self, owner: Any) -> bool:
        return any(owner is kept for kept in _captured)

    def copy(self, numbers: list[Any], dtype: torch.dtype = torch.int64) -> Tensor:
        """The numbers on the device."""
        if self.device.type == "cpu":
            return torch.tensor(numbers, dtype=dtype, device="cpu")
        if self.capturing():
            return self._copy_captured(numbers, dtype)
        self.reserve(len(numbers))
        return torch.tensor(numbers, dtype=dtype, device="cpu", pin_memory=True).to(self.device, non_blocking=True)

    def reserve(self, words: int) -> None:
        """Pinned memory for a later capture, in which none may be allocated."""
        if self.device.type != "cpu" and (self._spare is None or self._spare.numel() < 4 * words):
            self._spare = torch.empty(8 * words, dtype=torch.int64, device="cpu", pin_memory=True)

    def _copy_captured(self, numbers: list[Any], dtype: torch.dtype) -> Tensor:
        # The copy is replayed with the graph: its source must stay as it is, and belongs to this graph alone.
        n = len(numbers)
        if self._spare is None or self._spare.numel() < n:
            raise RuntimeError(
                "Run a step outside of the capture first: a captured step needs memory set aside by one."
            )
        source, self._spare = self._spare[:n].view(dtype), self._spare[n:]
        source.copy_(torch.tensor(numbers, dtype=dtype, device="cpu"))
        table = torch.empty(n, dtype=dtype, device=self.device)
        table.copy_(source, non_blocking=True)
        _captured.extend((source, table))
        return table


class Table:
    """Numbers on the device that stay at one address: captured graphs read what was last written there."""

    def __init__(self, memory: Memory, dtype: torch.dtype) -> None:
        self._memory, self._dtype = memory, dtype
        self._numbers: list[Any] | None = None
        self.tensor: Tensor | None = None

    def write(self, numbers: list[Any]) -> None:
        """Copies them to the device if they are not there yet."""
        if numbers != self._numbers:
            new = self._memory.copy(numbers, self._dtype)
            self.tensor = new if self.tensor is None else self.tensor.copy_(new)
            # What is copied in a capture is there when the graph runs, and only then.
            self._numbers = None if self._memory.capturing() else numbers


class Launches:
    """The update launches of a step: built when a job changes, reused while none does."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._jobs: list[Job] | None = None
        self._addresses: list[int] | None = None
        self._launches: list[Launch] = []
        self._grads: Tensor | None = None
        self.active: Tensor | None = None  # rows of scalars that this step fills
        self.n_active = 0

    def update(self, jobs: list[Job], grads: list[int]) -> None:
        """Brings the tables up to date. `grads`: where the gradient of each job lies."""
        memory, self.n_active = self._memory, len(jobs)
        if jobs != self._jobs or memory.capturing():
            self._build(jobs)
        order = [i for launch in self._launches for i in _padded(launch.jobs)]
        addresses = [grads[i] for i in order]
        if addresses != self._addresses or memory.capturing():
            self._grads = memory.copy(addresses)
            self._addresses = None if memory.capturing() else addresses

    def _build(self, jobs: list[Job]) -> None:
        memory = self._memory
        if not memory.capturing():
            memory.reserve(3 * len(jobs))  # four times that: a capture writes all tables, ten words for each job
        together: dict[Key, list[int]] = {}
        for i, job in enumerate(jobs):
            if job.numel:
                together.setdefault(job.key, []).append(i)
        first, self._launches = 0, []
        for key, members in together.items():
            rows: list[int] = []
            for i in members:
                job = jobs[i]
                rows += (job.param, 0, *job.states, *(0,) * (MAX_STATES - len(job.states)), job.numel, job.entry)
            arrays, chunks = memory.copy(rows), self._chunks([jobs[i].numel for i in members])
            self._launches.append(Launch(key, members, first, arrays, chunks))
            first += len(_padded(members))
        self.active = memory.copy([job.entry for job in jobs] or [0])
        self._jobs, self._addresses = (None if memory.capturing() else jobs), None

    def _chunks(self, lengths: list[int]) -> Tensor:
        """Pairs (row, tile), made on the device: there may be millions."""
        tiles = self._memory.copy([-(-n // tuning.BLOCK) for n in lengths])
        total = sum(-(-n // tuning.BLOCK) for n in lengths)
        rows = torch.arange(len(lengths), device=tiles.device)
        rows = torch.repeat_interleave(rows, tiles, output_size=total)
        starts = tiles.cumsum(0) - tiles
        chunks = torch.stack((rows, torch.arange(total, device=tiles.device) - starts[rows]), dim=1)
        if self._memory.capturing():
            _captured.append(chunks)
        return chunks

    def run(self, control: Tensor, doubles: Tensor, singles: Tensor, write_grads: bool) -> None:
        most = _programs(self._memory.device)
        for launch in self._launches:
            rule, types, aligned = launch.key
            n_chunks = launch.chunks.shape[0]
            kernel_types = dict(zip(_TYPES, [step.TYPES[str(t)] for t in types], strict=True))
            scalars = doubles if types[-1] == torch.float64 else singles
            step.update_kernel[(min(n_chunks, most),)](
                control, launch.arrays, self._grads[launch.first :], launch.chunks, n_chunks, scalars,
                RULE=rule, STATES=rules.STATES[rule], **kernel_types, ALIGNED=aligned,
                WRITE_GRAD=write_grads, BLOCK=tuning.BLOCK,
                num_warps=warps_of(types), enable_fp_fusion=False,
            )  # fmt: skip


def warps_of(types: tuple[torch.dtype, ...]) -> int:
    """Warps of the update program for a mixture of types; the last one is what it computes in."""
    mixed = types[-1] == torch.float64 and any(t != torch.float64 for t in types)
    return tuning.MIXED_FLOAT64_WARPS if mixed else tuning.WARPS


def _padded(members: list[int]) -> list[int]:
    return members + members[:1] * (len(members) % _EVEN)


def _programs(device: torch.device) -> int:
    if device.type == "cpu":
        return tuning.INTERPRETED_PROGRAMS
    return torch.cuda.get_device_properties(device).multi_processor_count * tuning.PROGRAMS_PER_PROCESSOR


class Prepared:
    """The first launch of a step: it turns the numbers of the groups into the scalars that the second one reads. And
    the counts of updates, exact, for each parameter."""

    def __init__(self, memory: Memory, entries: list[Any], n_groups: int) -> None:
        device, n_entries = memory.device, max(len(entries), 1)
        self._entries = entries
        self.control = torch.zeros(1, dtype=torch.int32, device=device)
        self.resolved = torch.zeros(n_groups * MAX_HYPERPARAMETERS, dtype=torch.float64, device=device)
        self.doubles = torch.zeros(n_entries * MAX_SCALARS, dtype=torch.float64, device=device)
        self.singles = torch.zeros_like(self.doubles, dtype=torch.float32)
        self.counts = torch.zeros(n_entries, dtype=torch.int64, device=device)
        self.sources, self._steps = Table(memory, torch.int64), Table(memory, torch.int64)
        self.values = Table(memory, torch.float64)

    def write(self, groups: list[Any]) -> None:
        """Brings the numbers of the groups, and where the steps of the parameters are, to the device."""
        self.sources.write([number for group in groups for pair in group.sources for number in pair] or [0])
        self.values.write([value for group in groups for value in group.values] or [0.0])
        self._steps.write([number for e in self._entries for number in (e.group, e.step)] or [0])

    def launch(
        self, family: str, jobs: Launches, programs: DevicePrograms, scale: Tensor | None, found_inf: Tensor | None
    ) -> None:
        clocks = programs.clocks  # any tensor, where there is no flag
        step.prepare_kernel[(1,)](
            self.control, clocks, self.sources.tensor, self.values.tensor, self.resolved, self.resolved.numel(),
            jobs.active, jobs.n_active, self._steps.tensor, self.counts, self.doubles, self.singles,
            *programs.arguments(), programs.past_horizon,
            clocks if scale is None else scale, clocks if found_inf is None else found_inf,
            FAMILY=family, SCALED=scale is not None, CHECKED=found_inf is not None,
            BLOCK=tuning.PREPARE_BLOCK, num_warps=tuning.PREPARE_WARPS, enable_fp_fusion=False,
        )  # fmt: skip

    def record(self, ring: Tensor | None, clocks: Tensor, found_inf: Tensor | None) -> None:
        """A row of telemetry, if that is on: one small launch."""
        if ring is not None:
            record_kernel[(1,)](
                ring, len(ring) - 1, clocks, self.sources.tensor, self.values.tensor, self.resolved.numel(),
                clocks if found_inf is None else found_inf, CHECKED=found_inf is not None,
                BLOCK=tuning.PREPARE_BLOCK, num_warps=tuning.PREPARE_WARPS, enable_fp_fusion=False,
            )  # fmt: skip


class DevicePrograms(Programs):
    """The schedules of all groups in device memory. All of it stays at one address, with place for every one, so that
    captured graphs read what is put there later."""

    def __init__(self, memory: Memory, clocks: Tensor, most: int) -> None:
        super().__init__()
        self._memory, self.clocks, device = memory, clocks, memory.device
        self._tables: dict[int, Tensor] = {}
        self._versions: dict[int, int] = {}
        self._known: set[int] = set()  # edits that the host has seen
        self._table = torch.zeros(1 + most, step.PROGRAM_WIDTH.value, dtype=torch.int64, device=device)
        self._written = torch.zeros(most, dtype=torch.float64, device=device)
        self._edited = torch.zeros(most, dtype=torch.int32, device=device)
        # The host reads these without waiting, so they are host memory; the device writes there.
        self.past_horizon, self.negative = new_flags(most, device), new_flags(len(clocks), device)

    def put(self, name: tuple[int, str], table: list[float], unit: int, shown: Tensor) -> int:
        """What was launched before reads what was there before."""
        i = super().put(name, table, unit, shown)
        self._known.discard(i)
        self._versions[i] = shown._version
        self._tables[i] = self._memory.copy(table, torch.float64)
        row = [unwrap(self._tables[i]), unit, unwrap(shown)]
        self._table[1 + i].copy_(self._memory.copy(row))
        self._table[0, 0] = len(self)
        self._written[i].copy_(shown)  # nothing has been edited yet
        self._edited[i] = 0
        self.past_horizon[i : i + 1].copy_(self._edited[i : i + 1], non_blocking=True)  # 0, in stream order
        return i

    def arguments(self) -> tuple[Any, ...]:
        return self._table, self._written, self._edited

    def advance(self, unit: int, amount: int) -> None:
        self._launch(step.advance_kernel, unit, amount)

    def advance_by(self, unit: int, amount: Tensor) -> None:
        self._launch(step.advance_by_kernel, unit, native(amount), self.negative[unit:])

    def _launch(self, kernel: Any, *arguments: Any) -> None:
        at, past = self.arguments(), self.past_horizon
        with launching(self._memory.device):
            kernel[(1,)](*at, self.clocks, past, *arguments, num_warps=1, enable_fp_fusion=False)

    def edited(self, i: int) -> bool:
        """By the version of the tensor: the value is read by the kernel alone."""
        return self.shown[i]._version != self._versions[i]

    def ended(self, i: int) -> bool:
        return i not in self._known and bool(self.past_horizon[i])

    def any_edited(self, objects: Callable[[int, str], Any]) -> bool:
        found = super().any_edited(objects)
        for i in filter(self.edited, range(len(self))):
            self._known.add(i)
            self._versions[i] = self.shown[i]._version
        return found
