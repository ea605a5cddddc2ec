# SPDX-License-Identifier: Apache-2.0
"""Which driver a scheduler gets, and what it is made from."""

from __future__ import annotations

from array import array
from typing import Any

from fusedsched.torch_originals import schedulers as torch_schedulers

from ..schedules.compositions import (
    active_member,
    driving_schedule,
    edit_rules_of,
    is_chain,
    is_composite,
    leaf_schedulers,
)
from ..schedules.edit import NO_EDIT, Edit, rule_at
from ..schedules.evaluate import Shape, evaluate
from ..schedules.expression import Segment
from ..schedules.torch_classes import METHODS, class_of
from . import device_driver
from .counted_driver import CountedDriver
from .device_driver import LaunchedDriver, capture_probe
from .driver import Inputs, edits_of, groups_of, host_driver, underflows
from .member_counters import MemberMirror, members_of
from .tensors import placement_of
from .torch_driver import torch_driver
from .watched_values import scalar


def clock_of(scheduler: Any) -> Any:
    """The present step, as the host has it; a chain has none of its own."""
    while is_chain(scheduler):
        branch, driver = getattr(scheduler, "_branch", None), getattr(scheduler, "_driver", None)
        if driver is not None or branch is not None:
            return branch.clock if driver is None else driver.clock
        scheduler = max(scheduler._schedulers, key=clock_of)
    known = scheduler.__dict__.get("last_epoch")
    return scheduler.last_epoch if known is None else known  # a property of a subclass


def inputs_of(scheduler: Any, on_device: bool = False) -> Inputs | None:
    """What a driver of this scheduler is made from; None where it has no schedule.

    `on_device`: a momentum that a branch keeps is written, since captured graphs continue to.
    """
    groups = groups_of(scheduler.optimizer)
    leaves, composites = [], []
    if scheduler._branch is None:
        leaves = leaf_schedulers(scheduler)
        composites = [one for one in (scheduler, *members_of(scheduler)) if is_composite(one)]
    if composites and not (all(map(_is_free, leaves)) and all("step" not in one.__dict__ for one in composites[1:])):
        return None
    entries = [(leaf.__dict__, class_of(type(leaf))) for leaf in leaves]
    if not all(entry is not None for _, entry in entries) or not _in_step(scheduler, on_device):
        return None
    if is_composite(scheduler) and any(getattr(leaf, "cycle_momentum", False) for leaf in leaves):
        return None
    programs = _Programs()
    rates, momenta, rules, key = [], [], [], _momentum_key(scheduler, entries, on_device)
    for i, group in enumerate(groups):
        found = edit_rules_of(scheduler, i)
        same = None if len(entries) != 1 else tuple(_numbers(*entries[0], i, group))
        rate = programs.add(same, lambda i=i: driving_schedule(scheduler, i))
        if found is None or rate is None:
            return None
        rules.append(found)
        rates.append(rate)
        momentum = programs.add(None, lambda i=i: _momentum(scheduler, i, key)) if key else -1
        if momentum is None:
            return None
        momenta.append(momentum)
    return Inputs(
        programs.tables,
        rates,
        momenta,
        key,
        rules,
        [(a, name) for a, entry in entries for name in (*entry.attributes, "step", *METHODS)]
        + [(one.__dict__, name) for one in composites for name in ("_schedulers", "_milestones", "step")],
        [(a, name) for a, entry in entries for name in entry.lists]
        + [(one.__dict__, name) for one in composites for name in ("_schedulers", "_milestones")],
        [name for _, entry in entries for name in entry.keys],
        _horizon(scheduler),
        scheduler._counts_steps,
    )


class _Programs:
    """Flat tables, each once."""

    def __init__(self) -> None:
        self.tables: list[array] = []
        self._by_bytes: dict[bytes, int] = {}
        self._by_numbers: dict[Any, int] = {}

    def add(self, numbers: Any, make: Any) -> int | None:
        """The index of a program. `numbers`: what it is made from, where that is known."""
        if numbers is not None and numbers in self._by_numbers:
            return self._by_numbers[numbers]
        schedule = make()
        if schedule is None:
            return None
        table = schedule.lower().table
        index = self._by_bytes.setdefault(table.tobytes(), len(self.tables))
        if index == len(self.tables):
            self.tables.append(table)
        if numbers is not None:
            self._by_numbers[numbers] = index
        return index


def _numbers(attributes: dict[str, Any], entry: Any, i: int, group: dict[str, Any]) -> list[float]:
    lists = [attributes[name] for name in entry.lists if isinstance(attributes.get(name), list)]
    return [*(scalar(found[i]) for found in lists), *(scalar(group[key]) for key in entry.keys if key in group)]


def _is_free(leaf: Any) -> bool:
    """Whether a composite may step for a member."""
    ours = hasattr(leaf, "_skip_guard") and not leaf._follows_metric
    return ours and leaf._branch is None and "step" not in leaf.__dict__


def _in_step(scheduler: Any, on_device: bool) -> bool:
    """Whether members have made the steps that their composites have made."""
    if not is_composite(scheduler) or scheduler._branch is not None:
        return True
    if is_chain(scheduler):
        return len(set(map(clock_of, scheduler._schedulers))) == 1 and all(
            _in_step(member, on_device) for member in scheduler._schedulers
        )
    member, local = active_member(scheduler, clock := scheduler.__dict__["last_epoch"])
    derived = on_device or getattr(member, "_mirror", None) is not None
    return clock < 0 or derived or (clock_of(member) == local and _in_step(member, on_device))


def _momentum_key(scheduler: Any, entries: list[Any], on_device: bool) -> str:
    entry = class_of(type(scheduler))
    if entry is None or entry.momentum is None or not scheduler.cycle_momentum or not (entries or on_device):
        return ""
    return "betas" if scheduler.use_beta1 else "momentum"


def _momentum(scheduler: Any, i: int, key: str) -> Any:
    if scheduler._branch is None:
        return class_of(type(scheduler)).momentum(scheduler, i)
    now = groups_of(scheduler.optimizer)[i][key]
    return Segment(Shape.CONSTANT, start=scalar(now[0] if key == "betas" else now))


def _horizon(scheduler: Any) -> int:
    one_cycle = isinstance(scheduler, torch_schedulers.OneCycleLR) and scheduler._branch is None
    return scheduler.total_steps if one_cycle else -1


def has_schedule(scheduler: Any) -> bool:
    """Whether a driver can be made for it."""
    return inputs_of(scheduler) is not None


def attach(scheduler: Any) -> Any:
    """Gives a scheduler its driver, at its present step and from the rates that the groups have; None: there is none
    but torch's code."""
    mirror = scheduler._mirror
    if isinstance(mirror, CountedDriver):  # whose counter stands in graphs
        mirror.restart()
        scheduler._driver = mirror
        return mirror
    optimizer, clock, guard = scheduler.optimizer, clock_of(scheduler), scheduler._skip_guard
    placement, probe = placement_of(optimizer), capture_probe(optimizer)
    counted = placement is not None or probe is not None or (guard is not None and guard.on_device)
    counts = is_chain(scheduler) or "last_epoch" in scheduler.__dict__  # not a property of a subclass
    inputs = inputs_of(scheduler, counted) if counts and type(clock) is int and clock >= 0 else None
    if inputs is None:
        if probe is not None and probe():
            device_driver.refuse_without_schedule(scheduler, placement is not None)
        scheduler._driver = None if counted or guard is not None or not counts else torch_driver(scheduler)
        return scheduler._driver
    if placement is not None and probe is not None and probe():
        device_driver.refuse_yet(scheduler)
    groups = groups_of(optimizer)
    rates, scales = [group["lr"] for group in groups], [scalar(group.get("initial_lr", 0.0)) for group in groups]
    edits = edits_of(inputs, clock, rates, scales, scheduler._edits)
    if not counted and _is_lost(scheduler, inputs, clock, edits):
        return None
    if placement is not None:
        driver = LaunchedDriver.make(scheduler, inputs, clock, placement, edits)
    else:
        driver = host_driver(scheduler, inputs, clock, edits)
        driver = CountedDriver(scheduler, driver) if counted else driver
    scheduler._driver = driver
    if driver is not None and is_composite(scheduler) and scheduler._branch is None:
        MemberMirror(scheduler, clock).install()
    return driver


def _is_lost(scheduler: Any, inputs: Inputs, clock: int, edits: list[Edit]) -> bool:
    """Whether an edited rate should decay where the schedule of it has decayed below the smallest number."""
    if scheduler._branch is not None or not any(hasattr(leaf, "gamma") for leaf in leaf_schedulers(scheduler)):
        return False
    return any(
        edit != NO_EDIT and underflows(rule_at(rules, clock), evaluate(inputs.programs[index], clock))
        for rules, index, edit in zip(inputs.rules, inputs.rates, edits, strict=True)
    )


def reattach(scheduler: Any) -> None:
    """After a change that captured graphs have to follow."""
    if isinstance(scheduler._mirror, CountedDriver) or scheduler._device_schedule is not None:
        attach(scheduler)


def refuse_capture(scheduler: Any, what: str) -> None:
    """Raises RuntimeError while a graph is captured: `what` would be the same in every replay."""
    probe = capture_probe(scheduler.optimizer)
    if probe is not None and probe():
        raise RuntimeError(
            f"{type(scheduler).__name__}.{what} cannot be captured: a graph would repeat the decision of now for ever. "
            "Call it outside of the graph."
        )
