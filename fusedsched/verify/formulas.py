# SPDX-License-Identifier: Apache-2.0
"""The named schedules of `table.NAMED` as formulas of the update. They share no row, boundary or evaluator with the
schedules that they judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

from fusedsched.verify.bounds import Verdict
from fusedsched.verify.check import Check, Level
from fusedsched.verify.table import NAMED

# A formula in float64 is a chain of some ten roundings of numbers up to the peak.
ERROR = 1e-14
_UPDATES = (*range(260), 10**4, 10**6)


def _share(u: float, start: float, stop: float) -> float:
    """The fraction of the interval from `start` to `stop` that has passed, from 0 to 1."""
    return min(max((u - start) / (stop - start), 0.0), 1.0)


def _line(a: float, b: float, share: float) -> float:
    return a + (b - a) * share


def _wave(a: float, b: float, share: float) -> float:
    return b + (a - b) * (1.0 + math.cos(math.pi * share)) / 2.0


def _climb(u: int, steps: int, peak: float, after: Callable[[int], float]) -> float:
    return peak * (u + 1) / steps if u < steps else after(u)


def _restarts(u: int) -> float:
    length = 10
    while u >= length:
        u, length = u - length, 2 * length
    return u / length


def _triangle(u: int) -> float:
    cycles, t = divmod(u, 40)
    height = t / 15 if t < 15 else (40 - t) / 25
    return 0.01 + math.ldexp(0.09 * height, -cycles)


# The arguments are those of table.NAMED.
FORMULAS: dict[str, Callable[[int], float]] = {
    "constant": lambda u: 0.07,
    "linear": lambda u: _line(0.1, 0.02, _share(u, 0, 60)),
    "cosine": lambda u: _wave(0.1, 0.01, _share(u, 0, 70)),
    "polynomial": lambda u: 0.01 + 0.09 * (1.0 - _share(u, 0, 60)) ** 2.5,
    "exponential": lambda u: 0.1 * 0.97**u,
    "step": lambda u: 0.1 * 0.5 ** (u // 20),
    "multistep": lambda u: 0.1 * 0.3 ** sum(u >= m for m in (10, 40, 41)),
    "inverse_sqrt": lambda u: _climb(u, 20, 0.1, lambda u: 0.1 * math.sqrt(20 / u)),
    "inverse_time": lambda u: 0.1 / (1 + 0.05 * u),
    "noam": lambda u: 64**-0.5 * min((u + 1) ** -0.5, (u + 1) * 30**-1.5),
    "cyclic": _triangle,
    "one_cycle": lambda u: (
        _wave(0.1 / 25, 0.1, _share(u, 0, 23)) if u < 23 else _wave(0.1, 0.1 / 25 / 1e4, _share(u, 23, 79))
    ),
    "cosine_restarts": lambda u: _wave(0.1, 0.01, _restarts(u)),
    "warmup_cosine": lambda u: _climb(u, 10, 0.1, lambda u: _wave(0.1, 0.01, _share(u, 10, 90))),
    "warmup_linear": lambda u: _climb(u, 10, 0.1, lambda u: _line(0.1, 0.01, _share(u, 10, 90))),
    "warmup_stable_decay": lambda u: _climb(u, 10, 0.1, lambda u: _line(0.1, 0.0, _share(u, 40, 80))),
    "table": lambda u: 0.1 / (1 + min(u, 49) % 7),
    "join": lambda u: _line(0.02, 0.1, u / 20) if u < 20 else 0.1 * 0.98 ** (u - 20),
    "product": lambda u: _wave(0.1, 0.0, _share(u, 0, 120)) * 0.7 ** (u // 25),
    "warmup": lambda u: 0.1 * (u + 1) / 12 if u < 12 else 0.1 * math.sqrt(1.0 - _share(u, 12, 92)),
}


def compare(name: str) -> Verdict:
    """The largest distance between a schedule and its formula, relative to 0.1, which is the peak of most."""
    schedule, formula = NAMED[name](), FORMULAS[name]
    errors = {u: abs(schedule(u) - formula(u)) / 0.1 for u in _UPDATES}
    update = max(errors, key=lambda u: math.inf if math.isnan(errors[u]) else errors[u])
    values = f"{schedule(update):.9g}, formula {formula(update):.9g}"
    return Verdict(f"{name} at update {update}: {values}", errors[update], ERROR)


def checks(level: Level) -> Iterator[Check]:
    for name in NAMED:
        yield Check(f"schedules/{name}/formula", "schedules", "schedules", "formula", partial(compare, name))
