# SPDX-License-Identifier: Apache-2.0
"""A track: the stretch of a scheduler's life in which nobody interferes, so that a step is one lookup.

`PythonTrack` is the reading version of `csrc/track.cpp`; the two do the same and are tested against each other.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Any

from torch import Tensor

from .. import _native
from ..schedules.evaluate import ROW_WIDTH, evaluate
from .rows import Row


def table(rows: list[Row]) -> array:
    """Rows as the flat program that every evaluator reads."""
    flat = array("d", (len(rows), 0.0, -1.0) + (0.0,) * (ROW_WIDTH - 3))
    for r in rows:
        flat.extend(r)
    return flat


def scalar(value: Any) -> float:
    """A rate as a Python float, also when it is a tensor of one element (on a device, this waits for it)."""
    return value.item() if isinstance(value, Tensor) else float(value)


def copied(value: Any) -> Any:
    """The value, or a copy of a tensor: who holds it must not see later writes."""
    return value.clone() if isinstance(value, Tensor) else value


def same(a: Any, b: Any) -> bool:
    """Whether two hyperparameters are the same object or equal numbers."""
    return a is b and not isinstance(a, Tensor) or scalar(a) == scalar(b)


class PythonTrack:
    """Advances one scheduler. `step(state)` takes its `__dict__` and does everything or nothing.

    Arguments: the clock it stands at; `_step_count` then (-1: the scheduler does not count); the last clock it serves
    (-1: all); programs; for each group the index of its program, and of its momentum program (-1: none); "momentum" or
    "betas"; what must not have changed since: attributes (name, object), lists, keys of the groups.
    """

    def __init__(
        self,
        state: dict[str, Any],
        count: int,
        horizon: int,
        programs: list[array],
        rates: list[int],
        momenta: list[int],
        momentum_key: str,
        attributes: list[str],
        lists: list[str],
        keys: list[str],
    ) -> None:
        self.clock, self.count, self.horizon = state["last_epoch"], count, horizon
        self.programs, self.rates, self.momenta, self.momentum_key = programs, rates, momenta, momentum_key
        self.attributes = [(name, state.get(name)) for name in attributes]
        self.lists = [(name, _snapshot(state.get(name))) for name in lists]
        self.keys = keys
        self.groups = [[copied(group["lr"]), *(copied(group.get(key)) for key in keys)] for group in _groups(state)]

    def untouched(self, state: dict[str, Any]) -> bool:
        """Whether everything is as this track left it."""
        groups = _groups(state)
        if len(groups) != len(self.groups) or state["last_epoch"] != self.clock:
            return False
        if self.count >= 0 and state["_step_count"] != self.count:
            return False
        if any(state.get(name) is not value for name, value in self.attributes):
            return False
        if any(not _matches(state.get(name), snapshot) for name, snapshot in self.lists):
            return False
        for group, seen in zip(groups, self.groups, strict=True):
            if any(not _equal(group.get(key), old) for key, old in zip(("lr", *self.keys), seen, strict=True)):
                return False
        return self.momentum_key != "betas" or all(type(group["betas"]) is tuple for group in groups)

    def step(self, state: dict[str, Any]) -> bool:
        """One step, or False and nothing changed."""
        if not self.untouched(state) or 0 <= self.horizon <= self.clock:
            return False
        self.clock += 1
        self.count += self.count >= 0
        self.write(state)
        return True

    def write(self, state: dict[str, Any]) -> None:
        """Writes what belongs to the present clock, counters included."""
        values = [evaluate(program, self.clock) for program in self.programs]
        last = []
        for i, group in enumerate(_groups(state)):
            lr, new = group["lr"], values[self.rates[i]]
            if isinstance(lr, Tensor):
                lr.fill_(new)
            else:
                group["lr"] = lr = new
            self.groups[i][0] = copied(lr)
            last.append(copied(lr))
            if self.momenta[i] >= 0:
                momentum = values[self.momenta[i]]
                tail = group["betas"][1:] if self.momentum_key == "betas" else None
                group[self.momentum_key] = momentum if tail is None else (momentum, *tail)
        state["last_epoch"] = self.clock
        if self.count >= 0:
            state["_step_count"] = self.count
        state["_last_lr"] = last


def _groups(state: dict[str, Any]) -> list[dict[str, Any]]:
    return state["optimizer"].param_groups


def _snapshot(container: Any) -> Any:
    if isinstance(container, Counter):
        return dict(container)
    return None if container is None else [copied(item) for item in container]


def _matches(container: Any, snapshot: Any) -> bool:
    if isinstance(snapshot, dict):
        return isinstance(container, dict) and dict.__eq__(container, snapshot) is True
    if container is None or snapshot is None:
        return container is snapshot
    return len(container) == len(snapshot) and all(map(_equal, container, snapshot))


def _equal(now: Any, before: Any) -> bool:
    if now is None or before is None:
        return now is before
    return same(now, before)


def track_class() -> type:
    """The compiled track where there is one, else the one above."""
    return getattr(_native.module(), "Track", PythonTrack)
