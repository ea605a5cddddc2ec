# SPDX-License-Identifier: Apache-2.0
"""csrc/cuda/launch.h for ctypes, and a small plan: enough of one to put the kernels through their paces."""

import ctypes
from contextlib import contextmanager
from ctypes import (
    POINTER,
    Structure,
    byref,
    c_bool,
    c_char_p,
    c_double,
    c_int,
    c_int32,
    c_int64,
    c_uint8,
    c_uint64,
    c_void_p,
)
from typing import NamedTuple

import torch

from fusedsched import _layouts
from fusedsched._layouts import MAX_HYPERPARAMETERS, ROLES

MAX_BLOCKS, MAX_PENDING, ARGUMENT_BYTES, TILE = 640, 64, 32764, 4096
DTYPES = tuple(getattr(torch, name) for name in _layouts.DTYPES)
UPDATES, SAMPLES, TOKENS, SKIPPED = map(_layouts.CLOCKS.index, ("updates", "samples", "tokens", "skipped"))
NOWHERE = 1 << 16  # of a gradient without elements: there is one, and nothing to be read


class Array(Structure):
    _fields_ = [
        ("data", c_void_p * len(ROLES)),
        ("numel", c_int64),
        ("step", c_void_p),
        ("dtype", c_uint8 * len(ROLES)),
        ("group", c_int32),
        ("aligned", c_bool),
        ("count", c_void_p),
    ]


class Hyperparameter(Structure):
    _fields_ = [("tensor", c_void_p), ("tensor_dtype", c_uint8)]


class Group(Structure):
    _fields_ = [("values", c_void_p), ("hyperparameters", Hyperparameter * MAX_HYPERPARAMETERS)]


class NativeSchedule(Structure):
    _fields_ = [
        ("program", c_void_p),
        ("clock", c_void_p),
        ("place", c_void_p),
        ("written", c_double),
        ("edited", c_int64),
    ]


class NativeSchedules(Structure):
    _fields_ = [("n", c_void_p), ("list", c_void_p)]


class PendingValue(Structure):
    _fields_ = [("at", c_int32), ("reserved", c_int32), ("value", c_double)]


class Start(Structure):
    _fields_ = [("array", c_int32), ("tile", c_int32)]


class Header(Structure):
    _fields_ = [
        ("arrays", c_void_p),
        ("groups", c_void_p),
        ("schedules", NativeSchedules),
        ("clocks", c_void_p),
        ("ticket", c_void_p),
        ("past_horizon", c_void_p),
        ("grad_scale", c_void_p),
        ("found_inf", c_void_p),
        ("n_groups", c_int32),
        ("n_pending", c_int32),
        ("last", c_bool),
        ("pending", PendingValue * MAX_PENDING),
        ("starts", Start * (MAX_BLOCKS + 1)),
    ]


MAX_GRADS = (ARGUMENT_BYTES - ctypes.sizeof(Header)) // 8


class Launch(Structure):
    _fields_ = [("header", Header), ("grads", c_void_p * MAX_GRADS)]


class HostCopy(Structure):
    _fields_ = [("to", c_void_p), ("source", c_void_p), ("bytes", c_uint64)]


class Runtime(Structure):
    _fields_ = [
        ("name", c_char_p),
        ("load", ctypes.CFUNCTYPE(c_char_p)),
        ("blocks", ctypes.CFUNCTYPE(c_char_p, c_int, c_int, POINTER(c_int))),
        ("step", ctypes.CFUNCTYPE(c_char_p, c_uint64, c_int, c_int, c_int, POINTER(Launch))),
        ("advance", ctypes.CFUNCTYPE(c_char_p, c_uint64, c_void_p, c_int64)),
        ("advance_by", ctypes.CFUNCTYPE(c_char_p, c_uint64, c_void_p, c_void_p, c_bool, c_void_p)),
        ("write_current", ctypes.CFUNCTYPE(c_char_p, c_uint64, POINTER(NativeSchedules), c_int, c_void_p)),
        ("store", ctypes.CFUNCTYPE(c_char_p, c_uint64, c_void_p, c_void_p, c_int)),
        ("record", ctypes.CFUNCTYPE(c_char_p, c_uint64, POINTER(Header), c_void_p, c_int64)),
        ("capturing", ctypes.CFUNCTYPE(c_char_p, c_uint64, POINTER(c_bool))),
        ("write", ctypes.CFUNCTYPE(c_char_p, POINTER(HostCopy), c_int)),
        ("schedule", ctypes.CFUNCTYPE(c_char_p, c_uint64, c_void_p)),
        ("observe", ctypes.CFUNCTYPE(c_char_p, c_uint64, c_void_p, c_void_p, c_uint8)),
        ("allocate", ctypes.CFUNCTYPE(c_char_p, c_uint64, POINTER(c_void_p))),
    ]


class Emulation:
    """A built library: `runtime` is what the plan gets, the methods are what only tests want."""

    def __init__(self, path):
        self.library = ctypes.CDLL(str(path))
        self.library.fs_cuda_runtime.restype = POINTER(Runtime)
        for name in ("end", "launches", "nodes"):
            getattr(self.library, f"fs_emulation_{name}").restype = c_int64
        self.runtime = self.library.fs_cuda_runtime().contents
        for kind in (Array, Group, NativeSchedule, PendingValue, Header, HostCopy, Launch, Runtime):
            size = c_int64.in_dll(self.library, f"fs_emulation_size_of_{kind.__name__}").value
            assert size == ctypes.sizeof(kind), f"{kind.__name__} of driver.py is not that of launch.h"

    def configure(self, multiprocessors=3, seed=1):
        self.library.fs_emulation_configure(multiprocessors, seed)

    @contextmanager
    def broken(self, how):
        """Breaks the machine for a while. 1: threads ignore their fourth barrier; 2: the first block feels last."""
        self.library.fs_emulation_break(how)
        try:
            yield
        finally:
            self.library.fs_emulation_break(0)

    def launches(self):
        return self.library.fs_emulation_launches()

    def record(self, call, stream=0):
        """What `call` launches on the stream, as the number of a graph."""
        assert self.library.fs_emulation_begin(c_uint64(stream)) == 0
        try:
            call()
        finally:
            graph = self.library.fs_emulation_end(c_uint64(stream))
        return graph

    def nodes(self, graph):
        """How many launches a graph holds."""
        return self.library.fs_emulation_nodes(c_int64(graph))

    def replay(self, graph):
        assert self.library.fs_emulation_replay(c_int64(graph)) == 0


class Tensors(NamedTuple):
    """One parameter's arrays. `grad` may be None. `count`: int64, one element. `shown_step`: float32, one, or None."""

    param: torch.Tensor
    grad: torch.Tensor | None
    state: list
    count: torch.Tensor
    shown_step: torch.Tensor | None
    group: int = 0


def check(words):
    if words is not None:
        raise RuntimeError(words.decode())


class Plan:
    """Tables of some tensors and groups.

    Args:
        emulation: an `Emulation`.
        rule, variant: fs::Rule, and one of fs::kVariants.
        tensors: of each parameter.
        values: the hyperparameters of each group, as numbers.
    """

    def __init__(self, emulation, rule, variant, tensors, values):
        self.emulation, self.rule, self.variant, self.tensors = emulation, rule, variant, tensors
        self.values = torch.zeros(len(values), MAX_HYPERPARAMETERS, dtype=torch.float64)
        self.groups = (Group * max(len(values), 1))()
        for group, row, numbers in zip(self.groups, self.values, values, strict=False):
            row[: len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
            group.values = row.data_ptr()
        self.schedules = (NativeSchedule * max(len(values) * MAX_HYPERPARAMETERS, 1))()
        self.n_schedules = torch.zeros(1, dtype=torch.int64)
        self.n_groups = len(values)
        self.clocks = torch.zeros(4, dtype=torch.int64)
        self.ticket = torch.zeros(1, dtype=torch.int32)
        self.past_horizon = torch.zeros(1, dtype=torch.int32)
        self.kept = []  # alive as long as the tables
        self.arrays = (Array * max(len(tensors), 1))(*(self._array(t) for t in tensors))

    def _array(self, t):
        of_roles = dict(zip(ROLES[2:], t.state, strict=False), param=t.param)
        array = Array(numel=t.param.numel(), group=t.group)
        array.count = t.count.data_ptr()
        array.step = None if t.shown_step is None else t.shown_step.data_ptr()
        for role, tensor in of_roles.items():
            array.data[ROLES.index(role)] = tensor.data_ptr()
            array.dtype[ROLES.index(role)] = DTYPES.index(tensor.dtype)
        array.dtype[ROLES.index("grad")] = DTYPES.index((t.param if t.grad is None else t.grad).dtype)
        array.aligned = all(tensor.data_ptr() % 16 == 0 for tensor in of_roles.values())
        return array

    def schedule(self, group, k, program, clock=UPDATES, place=None):
        """Puts a native schedule (a program, float64) in place of number k; `place`: a float64 tensor for its value."""
        place = torch.zeros((), dtype=torch.float64) if place is None else place
        self.kept.append(program)
        self.read_from(group, k, place)
        pointers = program.data_ptr(), self.clocks[clock:].data_ptr(), place.data_ptr()
        self.schedules[int(self.n_schedules)] = NativeSchedule(*pointers, float("nan"))
        self.n_schedules += 1

    def read_from(self, group, k, tensor):
        """Lets a number be what a tensor with one element holds."""
        self.kept.append(tensor)
        self.groups[group].hyperparameters[k] = Hyperparameter(tensor.data_ptr(), DTYPES.index(tensor.dtype))

    def _schedules(self):
        return NativeSchedules(self.n_schedules.data_ptr(), ctypes.addressof(self.schedules))

    def blocks(self):
        result = c_int()
        check(self.emulation.runtime.blocks(self.rule, self.variant, byref(result)))
        return result.value

    def launch(self, first=0, n=None, last=True, pending=(), grad_scale=None, found_inf=None, blocks=None):
        """The arguments of a launch for `n` parameters from number `first` on, and the number of its blocks."""
        tensors = self.tensors[first:] if n is None else self.tensors[first : first + n]
        launch = Launch()
        h = launch.header
        h.arrays = ctypes.addressof(self.arrays) + first * ctypes.sizeof(Array)
        h.groups, h.schedules = ctypes.addressof(self.groups), self._schedules()
        h.clocks, h.ticket, h.past_horizon = (t.data_ptr() for t in (self.clocks, self.ticket, self.past_horizon))
        h.grad_scale = None if grad_scale is None else grad_scale.data_ptr()
        h.found_inf = None if found_inf is None else found_inf.data_ptr()
        h.n_groups, h.n_pending, h.last = self.n_groups, len(pending), last
        for p, (group, k, value) in enumerate(pending):
            h.pending[p] = PendingValue(group * MAX_HYPERPARAMETERS + k, 0, value)
        tiles = [(i, k) for i, t in enumerate(tensors) for k in range(-(-t.param.numel() // TILE))]
        blocks = blocks or max(1, min(len(tiles), self.blocks()))
        for b in range(blocks + 1):
            at = len(tiles) * b // blocks
            h.starts[b] = Start(*(tiles[at] if at < len(tiles) else (len(tensors), 0)))
        h.starts[0] = Start(0, 0)
        absent = 0
        for i in reversed(range(len(tensors))):
            absent = absent + 1 if tensors[i].grad is None else 0
            launch.grads[i] = absent or tensors[i].grad.data_ptr() or NOWHERE
        return launch, blocks

    def step(self, stream=0, **options):
        launch, blocks = self.launch(**options)
        check(self.emulation.runtime.step(stream, self.rule, self.variant, blocks, byref(launch)))

    def write_current(self, stream=0):
        most, past = int(self.n_schedules), self.past_horizon.data_ptr()
        check(self.emulation.runtime.write_current(stream, byref(self._schedules()), most, past))

    def store(self, values, stream=0):
        """Stores (group, k, value) in the table."""
        table = (PendingValue * len(values))(*(PendingValue(g * MAX_HYPERPARAMETERS + k, 0, x) for g, k, x in values))
        groups = ctypes.addressof(self.groups)
        check(self.emulation.runtime.store(stream, groups, ctypes.addressof(table), len(values)))

    def advance(self, clock, by, stream=0):
        check(self.emulation.runtime.advance(stream, self.clocks[clock:].data_ptr(), by))
