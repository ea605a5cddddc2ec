# SPDX-License-Identifier: Apache-2.0
"""Telemetry of an optimizer: a ring of rows that its plan fills, on the plan's device.

The layout of the ring is csrc/core/telemetry.h: a header (rows written so far, the gradient norm for the next one),
then rows of update, skipped, gradient norm and the hyperparameters of all groups. Rows are counted in the ring itself,
so that replays of captured graphs go on filling it.
"""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from fusedsched._layouts import MAX_HYPERPARAMETERS, TELEMETRY_HEAD, row_width
from fusedsched.optim.plan import recorder_of
from fusedsched.optim.telemetry import Telemetry
from fusedsched.runtime.clocks import unwatched
from fusedsched.runtime.compile_ops import OBJECTS, while_tracing

if TYPE_CHECKING:
    from fusedsched.optim.optimizer import FusedOptimizer

_HEAD = len(TELEMETRY_HEAD)


class Ring:
    """The last `length` rows. It belongs to the optimizer and outlives its plans."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.tensor: Tensor | None = None

    def attach(self, optimizer: FusedOptimizer) -> None:
        """Lets the optimizer's plan fill it. New groups have NaN in the rows before them; with fewer groups than there
        were, whose rows are whose cannot be told, and it starts anew."""
        plan = recorder_of(optimizer._plan)
        shape = (1 + self.length, row_width(len(optimizer._groups())))
        before = self.tensor
        if before is None or before.shape != shape or before.device != plan.device:
            with unwatched():
                self.tensor = torch.full(shape, torch.nan, dtype=torch.float64, device=plan.device)
                self.tensor[0, 0].zero_()
                if before is not None and before.shape[1] <= shape[1]:
                    self.tensor[:, : before.shape[1]] = before
        plan.record_to(self.tensor)

    def read(self, hyperparameters: tuple[Any, ...], last: int | None) -> Telemetry:
        """Waits for the device, and copies once."""
        with unwatched():
            return decoded(None if self.tensor is None else self.tensor.cpu(), hyperparameters, last)


def decoded(ring: Tensor | None, hyperparameters: tuple[Any, ...], last: int | None) -> Telemetry:
    """The last rows of a ring that is on the host; None for one that nothing was written to."""
    rows = torch.empty(1, _HEAD, dtype=torch.float64) if ring is None else ring
    written, length = 0 if ring is None else int(rows[0, 0]), len(rows) - 1
    n = min(written, length if last is None else min(last, length))
    rows = rows[1 + torch.arange(written - n, written, device="cpu") % max(1, length)]
    numbers = rows[:, _HEAD:].reshape(n, (rows.shape[1] - _HEAD) // MAX_HYPERPARAMETERS, MAX_HYPERPARAMETERS)
    columns = {"update": rows[:, 0].long(), "skipped": rows[:, 1] != 0.0, "grad_norm": rows[:, 2].clone()}
    columns |= {hyper.name: numbers[:, :, k].clone() for k, hyper in enumerate(hyperparameters) if hyper.schedulable}
    return Telemetry(columns)


class Recorded:
    """What an optimizer has for telemetry."""

    _ring: Ring | None

    def enable_telemetry(self, length: int = 1024) -> None:
        """From the next `step()` on, keeps what each of the last `length` updates used. Starts with none.

        Graphs captured before go on without it. Raises ValueError for a length that is not a positive integer.
        """
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise ValueError(f"enable_telemetry() got length={length!r}. It must be an integer, one or more.")
        if self._runtime.capturing():
            raise RuntimeError("enable_telemetry() while a CUDA graph is captured. Call it before the capture.")
        self._ring = Ring(length)
        if self._plan is not None:
            self._attach_ring()

    def disable_telemetry(self) -> None:
        """Stops it and drops what was kept."""
        self._ring = None
        if self._plan is not None:
            recorder_of(self._plan).record_to(None)
            self._refresh_handle()

    def telemetry(self, last: int | None = None) -> Telemetry:
        """What the last updates used, at most `last` of them, in one copy. Waits for the device.

        Raises RuntimeError if telemetry is off.
        """
        if last is not None and (not isinstance(last, int) or isinstance(last, bool) or last < 0):
            raise ValueError(f"telemetry() got last={last!r}. It must be an integer, zero or more, or None for all.")
        ring = self._recording()
        self._check_counts()
        return ring.read(self._spec.hyperparameters, last)

    def log_grad_norm(self, norm: float | Tensor) -> None:
        """The gradient norm that belongs to the next update, and to that one alone. A tensor is not waited for.

        `norm`: a number, or a floating point tensor with one element. Raises RuntimeError if telemetry is off.
        """
        ring = self._recording()
        _check_norm(norm)
        if is_dynamo_compiling():
            _attach(self._compile_handle.handle)
        else:
            self._ready_plan()
        with torch.no_grad():
            on_host = isinstance(norm, Tensor) and norm.device.type == "cpu" and ring.tensor.device.type != "cpu"
            if on_host and not is_dynamo_compiling():
                norm = float(norm)  # a graph would keep the address of the host's memory
            if isinstance(norm, Tensor):
                ring.tensor[0, 1].copy_(norm.detach().reshape(()), non_blocking=True)
            else:
                ring.tensor[0, 1].fill_(norm)

    def _recording(self) -> Ring:
        if self._ring is None:
            raise RuntimeError("Telemetry is off. Call enable_telemetry() before the steps that it is to tell of.")
        return self._ring

    def _attach_ring(self) -> None:
        self._ring.attach(self)
        self._refresh_handle()


def _check_norm(norm: Any) -> None:
    if hasattr(norm, "full_tensor"):
        raise TypeError("log_grad_norm() got a DTensor. Pass norm.full_tensor().")
    if not isinstance(norm, Tensor):
        if not isinstance(norm, Real):
            raise TypeError(f"log_grad_norm() takes a number or a tensor, got {type(norm).__name__}.")
    elif not norm.is_floating_point() or norm.numel() != 1:
        raise ValueError(
            f"log_grad_norm() got a tensor of shape {tuple(norm.shape)} and {norm.dtype}. The norm must be floating "
            "point and have one element."
        )


@while_tracing
def _attach(handle: str) -> None:
    OBJECTS[handle]._ready_plan()
