# SPDX-License-Identifier: Apache-2.0
"""The state of a metric scheduler in device memory, and the launch that decides. `csrc/core/metric.h` has the rule.

One float64 table: options, progress, for each group the address and the bounds of its learning rate, the window of a
running mean. A decision writes the learning rates where updates read them: places of the optimizer's table of
hyperparameters, or tensors of the user.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedsched._layouts import METRIC_STATE, METRIC_TARGET
from fusedsched.runtime.addresses import unwrap
from fusedsched.runtime.device_schedule import allocate, store, stream_of
from fusedsched.runtime.hyperparameters import DTYPES, Placement
from fusedsched.runtime.launching import launching

from .. import _native

_PROGRESS, _CLOCK = METRIC_STATE.index("best"), METRIC_STATE.index("clock")
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
