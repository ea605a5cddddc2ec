# SPDX-License-Identifier: Apache-2.0
"""Reports of a training run every few steps: one line, or numbers for a logger, without waiting for the device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fusedsched.optim.telemetry import Telemetry, decoded, enabled
from fusedsched.runtime.async_copy import AsyncCopy
from fusedsched.runtime.hyperparameters import runtime_of

_REPORTS_KEPT = 4  # in the ring buffer, since a copy is read some steps after it started


@dataclass(frozen=True)
class Report:
    """What the updates since the previous report used. `print` shows a line, `numbers()` is for loggers.

    `telemetry`: a row for each of these steps (`fusedsched.optim.Telemetry`). `skipped`: steps without effect since the
    monitor was made.
    """

    telemetry: Telemetry
    skipped: int

    def numbers(self) -> dict[str, float]:
        """Plain numbers by name: the last row's, with several groups as "lr/0", "lr/1", ...; then `grad_norm` as the
        mean of the logged ones and `grad_norm_max` (neither if none was logged), and `skipped`."""
        found = {name: value for name, value in self.telemetry.rows()[-1].items() if name != "grad_norm"}
        norms = self._norms()
        if norms:
            found |= {"grad_norm": math.fsum(norms) / len(norms), "grad_norm_max": max(norms)}
        return found | {"skipped": self.skipped}

    def __str__(self) -> str:
        last = self.telemetry
        parts = [f"update {int(last.update[-1]):,}", f"lr {_span(last.lr[-1])}"]
        parts += [f"{n} {_span(getattr(last, n)[-1])}" for n in ("beta1", "momentum") if n in last.columns]
        if norms := self._norms():
            parts.append(f"grad norm {math.fsum(norms) / len(norms):.3g} (max {max(norms):.3g})")
        return "  ".join([*parts, f"skipped {self.skipped:,}"])

    def _norms(self) -> list[float]:
        """Logged norms of applied updates. Those of skipped steps are not finite."""
        applied = self.telemetry.grad_norm[~self.telemetry.skipped].tolist()
        return [norm for norm in applied if not math.isnan(norm)]


def _span(values: Tensor) -> str:
    """One number if all groups agree, else the least and the greatest."""
    known = values[~values.isnan()].tolist()
    low, high = f"{min(known):.3g}", f"{max(known):.3g}"
    return low if low == high else f"{low} to {high}"


class Monitor:
    """Every `every` steps, what an optimizer of this package used: learning rate, beta1 or momentum, gradient norm,
    skipped steps.

    Call `step()` after `opt.step()`. It never waits for the device: every `every` steps it starts a copy of the
    optimizer's telemetry to the host, and a later call returns a `Report` once the copy is complete, else None. On the
    CPU the same call returns it. `read()` waits, for the end of a run. Reports contain gradient norms that were
    logged before the step: `opt.log_grad_norm(norm)`.

    Enables the optimizer's telemetry (`enable_telemetry`) if it is off, for four reports. Create the monitor before you
    capture a CUDA graph of the step, and call `step()` outside of the graph; reports include replays.

    Raises TypeError for an optimizer of another package, ValueError for an `every` that is not a positive integer.

    >>> import torch
    >>> from fusedsched import AdamW
    >>> p = torch.zeros(1, requires_grad=True)
    >>> opt = AdamW([p], lr=0.01)
    >>> monitor = Monitor(opt, every=2)
    >>> for _ in range(4):
    ...     p.grad = torch.ones(1)
    ...     opt.log_grad_norm(torch.linalg.vector_norm(p.grad))
    ...     opt.step()
    ...     if (report := monitor.step()) is not None:
    ...         print(report)
    update 1  lr 0.01  beta1 0.9  grad norm 1 (max 1)  skipped 0
    update 3  lr 0.01  beta1 0.9  grad norm 1 (max 1)  skipped 0
    """

    def __init__(self, optimizer: Any, every: int = 50) -> None:
        runtime = runtime_of(optimizer)
        if runtime is None:
            raise TypeError(
                f"Monitor() got a {type(optimizer).__name__}, which has no telemetry. Give an optimizer of fusedsched."
            )
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ValueError(f"Monitor() got every={every!r}. It must be an integer, one or more.")
        if runtime.inputs.ring is None:
            optimizer.enable_telemetry(_REPORTS_KEPT * every)
        self._optimizer, self._every = optimizer, every
        self._calls = self._skipped = 0
        self._copy: AsyncCopy | None = None
        self._ring = runtime.inputs.ring
        # Rows from before this monitor are not reported.
        self._seen = 0 if self._ring.tensor is None else int(self._ring.tensor[0, 0])

    def step(self) -> Report | None:
        """Call once after each `opt.step()`. Never waits. Returns a report if a copy is complete, else None."""
        self._calls += 1
        ring = self._rows()
        if self._copy is None and self._calls >= self._every and ring is not None:
            self._copy, self._calls = AsyncCopy(ring), 0
        if self._copy is None or not self._copy.arrived():
            return None
        copy, self._copy = self._copy, None
        return self._report(copy.value())

    def read(self) -> Report | None:
        """Everything since the last report; None if there was no update. Waits for the device."""
        ring = self._rows()
        self._copy, self._calls = None, 0
        return None if ring is None else self._report(ring.cpu())

    def _rows(self) -> Tensor | None:
        ring = enabled(self._optimizer._runtime.inputs.ring)
        if ring is not self._ring:  # telemetry was enabled again, with an empty ring buffer
            self._ring, self._copy, self._seen = ring, None, 0
        return ring.tensor

    def _report(self, ring: Tensor) -> Report | None:
        written = int(ring[0, 0])
        new, self._seen = written - self._seen, written
        if new == 0:
            return None
        rows = decoded(ring, self._optimizer._runtime.spec.hyperparameters, new)
        self._skipped += int(rows.skipped.sum())
        return Report(rows, self._skipped)
