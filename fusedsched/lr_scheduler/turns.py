# SPDX-License-Identifier: Apache-2.0
"""A SequentialLR with a metric-driven member, on a device: a warmup, then a plateau, inside a captured graph.

The rates follow one program, that of the sequence. While it is the member's turn, the program is one constant row, and
the decisions rewrite that; a second launch evaluates the program.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fusedsched._layouts import CLOCKS
from fusedsched.lr_scheduler import arguments as checks
from fusedsched.runtime.device_schedule import DeviceSchedule, Target
from fusedsched.runtime.hyperparameters import Placement

from ..schedules.compose import Sequence
from ..schedules.compositions import schedule_of, takes_metric
from ..schedules.edit import DISCARD
from ..schedules.evaluate import ROW_WIDTH, Shape
from ..schedules.expression import Segment
from .boards import BEGIN, START, Asked, Bounds, Contents, Extension, Program, Turn
from .device_driver import has_subscribers
from .driver import groups_of
from .members import seek_to
from .metric import MetricScheduler
from .observing import Observer, Sites, is_capturing, sites_for
from .param_groups import add_groups


class Turns(Observer):
    """The device's side of a SequentialLR, one of whose members follows a metric."""

    def __init__(self, scheduler: Any, sites: Sites) -> None:
        self._schedules: dict[torch.device, DeviceSchedule] = {}
        super().__init__(scheduler, sites)

    def _follow(self) -> None:
        super()._follow()
        for board in self._boards if self._plans else ():
            places = enumerate(zip(board.places, self._wrote, strict=True))
            targets = [Target(place, board.program(i), DISCARD, value=rate) for i, (place, rate) in places]
            schedule = self._schedules.get(board.device)
            if schedule is None or len(schedule) != len(targets):
                past = self._optimizer()._runtime.table(board.device).flags[CLOCKS.index("skipped") :]
                clock = None if schedule is None else schedule.clock
                placement = Placement("cuda", board.device)
                schedule = self._schedules[board.device] = DeviceSchedule(placement, len(targets), None, past, clock)
            schedule.write(targets, self._clock)

    def observe(self, metric: Tensor) -> None:
        super().observe(metric)
        for board in self._boards:
            self._schedules[board.device].advance()
            if self.capturing():
                self._schedules[board.device].keep_for_graph()

    def decider(self) -> MetricScheduler:
        return _decider(self._scheduler())

    def _turn(self) -> Turn:
        scheduler = self._scheduler()
        ends = [0, *scheduler._milestones, math.inf]
        at = scheduler._schedulers.index(self.decider())
        return Turn(ends[at], ends[at + 1])

    def _tell(self, count: int) -> tuple[Asked, list[Bounds], Turn] | None:
        told = super()._tell(count)
        if told is None:
            return None
        bases = [float(group["initial_lr"]) for group in groups_of(self._optimizer())]  # what its turn begins with
        bounds = [bound._replace(initial=base) for bound, base in zip(told[1], bases, strict=True)]
        return told[0], bounds, self._turn()

    def _write(self) -> None:
        with self.paused():
            add_groups(self._scheduler())
        super()._write()

    def _start(self) -> int:
        return self._scheduler().__dict__["last_epoch"]

    def _rates(self) -> list[Any] | None:
        if self._start() <= self._turn().begin:
            self.decider()._start_over()  # the board has to be as it is when the turn comes
        rates = [group["lr"] for group in groups_of(self._optimizer())]
        programs = [self._program(i, rate) for i, rate in enumerate(rates)]
        return None if None in programs else programs

    def _program(self, i: int, rate: Any) -> Program | None:
        """Of one group, whose rate is now `rate`; None: there is none that has it."""
        scheduler, turn, clock = self._scheduler(), self._turn(), self._start()
        base = float(groups_of(self._optimizer())[i]["initial_lr"])
        parts = [_part(member, i, base) for member in scheduler._schedulers]
        if isinstance(rate, Tensor) or None in parts:
            return None
        try:
            whole = Sequence(tuple(parts), tuple(scheduler._milestones))
            table = list(whole.lower().table)
        except ValueError:  # parts too odd to be put together in rows
            return None
        rows = range(ROW_WIDTH, ROW_WIDTH * (1 + int(table[0])), ROW_WIDTH)
        found = [at for at in rows if table[at + BEGIN] == turn.begin]
        if len(found) != 1 or table[found[0] + 1] != Shape.CONSTANT:
            return None
        if turn.begin <= clock < turn.end:
            table[found[0] + START] = rate
        elif abs(whole(clock) - rate) > 1e-9 * abs(rate):
            return None  # was written to: the members carry that on each in its own way
        return Program(table, found[0] + START)

    def _move(self, contents: Contents) -> None:
        scheduler, groups = self._scheduler(), groups_of(self._optimizer())
        shown = [group["lr"] for group in groups]
        with self.paused():
            seek_to(scheduler, contents.clock)
        for group, rate in zip(groups, shown, strict=True):
            group["lr"] = rate  # an edit is still to be told from what the device has made of it
        if contents.clock > self._turn().begin:
            decider = self.decider()
            decider._learn(contents.known, contents.window)
            decider.__dict__["_last_lr"] = list(contents.last)
        scheduler.__dict__["_last_lr"] = list(contents.rates)


def _decider(scheduler: Any) -> MetricScheduler | None:
    """The one member that follows a metric."""
    found = [member for member in scheduler._schedulers if takes_metric(member)]
    return found[0] if len(found) == 1 and isinstance(found[0], MetricScheduler) else None


def _part(member: Any, i: int, base: float) -> Any:
    if takes_metric(member):
        return Segment(Shape.CONSTANT, start=base)
    return None if getattr(member, "cycle_momentum", False) else schedule_of(member, i)


def _sites(scheduler: Any, metric: Any) -> Sites | str:
    """Where the sequence runs on such a metric; or why on no device."""
    decider = _decider(scheduler)
    if scheduler._skip_guard is not None:
        return "with advance_on_skip=False the host looks whether an update was applied."
    if decider is None or not decider._usual():
        return "a graph takes one member that follows a metric, and one that decides as it does here."
    if not isinstance(metric, Tensor):
        return "a graph would repeat the decision on this number for ever. Give it a tensor on the device."
    if any(_part(member, 0, 0.0) is None for member in scheduler._schedulers):
        return "a member has no closed form, or cycles the momentum."
    if has_subscribers(scheduler.optimizer):
        return "another scheduler of the same optimizer already steps on the device."
    if any(isinstance(group["lr"], Tensor) for group in groups_of(scheduler.optimizer)):
        return "the lr of a param group is a tensor. Give it a float; inside a graph it moves all the same."
    sites = sites_for(scheduler.optimizer, metric)
    if not isinstance(sites, str) and any(launcher is not Extension for _, launcher in sites):
        return "its rates follow a program, which takes the CUDA kernels."
    return sites


def step_on_device(scheduler: Any, metric: Any) -> bool:
    """The step, if the device can do it. Raises RuntimeError while a graph is captured that could not."""
    if metric is not None:
        metric = checks.metric(scheduler, metric)
    follower, sites, capturing = scheduler._mirror, "", is_capturing(scheduler.optimizer)
    if follower is None:
        sites = _sites(scheduler, metric)
        if not isinstance(sites, str):
            follower = Turns(scheduler, sites)
            scheduler._mirror = follower
    elif not isinstance(metric, Tensor) or not follower.serves(scheduler, metric):
        follower, sites = None, "the metric is not on the device, so every replay would see the one of now."
    elif follower.edited():
        follower.bring_along()
    if follower is not None and not follower.ready():
        follower.dissolve()
        scheduler._mirror = None
        follower, sites = None, "a rate was written to, and the members carry that on each in its own way."
    if follower is not None:
        follower.observe(metric)
        return True
    if capturing:
        raise RuntimeError(f"{type(scheduler).__name__}.step(metrics) cannot be captured: {sites}")
    return False
