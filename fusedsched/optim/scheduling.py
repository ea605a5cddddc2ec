# SPDX-License-Identifier: Apache-2.0
"""Native schedules in the groups of an optimizer, and the clocks that they run on.

`group["schedules"]` maps the name of a hyperparameter to its expression. The hyperparameter itself is a 0-dim float64
tensor with the value for the next update, so that code that reads a group finds a number. Another value there is an
edit: constant from there on, with one warning, until `set_schedule`.

A plan takes a new schedule where the old one was, so neither eager steps nor compiled ones nor captured graphs are
built anew for it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from fusedsched._layouts import CLOCKS
from fusedsched.optim.spec import Hyperparameter, OptimizerSpec
from fusedsched.runtime.clocks import Clocks, number
from fusedsched.runtime.hyperparameters import HyperparameterTable
from fusedsched.runtime.order import levels_outside
from fusedsched.schedules import Schedule
from fusedsched.schedules.evaluate import evaluate

Scheduled = tuple[int, dict[str, Any], Hyperparameter, Schedule]  # index of the group, group, number, its schedule


class NativeSchedules:
    """The tables of hyperparameters, one on each device, and which native schedules show their values in the groups.

    Each row has a place for every number, whether it has a schedule or not: compiled steps are handed the tables, and
    need no other ones when a number becomes a schedule.
    """

    def __init__(self, spec: OptimizerSpec, clocks: Clocks) -> None:
        self._spec, self._clocks = spec, clocks
        self._tables: dict[torch.device, HyperparameterTable] = {}
        self._installed: dict[tuple[int, str], Tensor] = {}
        self._versions: dict[tuple[int, str], int] = {}  # of those installed: only user code raises them
        self._warned: set[str] = set()
        self._compared: dict[tuple[int, str], tuple[int, int]] = {}  # tensors of user code that had another value

    def table(self, device: torch.device | str) -> HyperparameterTable:
        """The table on a device."""
        device = torch.device(device)
        if device not in self._tables:
            names = [hyper.name for hyper in self._spec.hyperparameters]
            self._tables[device] = HyperparameterTable(device, names)
        return self._tables[device]

    def blocks(self) -> list[Tensor]:
        """The memory of all tables."""
        return [block for table in self._tables.values() for block in table.blocks]

    def owns(self, value: Any) -> bool:
        """Whether a value is a tensor in one of the tables."""
        storages = {block.untyped_storage()._cdata for block in self.blocks()}
        return isinstance(value, Tensor) and value.untyped_storage()._cdata in storages

    def of(self, groups: list[dict[str, Any]]) -> Iterator[Scheduled]:
        """All schedules of the groups."""
        for index, group in enumerate(groups):
            schedules = group.get("schedules")
            for hyper in self._spec.numbers if schedules else ():
                if hyper.name in schedules:
                    yield index, group, hyper, schedules[hyper.name]

    def install(self, group: dict[str, Any], hyper: Hyperparameter, device: torch.device | str) -> Tensor:
        """The tensor of a hyperparameter. It is put into the group unless an edit of the user is there."""
        key = (id(group), hyper.name)
        if key not in self._installed:
            self._installed[key] = self.table(device).current(group, hyper.name)
        if key not in self._versions:
            self._versions[key] = self._installed[key]._version
            hyper.write(group, self._installed[key])
        return self._installed[key]

    def replace(self, group: dict[str, Any], hyper: Hyperparameter, schedule: Schedule) -> None:
        """Puts a schedule into the group; the next `install` puts its tensor there, too."""
        group["schedules"] = {**group.get("schedules", {}), hyper.name: schedule}
        self._versions.pop((id(group), hyper.name), None)

    def drop_edited(self, groups: list[dict[str, Any]], fresh: Collection[tuple[int, str]] = ()) -> None:
        """Drops the schedules that an edit has replaced, so that what is saved is what runs, and a new plan does not
        install them again. The present plan has seen the edit, or will, and captured graphs use it.

        `fresh`: schedules that were put there and not shown yet, by index of the group and name.
        """
        for index, group, hyper, schedule in list(self.of(groups)):
            if (index, hyper.name) not in fresh and self._edited(group, hyper, schedule):
                group["schedules"] = {k: v for k, v in group["schedules"].items() if k != hyper.name}
                self._versions.pop((id(group), hyper.name), None)
                self._warn(hyper.name)

    def copies(self, groups: list[dict[str, Any]], updates: int = 0) -> list[Scheduled]:
        """The schedules in whose place user code has put their own value: with a copy of a group or of a tensor, with a
        float that it read before. Such a write is no edit. Waits for the device once for each tensor there.

        `updates`: how many the optimizer may have applied since the write.
        """
        found = []
        for index, group, hyper, schedule in self.of(groups):
            key, value = (id(group), hyper.name), hyper.read(group)
            if key not in self._installed or not self._replaced(group, hyper):
                continue
            on_device = isinstance(value, Tensor) and value.device.type != "cpu"
            if on_device and self._compared.get(key) == (id(value), value._version):
                continue
            if self._shows(value, schedule, updates):
                found.append((index, group, hyper, schedule))
            elif on_device:
                self._compared[key] = id(value), value._version
        return found

    def warn_of_edits(self, groups: list[dict[str, Any]]) -> None:
        """Warns of schedules that user code wrote to, or in place to their tensors."""
        for _, group, hyper, schedule in self.of(groups):
            key = (id(group), hyper.name)
            if self._replaced(group, hyper):
                self._warn(hyper.name)
            elif (value := hyper.read(group))._version != self._versions.get(key):
                self._versions[key] = value._version
                if not self._shows(value, schedule):
                    self._warn(hyper.name)

    def _replaced(self, group: dict[str, Any], hyper: Hyperparameter) -> bool:
        value, own = hyper.read(group), self._installed.get((id(group), hyper.name))
        return value is not own if own is not None else not self.owns(value)  # None: the group is a copy of one

    def _edited(self, group: dict[str, Any], hyper: Hyperparameter, schedule: Schedule) -> bool:
        value = hyper.read(group)
        if not self._shows(value, schedule):
            return True
        if self._replaced(group, hyper):
            self._versions.pop((id(group), hyper.name), None)  # the next `install` puts the tensor there
        return False

    def _shows(self, value: Any, schedule: Schedule, updates: int = 0) -> bool:
        """Whether a value is that of the schedule, now or up to `updates` before."""
        if not isinstance(value, (float, int, Tensor)) or (isinstance(value, Tensor) and value.numel() != 1):
            return False
        clock = self._clocks.unit(schedule.unit)
        expected = [value_at(schedule.program.table, max(clock - back, 0)) for back in range(updates + 1)]
        return any(
            math.isclose(number(value), each, rel_tol=1e-12) for each in expected
        )  # evaluators differ by some ulp

    def _warn(self, name: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(
                f"The scheduled '{name}' of a param group was written to: it stays at the written value from here on. "
                "Use set_schedule() to put a schedule back.",
                UserWarning,
                stacklevel=levels_outside(),
            )


def check_schedule(hyper: Hyperparameter, schedule: Schedule) -> None:
    """Raises ValueError if the schedule leaves the range that this hyperparameter may have."""
    if not hyper.schedulable:
        raise ValueError(f"{hyper.name} cannot be scheduled. Give it a number.")
    schedule.check(hyper.name)
    largest = schedule.program.bounds()[1]
    if largest >= hyper.below:
        raise ValueError(f"Invalid {hyper.name}: the schedule reaches {largest:g}. It must stay below {hyper.below:g}.")


def take_schedules(group: dict[str, Any], spec: OptimizerSpec, largest: bool = False) -> dict[str, Schedule]:
    """Replaces the schedules in `group` by their first value (or the largest), and returns them."""
    taken = {}
    for hyper in spec.numbers:
        values = group.get(hyper.key, ())
        if hyper.key not in group or (
            hyper.item is not None and not (isinstance(values, (tuple, list)) and len(values) > hyper.item)
        ):
            continue
        value = hyper.read(group)
        if isinstance(value, Schedule):
            check_schedule(hyper, value)
            taken[hyper.name] = value
            hyper.write(group, value.program.bounds()[1] if largest else float(value(0)))
    return taken


def value_at(table: Any, clock: int) -> float:
    """The value of a program's table at `clock`; past the last defined step, the last one."""
    horizon = table[2]
    return evaluate(table, min(clock, horizon) if horizon >= 0.0 else clock)


# The arguments of set_schedule() and advance().


def schedulable(spec: OptimizerSpec, name: str, owner: str) -> Hyperparameter:
    """The hyperparameter with this name. Raises ValueError, with the name of the optimizer's class."""
    found = {hyper.name: hyper for hyper in spec.numbers if hyper.schedulable}
    if name not in found:
        raise ValueError(f"'{name}' cannot be scheduled. {owner} has {', '.join(found)}.")
    return found[name]


def chosen_schedules(hyper: Hyperparameter, schedule: Any, group: Any, n: int) -> dict[int, Schedule]:
    """The schedules by the index of their group, of `n`."""
    if isinstance(schedule, (list, tuple)):
        if group is not None or len(schedule) != n:
            where = f"{n} groups" if group is None else f"group={group}"
            raise ValueError(
                f"set_schedule() got {len(schedule)} schedules for {where}. Pass one, or one for each group."
            )
        chosen = dict(enumerate(schedule))
    elif group is None:
        chosen = dict.fromkeys(range(n), schedule)
    elif not isinstance(group, int) or isinstance(group, bool):
        raise TypeError(f"set_schedule() got group={group!r}. It must be the index of a group, or None for all.")
    elif not -n <= group < n:
        raise IndexError(f"set_schedule() got group={group}. The optimizer has {n} group{'s' if n > 1 else ''}.")
    else:
        chosen = {group % n: schedule}
    for one in chosen.values():
        if not isinstance(one, Schedule):
            raise TypeError(f"set_schedule takes a schedule, got {type(one).__name__}. See fusedsched.schedules.")
        check_schedule(hyper, one)
    return chosen


def checked_count(unit: int, count: Any) -> int | Tensor:
    """The argument of `advance` for a clock. A number on a device is not read."""
    name = CLOCKS[unit]
    if isinstance(count, Tensor):
        if count.dtype == torch.bool or count.is_floating_point() or count.is_complex():
            raise TypeError(f"advance() got {name} of {count.dtype}. Pass an integer, or a tensor of an integer type.")
        if count.numel() != 1:
            raise ValueError(f"advance() got {name} with {count.numel()} elements. Pass their sum.")
        return count.detach()
    if isinstance(count, bool) or not hasattr(type(count), "__index__"):
        raise TypeError(f"advance() got {name}={count!r}. Pass an integer, or a tensor of an integer type.")
    return _not_negative(name, int(count))


def _not_negative(name: str, count: int) -> int:
    if count < 0:
        raise ValueError(f"advance() got {name}={count}. It must be zero or more.")
    return count


def advance_clocks(plans: list[Any], counts: list[tuple[int, int | Tensor]], capturing: Callable[[], bool]) -> None:
    """Advances the clocks of all plans; `counts`: pairs (unit, number). A tensor on a plan's device is read there, when
    the device comes to it."""
    numbers = [0 if all(_is_there(p, c) for p in plans) else _number(CLOCKS[u], c, capturing) for u, c in counts]
    for (unit, count), amount in zip(counts, numbers, strict=True):
        for plan in plans:
            if _is_there(plan, count):
                plan.advance_by(unit, count.to(plan.device, non_blocking=True))
            elif amount:
                plan.advance(unit, amount)


def _is_there(plan: Any, count: int | Tensor) -> bool:
    return isinstance(count, Tensor) and plan.name in ("cuda", "triton") and count.device.type == plan.device.type


def _number(name: str, count: int | Tensor, capturing: Callable[[], bool]) -> int:
    if isinstance(count, Tensor) and capturing():
        raise RuntimeError(
            f"advance() inside a captured graph got {name} on {count.device}: each replay would repeat the number of "
            "now. Pass a tensor on the device of the parameters."
        )
    return _not_negative(name, int(count))
