# SPDX-License-Identifier: Apache-2.0
"""A track: the stretch of a scheduler's life in which nobody interferes, so that a step is one lookup.

`PythonTrack` is the reading version of `csrc/bindings/host_driver.cpp`; tests compare the two.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from operator import is_not
from typing import Any

import torch
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
    if type(a) is float and type(b) is float:  # as a rule
        return a is b or a == b
    return a is b and not isinstance(a, Tensor) or scalar(a) == scalar(b)


def near(lr: Any, exact: float, beside: float = 0.0) -> bool:
    """Whether a rate is this number, to a rounding of its own, in a computation that had to do with `beside`."""
    coarse = isinstance(lr, Tensor) and lr.is_floating_point()
    bound = max(1e-9, 2.0 * torch.finfo(lr.dtype).eps if coarse else 0.0)
    return abs(scalar(lr) - exact) <= bound * max(abs(exact), abs(beside))


class PythonTrack:
    """Advances one scheduler. `step(state)` takes its `__dict__` and does everything or nothing.

    Arguments: the clock it stands at; `_step_count` then (-1: the scheduler does not count); the last clock it serves
    (-1: all); programs; for each group the index of its program, and of its momentum program (-1: none); "momentum" or
    "betas"; what must not have changed since: attributes (name, object), lists, keys of the groups.

    `launch`: a kernel that advances a counter of its own and writes the rates, and momenta that are tensors: nothing is
    read from those then, the programs are those of the other momenta, and `_last_lr` is for others to derive. An edit
    in place is the kernel's to carry on; a track only notes that there was one.
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
        launch: Callable[[], None] | None = None,
    ) -> None:
        self.clock, self.count, self.horizon = state["last_epoch"], count, horizon
        self.programs, self.rates, self.momenta, self.momentum_key = programs, rates, momenta, momentum_key
        self.attributes = [(name, state.get(name)) for name in attributes]
        self.lists = [(name, _snapshot(state.get(name))) for name in lists]
        self.keys = keys
        self.launched, self._launch, self.steps, self.edited = launch is not None, launch, 0, False
        rate = (lambda group: None) if self.launched else (lambda group: copied(group["lr"]))
        self.groups = [[rate(group), *(copied(group.get(key)) for key in keys)] for group in _groups(state)]
        self._targets = self._present(state) if self.launched else []
        self._versions = _versions(self._targets)

    def _present(self, state: dict[str, Any]) -> list[Any]:
        """What stands where the kernel's tensors did."""
        found = []
        for group, index in zip(_groups(state), self.momenta, strict=True):
            found.append(group["lr"])
            if index >= 0 and isinstance(_first(group[self.momentum_key]), Tensor):
                found.append(_first(group[self.momentum_key]))
        return found

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
        if self.launched:
            present = self._present(state)
            if len(present) != len(self._targets) or any(map(is_not, present, self._targets)):
                return False
        watched = ("lr", *self.keys)[self.launched :]
        for group, seen in zip(groups, self.groups, strict=True):
            if any(not _equal(group.get(key), old) for key, old in zip(watched, seen[self.launched :], strict=True)):
                return False
        return self.momentum_key != "betas" or all(type(group["betas"]) is tuple for group in groups)

    def step(self, state: dict[str, Any]) -> bool:
        """One step, or False and nothing changed."""
        if not self.untouched(state) or 0 <= self.horizon <= self.clock:
            return False
        self.move(self.clock + 1)
        self.write(state)
        return True

    def move(self, to: int) -> None:
        """To another clock, without writing what belongs to it."""
        if self.count >= 0:
            self.count += to - self.clock
        self.clock = to

    def launch_targets(self) -> None:
        """A launch of the kernel; who keeps saved values of these tensors has to know."""
        self.edited |= _versions(self._targets) != self._versions
        self._launch()
        torch.autograd.graph.increment_version([t for t in self._targets if not t.is_inference()])
        self._versions = _versions(self._targets)
        self.steps += 1

    def write(self, state: dict[str, Any]) -> None:
        """Writes what belongs to the present clock, counters included."""
        if self.launched:
            self.launch_targets()
        values = [evaluate(program, self.clock) for program in self.programs]
        last = []
        for i, group in enumerate(_groups(state)):
            if not self.launched:
                self.groups[i][0] = self._write_rate(group, values[self.rates[i]])
                last.append(copied(group["lr"]))
            if self.momenta[i] >= 0 and not (self.launched and isinstance(_first(group[self.momentum_key]), Tensor)):
                momentum = values[self.momenta[i]]
                tail = group["betas"][1:] if self.momentum_key == "betas" else None
                group[self.momentum_key] = momentum if tail is None else (momentum, *tail)
        state["last_epoch"] = self.clock
        if self.count >= 0:
            state["_step_count"] = self.count
        if not self.launched:
            state["_last_lr"] = last

    def _write_rate(self, group: dict[str, Any], value: float) -> Any:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value
        return copied(group["lr"])


def _first(momentum: Any) -> Any:
    """The momentum, or the first of the betas."""
    return momentum[0] if isinstance(momentum, tuple) and momentum else momentum


def _versions(tensors: list[Tensor]) -> list[int]:
    return [0 if t.is_inference() else t._version for t in tensors]


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
