# SPDX-License-Identifier: Apache-2.0
"""The decisions of a metric scheduler on devices: what its attributes are there, and back."""

from __future__ import annotations

import math
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from fusedsched.runtime.hyperparameters import DTYPES, Placement

from .driver import groups_of
from .metric_state import LrBounds, MetricConfig, MetricProgress, MetricState, Options, Reading
from .watched_values import scalar

_captured: list[MetricState] = []  # tables that a graph reads: nothing tells when it is gone, so they stay


class MetricRule:
    """How the attributes of a class are its options and its progress. `s` is a scheduler of that class."""

    def config(self, s: Any) -> MetricConfig:
        """The options."""
        raise NotImplementedError

    def bounds(self, s: Any, count: int) -> list[LrBounds]:
        """The bounds of `count` groups, which fit."""
        raise NotImplementedError

    def misfit(self, s: Any, count: int) -> str | None:
        """What is wrong if the lists of the scheduler have no value for each of `count` groups."""
        raise NotImplementedError

    def progress(self, s: Any) -> tuple[MetricProgress, list[float]]:
        """The counters, and the window of the running mean."""
        raise NotImplementedError

    def load(self, s: Any, progress: MetricProgress, window: list[float]) -> None:
        """Sets the attributes to what a device has."""
        raise NotImplementedError

    def restart(self, s: Any, rates: list[Any]) -> None:
        """Forgets all metrics. `rates`: the learning rates that it starts from."""
        raise NotImplementedError

    def is_usual(self, s: Any) -> bool:
        """Whether it decides as a kernel does: no method is overridden, and nothing is printed."""
        raise NotImplementedError


class Decisions:
    """The `MetricState` of a metric scheduler on each device. `sequence`: the SequentialLR that it is a member of."""

    def __init__(self, decider: Any, sequence: Any = None) -> None:
        self._decider, self._sequence = ref(decider), None if sequence is None else ref(sequence)
        self._rule: MetricRule = decider._rule
        self._options: Options | None = None
        self._states: dict[Placement, MetricState] = {}
        self.misfit: str | None = None

    def _present_options(self) -> Options | None:
        """None where the scheduler's lists do not fit the groups: an error for the next step."""
        decider = self._decider()
        groups = groups_of(decider.optimizer)
        self.misfit = self._rule.misfit(decider, len(groups))
        if self.misfit is not None:
            return None
        config, bounds = self._rule.config(decider), self._rule.bounds(decider, len(groups))
        if self._sequence is None:
            return Options(config, bounds)
        sequence = self._sequence()
        ends, at = [0, *sequence._milestones, math.inf], sequence._schedulers.index(decider)
        return Options(config, bounds, ends[at], ends[at + 1])

    def is_changed(self) -> bool:
        """Whether the options are not those on the devices."""
        return self._options != self._present_options()

    def write(self, targets: dict[Placement, list[Tensor]], clock: int, capturing: bool) -> None:
        """Writes all that the host has. Waits; also while a graph is captured."""
        decider, self._options = self._decider(), self._present_options()
        if self._options is not None and self._sequence is not None and clock <= self._options.begin:
            bases = [group["initial_lr"] for group in groups_of(decider.optimizer)]
            self._rule.restart(decider, bases)  # as it is when its milestone comes
            self._options = self._present_options()
        if self._options is None:
            return
        progress, window = self._rule.progress(decider)
        for placement, tensors in targets.items():
            if capturing and placement.backend == "triton":
                raise RuntimeError("Call step(metric) once outside of the graph: a capture cannot write its tables.")
            last = [] if capturing else [scalar(lr) for lr in decider.__dict__["_last_lr"][: len(tensors)]]
            last += [0.0] * (len(tensors) - len(last))
            size = len(tensors), self._options.config.window
            if placement not in self._states or not self._states[placement].fits(*size):
                self._states[placement] = MetricState(placement, *size)
            self._states[placement].write(self._options, clock, progress, window, tensors, last)
        self._states = {placement: self._states[placement] for placement in targets}

    def observe(self, metric: Tensor, capturing: bool) -> None:
        """One launch on each device."""
        if metric.dtype not in DTYPES:
            metric = metric.to(torch.float64)
        for placement, state in self._states.items():
            state.observe(metric.to(placement.device, non_blocking=True))
            if capturing and not any(state is kept for kept in _captured):
                _captured.append(state)

    def read(self) -> Reading | None:
        """What the first device has; None: nothing was written. Waits."""
        return next(iter(self._states.values())).read() if self._states else None

    def load(self, reading: Reading) -> None:
        """Brings the scheduler to what a device has."""
        decider = self._decider()
        if decider is not None and self._options is not None and reading.clock > self._options.begin:
            self._rule.load(decider, reading.progress, reading.window)
            pairs = zip(groups_of(decider.optimizer), reading.last, strict=False)
            decider.__dict__["_last_lr"] = [
                torch.full_like(g["lr"], x) if isinstance(g["lr"], Tensor) else x for g, x in pairs
            ]
