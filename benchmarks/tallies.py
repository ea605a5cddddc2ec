# SPDX-License-Identifier: Apache-2.0
"""Counts what Dynamo compiled, what would be launched on a GPU, and where the host would wait."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fusedsched import _native

from .peers import first_line

aten = torch.ops.aten
EMULATION = Path(__file__).resolve().parents[1] / "tests" / "emulation" / "__init__.py"
# Ops that launch nothing: they create empty tensors or read metadata.
NO_KERNEL = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "set_", "resize_")
# Ops whose result the host waits for.
WAITS = ("_local_scalar_dense", "equal", "nonzero", "is_nonzero", "_unique2", "masked_select")


class Tally(TorchDispatchMode):
    """Counts the ops of aten that are dispatched within it. `kernels`: those that are one launch or more on a GPU;
    views and ops without work are none. `waits`: those in which the host needs a value from the device, or a copy.

    Ops on tensors of one device type are counted; "cuda" may be fake; reading a value then returns a made-up one.

    >>> x = torch.ones(3)
    >>> with Tally("cpu") as tally:
    ...     _ = x.view(3, 1).add(1).sum().item()
    >>> tally.kernels, tally.waits
    (2, 1)
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.kernels, self.waits = device, 0, 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, here = op._schema.name.removeprefix("aten::"), self._touches(args, kwargs)
        waits = here and (name in WAITS or (self.device != "cpu" and self._copies_to_host(name, args, kwargs or {})))
        self.waits += waits
        fake = any(isinstance(leaf, torch._subclasses.FakeTensor) for leaf in tree_leaves((args, kwargs)))
        if fake and op is aten._local_scalar_dense.default:
            return 0.5 if args[0].dtype.is_floating_point else 1  # arbitrary
        # With the rate in a tensor these have no form for tensors without content; they return nothing.
        result = None if fake and op._overloadname == "tensor_lr" else op(*args, **(kwargs or {}))
        made = self._touches(result, None)
        counted = op.namespace == "aten" and not op.is_view and name not in (*NO_KERNEL, *WAITS) and not waits
        self.kernels += counted and (here or made)
        return result

    def _touches(self, args: Any, kwargs: Any) -> bool:
        return any(isinstance(leaf, Tensor) and leaf.device.type == self.device for leaf in tree_leaves((args, kwargs)))

    def _copies_to_host(self, name: str, args: Any, kwargs: dict[str, Any]) -> bool:
        if kwargs.get("non_blocking"):
            return False
        if name == "copy_":
            return args[0].device.type == "cpu"
        return name == "_to_copy" and str(kwargs.get("device", self.device)) == "cpu"


def compiled(work: Callable[[], object], steps: int) -> dict[str, Any]:
    """Runs a compiled function so many times. `graphs`, `breaks` as Dynamo counts them; `recompilations`: how often it
    compiled a piece of code again; `error`: what ended it, or None.

    >>> x = torch.ones(2)
    >>> compiled(lambda: x.add_(1), 3)
    {'graphs': 1, 'breaks': 0, 'recompilations': 0, 'error': None}
    """
    from torch._dynamo import utils

    torch._dynamo.reset()
    utils.counters.clear()
    utils.clear_compilation_metrics()
    error, run = None, torch.compile(work, backend="eager")
    logging.disable(logging.WARNING)  # what Dynamo has to say about breaks is counted
    try:
        for _ in range(steps):
            run()
    except Exception as raised:
        error = first_line(raised)
    finally:
        logging.disable(logging.NOTSET)
    again = {metric.compile_id for metric in utils.get_compilation_metrics() if _attempt(metric.compile_id) > 0}
    found = {
        "graphs": utils.counters["stats"]["unique_graphs"],
        "breaks": sum(utils.counters["graph_break"].values()),
        "recompilations": len(again),
        "error": error,
    }
    torch._dynamo.reset()
    return found


def _attempt(compile_id: str | None) -> int:
    """Of "3/2": 2, the code was compiled twice before. Attempts of one compilation ("3/2_1") are one."""
    return int(str(compile_id).split("/")[1].split("_")[0]) if compile_id and "/" in str(compile_id) else 0


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Fake tensors on "cuda", without a GPU: shapes and types, no content. Optimizers run the code for CUDA."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    # float(tensor) makes its device the present one before it asks for the value; item() does not.
    asking = {"__float__": lambda t: float(t.item()), "__int__": lambda t: int(t.item())}
    with mock.patch.multiple(Tensor, **asking), FakeTensorMode(allow_non_fake_inputs=True):
        yield


@contextmanager
def rates_on_a_gpu() -> Iterator[None]:
    """Schedulers that follow a metric take tensors on the CPU as rates on a GPU: for the emulation of CUDA."""
    with mock.patch.object(torch.optim.Optimizer, "_fusedsched_backend", "cuda", create=True):
        yield


def tallied(work: Callable[[], object], steps: int, device: str) -> dict[str, float]:
    """`launches` and `syncs` per step, as a `Tally` on one type of device counts them."""
    with Tally(device) as tally:
        for _ in range(steps):
            work()
    return {"launches": tally.kernels / steps, "syncs": tally.waits / steps}


def no_emulation() -> str | None:
    """Why our CUDA kernels cannot be emulated here; None if they can."""
    if _native.module() is None:
        return f"no compiled extension: {_native.reason()}"
    if not EMULATION.exists():
        return "needs the source tree: an installed package has no emulation of CUDA"
    return None if _emulation().compiler() else "needs a C++ compiler, to emulate CUDA"


@cache
def _emulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fusedsched_emulation", EMULATION)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def emulated_launches() -> Callable[[], int]:
    """Loads the emulation of CUDA, which runs our kernels on the CPU from then on, and returns its counter of launches.

    Building it takes a minute, once.
    """
    path = str(_emulation().build())
    _native.module().emulate_cuda(path)
    counter = ctypes.CDLL(path).fs_emulation_launches
    counter.restype = ctypes.c_int64
    return counter
