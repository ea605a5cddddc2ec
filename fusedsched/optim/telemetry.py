# SPDX-License-Identifier: Apache-2.0
"""Telemetry of an optimizer: a ring of rows that its plan fills on the plan's device, and what users read of it.

The layout of the ring is csrc/core/telemetry.h: a header (rows written so far, the gradient norm for the next one),
then rows of update, skipped, gradient norm and the hyperparameters of all groups. Rows are counted in the ring itself,
so that replays of captured graphs keep filling it.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from fusedsched._layouts import MAX_HYPERPARAMETERS, TELEMETRY_HEAD, row_width
from fusedsched.runtime.clocks import unwatched

_HEAD = len(TELEMETRY_HEAD)
_SHOWN = 5  # rows of a repr


class Telemetry:
    """The last updates of an optimizer, oldest first: columns on the CPU, n rows each.

    `update` (int64): the update's number, 0 for the first; a skipped one has the number of the next that is applied.
    `skipped` (bool): whether a GradScaler made the step without effect. `grad_norm` (float64): what `log_grad_norm` was
    given for it, NaN if nothing. `lr` and, as the optimizer has them, `beta1`, `beta2`, `momentum`, `weight_decay`
    (float64, [n, groups]): what the update used, or would have used; NaN for a group that was not there yet.

    >>> import torch
    >>> from fusedsched import SGD, schedules
    >>> p = torch.zeros(1, requires_grad=True)
    >>> opt = SGD([p], lr=schedules.linear(0.5, 0.0, steps=4))
    >>> opt.enable_telemetry()
    >>> for _ in range(3):
    ...     p.grad = torch.ones(1)
    ...     opt.log_grad_norm(torch.linalg.vector_norm(p.grad))
    ...     opt.step()
    >>> opt.telemetry().lr.flatten()
    tensor([0.5000, 0.3750, 0.2500], dtype=torch.float64)
    >>> opt.telemetry(last=1).rows()
    [{'update': 2, 'skipped': False, 'grad_norm': 1.0, 'lr': 0.25, 'momentum': 0.0, 'weight_decay': 0.0}]
    >>> opt.telemetry(last=2)
    Telemetry of 2 steps
    update skipped grad_norm    lr momentum weight_decay
         1   False         1 0.375        0            0
         2   False         1  0.25        0            0
    """

    __slots__ = ("_columns",)

    _columns: dict[str, Tensor]

    def __init__(self, columns: dict[str, Tensor]) -> None:
        object.__setattr__(self, "_columns", columns)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self._columns)

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("__") or name not in self._columns:
            raise AttributeError(f"This telemetry has no '{name}'. It has {', '.join(self._columns)}.")
        return self._columns[name]

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"Telemetry cannot be changed: '{name}' was written to. Copy the column first.")

    def __reduce__(self) -> tuple[Any, ...]:
        return Telemetry, (self._columns,)

    def __len__(self) -> int:
        return len(self._columns["update"])

    def rows(self) -> list[dict[str, Any]]:
        """One plain dictionary for each step, for loggers. With several groups "lr" is "lr/0", "lr/1" and so on."""
        flat: dict[str, list[Any]] = {}
        for name, column in self._columns.items():
            if column.dim() == 1 or column.shape[1] == 1:
                flat[name] = column.flatten().tolist()
            else:
                flat.update((f"{name}/{g}", column[:, g].tolist()) for g in range(column.shape[1]))
        return [dict(zip(flat, values, strict=True)) for values in zip(*flat.values(), strict=True)]

    def __repr__(self) -> str:
        rows = self.rows()
        cells = [[f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
        if not rows:
            return "Telemetry of no step"
        table = [list(rows[0]), *cells[-_SHOWN:]]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [" ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in table]
        title = f"Telemetry of {len(rows)} step{'s' if len(rows) > 1 else ''}"
        return "\n".join([f"{title}, the last {_SHOWN}" if len(rows) > _SHOWN else title, *lines])


class Ring:
    """The last `length` rows. It belongs to the optimizer and outlives its plans."""

    def __init__(self, length: int) -> None:
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise ValueError(f"enable_telemetry() got length={length!r}. It must be an integer, one or more.")
        self.length = length
        self.tensor: Tensor | None = None

    def attach(self, plan: Any, n_groups: int) -> None:
        """Lets a plan fill it. New groups have NaN in the rows before them; with fewer groups than there were, no row
        can be told from another's, and it starts anew."""
        shape = (1 + self.length, row_width(n_groups))
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

    @torch.no_grad()
    def log_norm(self, norm: float | Tensor) -> None:
        """Stores the gradient norm for the next row. Does not wait for a tensor."""
        on_host = isinstance(norm, Tensor) and norm.device.type == "cpu" and self.tensor.device.type != "cpu"
        if on_host and not is_dynamo_compiling():
            norm = float(norm)  # a graph would keep the address of the host's memory
        if isinstance(norm, Tensor):
            self.tensor[0, 1].copy_(norm.detach().reshape(()), non_blocking=True)
        else:
            self.tensor[0, 1].fill_(norm)


def enabled(ring: Ring | None) -> Ring:
    """The ring. Raises RuntimeError if there is none."""
    if ring is None:
        raise RuntimeError("Telemetry is off. Call enable_telemetry() before the steps that it is to tell of.")
    return ring


def decoded(ring: Tensor | None, hyperparameters: tuple[Any, ...], last: int | None) -> Telemetry:
    """The last rows of a ring that is on the host; None for one that nothing was written to."""
    if last is not None and (not isinstance(last, int) or isinstance(last, bool) or last < 0):
        raise ValueError(f"telemetry() got last={last!r}. It must be an integer, zero or more, or None for all.")
    rows = torch.empty(1, _HEAD, dtype=torch.float64) if ring is None else ring
    written, length = 0 if ring is None else int(rows[0, 0]), len(rows) - 1
    n = min(written, length if last is None else min(last, length))
    rows = rows[1 + torch.arange(written - n, written, device="cpu") % max(1, length)]
    numbers = rows[:, _HEAD:].reshape(n, (rows.shape[1] - _HEAD) // MAX_HYPERPARAMETERS, MAX_HYPERPARAMETERS)
    columns = {"update": rows[:, 0].long(), "skipped": rows[:, 1] != 0.0, "grad_norm": rows[:, 2].clone()}
    columns |= {hyper.name: numbers[:, :, k].clone() for k, hyper in enumerate(hyperparameters) if hyper.schedulable}
    return Telemetry(columns)


def write_row(ring: Tensor, update: int, skipped: bool, groups: list[list[float]]) -> None:
    """As `next_row` and `finish_row` in csrc/core/telemetry.h. `groups`: the numbers of each."""
    row = ring[1 + int(ring[0, 0]) % (len(ring) - 1)]
    row[:_HEAD] = torch.tensor([float(update), float(skipped), float(ring[0, 1])], dtype=torch.float64)
    for g, numbers in enumerate(groups):
        row[_HEAD + g * MAX_HYPERPARAMETERS :][: len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
    ring[0, 1] = torch.nan
    ring[0, 0] += 1.0


def check_norm(norm: Any) -> None:
    """Raises TypeError or ValueError for what is not one number."""
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
