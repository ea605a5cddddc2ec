# SPDX-License-Identifier: Apache-2.0
"""What an optimizer did lately: `optimizer.telemetry()`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

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
