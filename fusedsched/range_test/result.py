# SPDX-License-Identifier: Apache-2.0
"""The result of a range test, as numbers, as a table, as a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fusedsched.plotting import Curve, Panel, Picture
from fusedsched.range_test.suggest import Suggestion


@dataclass(frozen=True, repr=False)
class RangeTest:
    """The rates tried, the loss at the start of each step, and the suggested rates.

    `lrs`, `losses`: one per step, up to and with the step at which the loss diverged (`diverged_at`, else None).
    `smoothed`: means of neighbouring losses, without that last step. `suggestions`: valley, steepest descent and
    minimum / 10, in the order of preference; `suggestion` is the first that has a rate. `optimizer`: its class.
    `steps`: the number requested.
    """

    lrs: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestions: tuple[Suggestion, ...]
    diverged_at: int | None
    steps: int
    mode: str
    optimizer: str

    @property
    def suggestion(self) -> Suggestion | None:
        return next((s for s in self.suggestions if s.lr is not None), None)

    def table(self, rows: int = 10) -> str:
        """The suggestions, and `rows` of the steps."""
        lines = [
            f"{len(self.lrs)} of {self.steps} steps of {self.optimizer}, lr {self.lrs[0]:.1e} to {self.lrs[-1]:.1e}"
        ]
        if self.diverged_at is not None:
            lines.append(f"diverged at step {self.diverged_at}, lr {self.lrs[self.diverged_at]:.1e}")
        lines += ["", f"{'step':>6}{'lr':>10}{'loss':>12}{'smoothed':>12}"]
        n, rows = len(self.lrs), min(rows, len(self.lrs))
        for i in sorted({round(k * (n - 1) / max(1, rows - 1)) for k in range(rows)}):
            smoothed = f"{self.smoothed[i]:.4g}" if i < len(self.smoothed) else "-"
            lines.append(f"{i:>6}{self.lrs[i]:>10.1e}{self.losses[i]:>12.4g}{smoothed:>12}")
        lines += ["", f"{'suggestion':<18}{'lr':>9}  reason", *map(str, self.suggestions)]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    __repr__ = __str__

    def plot(self) -> Picture:
        """Loss over rate with the suggestions marked: print it, `save("lr.png")` it, or show it in a notebook."""
        fallen = self.losses[: self.smoothed.index(min(self.smoothed)) + 1] if self.smoothed else []
        top, low = max(fallen, default=1.0), min(fallen, default=0.0)
        ceiling = top + 0.5 * (top - low)  # an exploding loss would flatten the rest
        curves = [Curve("loss", self.lrs, [min(loss, ceiling) for loss in self.losses])]
        if self.smoothed:
            smoothed = [min(loss, ceiling) for loss in self.smoothed]
            curves.append(Curve("smoothed", self.lrs[: len(smoothed)], smoothed))
        points = []
        for suggestion in self.suggestions:
            if suggestion.lr is not None and self.lrs[0] <= suggestion.lr <= self.lrs[-1]:
                nearest = min(range(len(self.smoothed)), key=lambda i: abs(self.lrs[i] - suggestion.lr))
                points.append((suggestion.name, suggestion.lr, min(self.smoothed[nearest], ceiling)))
        log = self.mode == "exponential"
        return Picture((Panel("loss", curves, "learning rate", log_x=log, from_zero=False, points=points),))

    def _repr_html_(self) -> str:
        return self.plot()._repr_html_()

    def to_json(self) -> dict[str, Any]:
        """Plain data; a loss that is not finite is None."""
        return {
            "suggestion": self.suggestion.lr if self.suggestion else None,
            "suggestions": {s.name: {"lr": s.lr, "reason": s.reason} for s in self.suggestions},
            "diverged at step": self.diverged_at,
            "steps": self.steps,
            "mode": self.mode,
            "optimizer": self.optimizer,
            "lrs": self.lrs,
            "losses": [loss if math.isfinite(loss) else None for loss in self.losses],
            "smoothed": self.smoothed,
        }
