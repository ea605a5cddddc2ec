# SPDX-License-Identifier: Apache-2.0
"""Decides at which step a range test diverged, and suggests rates. Plain Python on plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SMOOTHING = 0.8  # weight of a neighbour: 9 steps count as one
LEVELS = 25  # in which the valley's descent is measured


@dataclass(frozen=True)
class Suggestion:
    """A learning rate and the reason; `lr` is None if the losses do not show one, and `reason` then says why.

    `index`: the step with that rate.
    """

    name: str
    lr: float | None
    reason: str
    index: int | None = None

    def __str__(self) -> str:
        return f"{self.name:<18}{'-' if self.lr is None else format(self.lr, '.2e'):>9}  {self.reason}"


def threshold(best: float, first: float, factor: float) -> float:
    """The loss above which a run has diverged: `factor` times the best one so far.

    If the best loss is 0 or less, the loss may rise by (factor - 1) times the larger magnitude of best and first.

    >>> threshold(0.5, 2.0, 4.0), threshold(-1.0, 2.0, 4.0)
    (2.0, 5.0)
    """
    return factor * best if best > 0.0 else best + (factor - 1.0) * max(abs(best), abs(first))


def divergence(losses: Sequence[float], factor: float | None, smoothing: float = SMOOTHING) -> int | None:
    """The first step whose loss is not finite, or whose running mean is above `threshold`; None if there is none.

    mean_i = sum of smoothing ** (i - j) * loss_j / sum of smoothing ** (i - j), over j = 0 .. i

    Each step is judged only by earlier ones, so the result does not depend on when it is computed. factor None: only
    losses that are not finite.

    >>> divergence([1.0, 0.5, 9.0, 9.0], 4.0), divergence([1.0, float("nan")], None), divergence([1.0, 9.0], None)
    (2, 1, None)
    """
    watch = Watch(factor, smoothing)
    return next((i for i, loss in enumerate(losses) if watch.diverged(loss)), None)


class Watch:
    """Computes `divergence` one loss at a time."""

    def __init__(self, factor: float | None, smoothing: float = SMOOTHING) -> None:
        self._factor, self._smoothing = factor, smoothing
        self._total = self._weight = 0.0
        self.best = self.first = math.inf  # of the running mean

    def diverged(self, loss: float) -> bool:
        if not math.isfinite(loss):
            return True
        self._total = self._smoothing * self._total + loss
        self._weight = self._smoothing * self._weight + 1.0
        mean = self._total / self._weight
        if self.first == math.inf:
            self.first = mean
        elif self._factor is not None and mean > threshold(self.best, self.first, self._factor):
            return True
        self.best = min(self.best, mean)
        return False


def smooth(losses: Sequence[float], smoothing: float = SMOOTHING, ceiling: float = math.inf) -> list[float]:
    """Means over neighbours on both sides, so that the curve does not shift to later steps (higher rates).

    smooth_i = sum of smoothing ** abs(i - j) * min(loss_j, ceiling) / sum of smoothing ** abs(i - j)

    >>> smooth([0.0, 3.0, 0.0], smoothing=0.5)
    [0.8571428571428571, 1.5, 0.8571428571428571]
    """
    values = [min(loss, ceiling) for loss in losses]
    n = len(values)
    before, after = _running(values, smoothing), _running(values[::-1], smoothing)[::-1]
    weights = _running([1.0] * n, smoothing)
    return [
        (before[i] + after[i] - values[i]) / (weights[i] + weights[n - 1 - i] - 1.0)  # the middle is in both sums
        for i in range(n)
    ]


def _running(values: Sequence[float], smoothing: float) -> list[float]:
    sums: list[float] = []
    for value in values:
        sums.append(value + (smoothing * sums[-1] if sums else 0.0))
    return sums


def suggestions(lrs: Sequence[float], smoothed: Sequence[float], log: bool = True) -> tuple[Suggestion, ...]:
    """Valley, steepest descent and minimum / 10 of the smoothed losses. `log`: the rates rise by a factor.

    >>> rates = [10.0**k for k in range(-6, 1)]
    >>> [s.lr for s in suggestions(rates, [2.0, 2.0, 1.9, 1.0, 0.5, 0.4, 3.0])]
    [0.001, 0.001, 0.01]
    """
    names = ("valley", "steepest descent", "minimum / 10")
    bottom = min(range(len(smoothed)), key=smoothed.__getitem__, default=0)
    if bottom < 2:
        reason = "the loss never fell; start lower, or check the model" if smoothed else "there are no losses"
        return tuple(Suggestion(name, None, reason) for name in names)
    return (
        _valley(names[0], lrs, smoothed, bottom),
        _steepest(names[1], lrs, smoothed, bottom, log),
        _tenth(names[2], lrs, smoothed, bottom),
    )


def _valley(name: str, lrs: Sequence[float], smoothed: Sequence[float], bottom: int) -> Suggestion:
    """The middle of the longest descent, as in fastai. Losses are rounded to levels, so that a slow decline before the
    descent does not count."""
    values = smoothed[: bottom + 1]
    level = (max(values) - smoothed[bottom]) / LEVELS
    begin, end = longest_descent([round((value - smoothed[bottom]) / level) for value in values])
    middle = (begin + end) // 2
    reason = f"middle of the longest descent, from lr {lrs[begin]:.1e} to {lrs[end]:.1e}"
    return Suggestion(name, lrs[middle], reason, middle)


def longest_descent(values: Sequence[float]) -> tuple[int, int]:
    """First and last index of the longest decreasing subsequence; the last one of equal length.

    >>> longest_descent([5.0, 9.0, 8.0, 8.5, 7.0, 6.0, 10.0]), longest_descent([9.0, 9.0, 8.0, 8.0])
    ((1, 5), (1, 3))
    """
    lengths, begins = [1] * len(values), list(range(len(values)))
    for i, value in enumerate(values):
        for j in range(i):
            if value < values[j] and lengths[j] + 1 >= lengths[i]:
                lengths[i], begins[i] = lengths[j] + 1, begins[j]
    end = max(range(len(values)), key=lambda i: (lengths[i], i))
    return begins[end], end


def _steepest(name: str, lrs: Sequence[float], smoothed: Sequence[float], bottom: int, log: bool) -> Suggestion:
    x = [math.log10(lr) for lr in lrs] if log else lrs

    def slope(i: int) -> float:
        return (smoothed[i + 1] - smoothed[i - 1]) / (x[i + 1] - x[i - 1])

    index = min(range(1, bottom), key=slope)
    per = "per tenfold lr" if log else "per unit of lr"
    return Suggestion(name, lrs[index], f"the loss falls fastest here, by {-slope(index):.2g} {per}", index)


def _tenth(name: str, lrs: Sequence[float], smoothed: Sequence[float], bottom: int) -> Suggestion:
    reason = f"a tenth of {lrs[bottom]:.1e}, where the loss is lowest ({smoothed[bottom]:.3g})"
    if bottom == len(smoothed) - 1:
        reason += "; it was still falling, so try a higher stop="
    return Suggestion(name, lrs[bottom] / 10.0, reason, bottom)
