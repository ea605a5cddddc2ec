# SPDX-License-Identifier: Apache-2.0
"""What a driver is made from: the programs and edit rules of a scheduler, and what must not change under it."""

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
    takes_metric,
)
from ..schedules.evaluate import Shape
from ..schedules.expression import Segment
from ..schedules.torch_classes import METHODS, class_of
from .driver import Inputs, groups_of
from .member_counters import members_of
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
    leaves, composites = [scheduler] if scheduler._branch is None else [], []
    if leaves and is_composite(scheduler):
        leaves = leaf_schedulers(scheduler)
        composites = [one for one in (scheduler, *members_of(scheduler)) if is_composite(one)]
        free = all(_is_free(leaf, on_device) for leaf in leaves)
        if not free or any("step" in one.__dict__ for one in composites[1:]) or not _in_step(scheduler, on_device):
            return None
    entries = []
    for leaf in leaves:
        if leaf is scheduler or not takes_metric(leaf):
            entries.append((leaf.__dict__, class_of(type(leaf))))
            if entries[-1][1] is None or (composites and getattr(leaf, "cycle_momentum", False)):
                return None
    programs = _Programs()
    rates, momenta, rules, key = [], [], [], _momentum_key(scheduler, entries, on_device)
    for i, group in enumerate(groups):
        found = edit_rules_of(scheduler, i)
        same = tuple(_numbers(*entries[0], i, group)) if len(entries) == 1 and len(groups) > 1 else None
        rate = programs.add(same, lambda i=i, found=found: driving_schedule(scheduler, i, found))
        if found is None or rate is None:
            return None
        rules.append(found)
        rates.append(rate)
        momentum = programs.add(None, lambda i=i: _momentum(scheduler, i, key)) if key else -1
        if momentum is None:
            return None
        momenta.append(momentum)
    watched, lists, keys = [], [], []
    for attributes, entry in entries:
        watched += [(attributes, name) for name in (*entry.attributes, "step", *METHODS)]
        lists += [(attributes, name) for name in entry.lists]
        keys += entry.keys
    for one in composites:
        watched += [(one.__dict__, name) for name in ("_schedulers", "_milestones", "step")]
        lists += [(one.__dict__, name) for name in ("_schedulers", "_milestones")]
    horizon = _horizon(scheduler)
    kinds = tuple({type(leaf) for leaf in leaves if not type(leaf).__module__.startswith("fusedsched.")})
    counts = scheduler._counts_steps
    return Inputs(programs.tables, rates, momenta, key, rules, watched, lists, keys, horizon, counts, kinds)


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


def _is_free(leaf: Any, on_device: bool) -> bool:
    """Whether a composite may step for a member. One that follows a metric decides on devices, by itself."""
    ours = hasattr(leaf, "_skip_guard") and (on_device or not leaf._follows_metric)
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
