# SPDX-License-Identifier: Apache-2.0
"""What schedules are judged by: plain formulas in high precision, written from the definitions, knowing nothing of
segments, rows or local time. `u` is the index of the update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpmath import cos, mpf, pi


def line(a: float, b: float, p: Any) -> Any:
    return mpf(a) + (mpf(b) - mpf(a)) * p


def wave(a: float, b: float, p: Any) -> Any:
    return mpf(b) + (mpf(a) - mpf(b)) * (1 + cos(pi * p)) / 2


def share(u: int, begin: int, end: int) -> Any:
    """How much of the way from `begin` to `end` is done, held at both ends."""
    return mpf(min(max(u - begin, 0), end - begin)) / (end - begin) if end > begin else mpf(1)


def climb(u: int, peak: float, width: int, then: Callable[[int], Any]) -> Any:
    return mpf(peak) * (u + 1) / width if u < width else then(u)


def restart_share(u: int, length: int, factor: int) -> Any:
    while u >= length:
        u, length = u - length, length * factor
    return mpf(u) / length


def triangle(u: int, up: int, down: int) -> Any:
    t = u % (up + down)
    return mpf(t) / up if t <= up and up else mpf(up + down - t) / down


def mirrored(u: int, low: float, top: float, last: float, *turns: float) -> Any:
    """torch's OneCycleLR as its documentation draws it."""
    levels = (low, top, last) if len(turns) == 2 else (low, top, low, last)
    begin = mpf(0)
    for i, turn in enumerate(turns):
        if u <= turn:
            return wave(levels[i], levels[i + 1], (u - begin) / (mpf(turn) - begin))
        begin = mpf(turn)
    return mpf(last)
