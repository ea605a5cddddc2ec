# SPDX-License-Identifier: Apache-2.0
"""The state of a metric scheduler in device memory: what its attributes are there, and back; the launch that decides.
`csrc/core/metric.h` has the rule.

One float64 table: options, progress, for each group the address and the bounds of its learning rate, the window of a
running mean. A decision writes the learning rates where updates read them: places of the optimizer's table of
hyperparameters, or tensors of the user.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor

from fusedsched._layouts import METRIC_STATE, METRIC_TARGET
from fusedsched.runtime.addresses import unwrap
from fusedsched.runtime.device_schedule import allocate, store, stream_of
from fusedsched.runtime.hyperparameters import DTYPES, Placement
from fusedsched.runtime.launching import launching

from .. import _native
from .driver import groups_of
from .watched_values import scalar

_PROGRESS, _CLOCK = METRIC_STATE.index("best"), METRIC_STATE.index("clock")
_captured: list[MetricState] = []  # tables that a graph reads: nothing tells when it is gone, so they stay
_TARGETS, _WIDTH, _LAST = len(METRIC_STATE), len(METRIC_TARGET), METRIC_TARGET.index("last")


class MetricConfig(NamedTuple):
    """The options, in the order of fs::MetricState. `comparison`: 0 to 3, min or max, relative or absolute."""

    greedy: int
    comparison: int
    factor: float
    threshold: float
    patience: float
    cooldown: float
    warmup: float
    eps: float
    window: int
    reset_start: float


class MetricProgress(NamedTuple):
    """The counters, in the order of fs::MetricState. `sum`, `held`, `next`: of the running mean."""

    best: float
    bad: float
    good: float
    cooldown_counter: float
    warmup_counter: float
    lower_before_reset: float
    epoch: float
    sum: float = 0.0
    held: float = 0.0
    next: float = 0.0


class LrBounds(NamedTuple):
    """Of one group: the least and the greatest learning rate, and the one that GreedyLR starts over from."""

    least: float
    most: float = 0.0
    initial: float = 0.0


class Options(NamedTuple):
    """What a user can change. `begin`, `end`: metrics of clocks between these two, both exclusive, are used."""

    config: MetricConfig
    bounds: list[LrBounds]
    begin: float = -1.0
    end: float = math.inf


class Reading(NamedTuple):
    """What a device has. `last`: the learning rates after the last metric."""

    clock: int
    progress: MetricProgress
    window: list[float]
    last: list[float]


class MetricState:
    """The table on one device."""

    def __init__(self, placement: Placement, groups: int, window: int) -> None:
        self.placement, self.groups, self._window_at = placement, groups, _TARGETS + groups * _WIDTH
        self.tensor = allocate(placement, self._window_at + window)

    def fits(self, groups: int, window: int) -> bool:
        """Whether the table has this size."""
        return self.groups == groups and len(self.tensor) == self._window_at + window

    def write(
        self, options: Options, clock: int, progress: MetricProgress, window: list[float], targets: list[Tensor],
        last: list[float],
    ) -> None:  # fmt: skip
        """Everything at once. In stream order; in a capture at once. `targets`: the learning rates."""
        host = torch.zeros(len(self.tensor), dtype=torch.float64, device="cpu")
        integers = host.view(torch.int64)
        head = [*options.config, self.groups, 0.0, options.begin, options.end, *progress]
        host[: len(head)] = torch.tensor(head, dtype=torch.float64)
        integers[_CLOCK] = clock
        for i, target in enumerate(targets):
            at = _TARGETS + i * _WIDTH
            integers[at], integers[at + 1] = unwrap(target), DTYPES.index(target.dtype)
            host[at + 2 : at + _WIDTH] = torch.tensor([*options.bounds[i], last[i]], dtype=torch.float64)
        host[self._window_at :][: len(window)] = torch.tensor(window, dtype=torch.float64)
        store(self.placement, self.tensor, host)

    def read(self) -> Reading:
        """What is there now. Waits."""
        host = self.tensor.cpu()
        flat, clock = host.tolist(), int(host.view(torch.int64)[_CLOCK])
        progress = MetricProgress(*flat[_PROGRESS : _PROGRESS + len(MetricProgress._fields)])
        return Reading(clock, progress, flat[self._window_at :], flat[_TARGETS + _LAST : self._window_at : _WIDTH])

    def observe(self, metric: Tensor) -> None:
        """One launch: decides by a metric on this device."""
        LAUNCHES[self.placement.backend](self, metric)


def _launch_cuda(state: MetricState, metric: Tensor) -> None:
    device = state.placement.device
    _native.module().observe_metric(state.tensor, metric, stream_of(device)(device.index or 0))


def _launch_triton(state: MetricState, metric: Tensor) -> None:
    from ..triton_kernels.metric import launch

    with launching(state.tensor.device):
        launch(state.tensor, metric, state.groups)


LAUNCHES: dict[str, Callable[[MetricState, Tensor], Any]] = {"cuda": _launch_cuda, "triton": _launch_triton}
"""By backend."""


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
