# SPDX-License-Identifier: Apache-2.0
"""Native schedules in the groups of an optimizer.

`group["schedules"]` maps a hyper's name to its expression. The hyper itself holds a 0-dim float64 tensor with the value
for the next update, so that whoever reads a group sees a number. Writing to that hyper is an edit: constant from there
on, with one warning, until `set_schedule`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fusedsched.optim.spec import Hyperparameter
from fusedsched.runtime.clocks import number
from fusedsched.runtime.hyperparameters import HyperparameterTable
from fusedsched.schedules import Schedule

if TYPE_CHECKING:
    from fusedsched.optim.optimizer import FusedOptimizer


def check_schedule(hyper: Hyperparameter, schedule: Schedule) -> None:
    """Raises ValueError if the schedule leaves the range that this hyperparameter may have."""
    if not hyper.schedulable:
        raise ValueError(f"{hyper.name} cannot be scheduled. Give it a number.")
    schedule.check(hyper.name)
    largest = schedule.program.bounds()[1]
    if largest >= hyper.below:
        raise ValueError(f"Invalid {hyper.name}: the schedule reaches {largest:g}. It must stay below {hyper.below:g}.")


def take_schedules(
    group: dict[str, Any], hyperparameters: tuple[Hyperparameter, ...], largest: bool = False
) -> dict[str, Schedule]:
    """Puts the first value (or the largest) where a schedule stands in `group`, and returns the schedules."""
    taken = {}
    for hyper in hyperparameters:
        if hyper.key not in group or (hyper.item is not None and not isinstance(group[hyper.key], (tuple, list))):
            continue
        value = hyper.read(group)
        if isinstance(value, Schedule):
            check_schedule(hyper, value)
            taken[hyper.name] = value
            hyper.write(group, value.program.bounds()[1] if largest else float(value(0)))
    return taken


class Shown:
    """The tables of hyperparameters, one on each device, and which native schedules show their values in the groups.

    Each row has a place for every number, whether it has a schedule or not: compiled steps are handed the tables, and
    need no other ones when a number becomes a schedule.
    """

    def __init__(self, numbers: Sequence[Hyperparameter]) -> None:
        self._names = [hyper.name for hyper in numbers]
        self._tables: dict[torch.device, HyperparameterTable] = {}
        self._installed: dict[tuple[int, str], Tensor] = {}
        self._versions: dict[tuple[int, str], int] = {}  # of those installed: only user code raises them
        self._warned: set[str] = set()

    def table(self, device: torch.device | str) -> HyperparameterTable:
        """The table on a device."""
        device = torch.device(device)
        if device not in self._tables:
            self._tables[device] = HyperparameterTable(device, self._names)
        return self._tables[device]

    def blocks(self) -> list[Tensor]:
        """The memory of all tables."""
        return [block for table in self._tables.values() for block in table.blocks]

    def owns(self, number: Any) -> bool:
        storages = {block.untyped_storage()._cdata for block in self.blocks()}
        return isinstance(number, Tensor) and number.untyped_storage()._cdata in storages

    def install(self, group: dict[str, Any], hyper: Hyperparameter, device: torch.device | str = "cpu") -> Tensor:
        """The tensor of a hyper. It is put into the group unless an edit of the user stands there."""
        key = (id(group), hyper.name)
        if key not in self._installed:
            self._installed[key] = self.table(device).current(group, hyper.name)
        if key not in self._versions:
            self._versions[key] = self._installed[key]._version
            hyper.write(group, self._installed[key])
        return self._installed[key]

    def replaced(self, group: dict[str, Any], hyper: Hyperparameter) -> bool:
        number, own = hyper.read(group), self._installed.get((id(group), hyper.name))
        return number is not own if own is not None else not self.owns(number)  # None: the group is a copy of one

    def written_to(self, group: dict[str, Any], hyper: Hyperparameter) -> bool:
        """Whether a user wrote to the hyperparameter, or in place to its tensor. Does not wait for the device."""
        return self.replaced(group, hyper) or hyper.read(group)._version != self._versions.get((id(group), hyper.name))

    def forget(self, group: dict[str, Any], name: str) -> None:
        """The next `install` puts the tensor into the group, whatever stands there."""
        self._versions.pop((id(group), name), None)

    def warn(self, name: str, stacklevel: int) -> None:
        """Once for each name. `stacklevel`: as for a warning of the caller."""
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(
                f"The scheduled '{name}' of a param group was written to: it stays at the written value from here on. "
                "Use set_schedule() to put a schedule back.",
                UserWarning,
                stacklevel=stacklevel + 1,
            )


def scheduled_hyperparameters(
    groups: list[dict[str, Any]], hyperparameters: tuple[Hyperparameter, ...]
) -> Iterator[tuple[int, dict[str, Any], Hyperparameter, Schedule]]:
    """All schedules of all groups: (index of the group, group, hyperparameter, schedule)."""
    for index, group in enumerate(groups):
        schedules = group.get("schedules")
        for hyper in hyperparameters if schedules else ():
            if hyper.name in schedules:
                yield index, group, hyper, schedules[hyper.name]


def value_at(schedule: Schedule, clock: int) -> float:
    """The value to show at `clock`; past the last defined step, the last one."""
    program = schedule.program
    last = program.horizon if program.horizon >= 0.0 else math.inf
    return program.evaluate(min(clock, last))


def settle_edits(optimizer: FusedOptimizer, fresh: Collection[tuple[int, str]] = ()) -> None:
    """Drops the schedules that an edit has replaced, so that what is saved is what runs, and a new plan does not take
    them up again. The present plan has seen the edit, or will; it goes on as it is, and captured graphs with it.

    `fresh`: schedules that were put there and not shown yet, by index of the group and name.
    """
    for index, group, hyper, schedule in list(scheduled_hyperparameters(optimizer._groups(), optimizer._spec.numbers)):
        if (index, hyper.name) not in fresh and _edited(optimizer, group, hyper, schedule):
            group["schedules"] = {k: v for k, v in group["schedules"].items() if k != hyper.name}
            optimizer._shown.forget(group, hyper.name)
            optimizer._shown.warn(hyper.name, stacklevel=4)


def _edited(optimizer: FusedOptimizer, group: dict[str, Any], hyper: Hyperparameter, schedule: Schedule) -> bool:
    if optimizer._shown.replaced(group, hyper):
        return True
    expected = value_at(schedule, optimizer._clocks.unit(schedule.unit))
    return not math.isclose(number(hyper.read(group)), expected, rel_tol=1e-12)  # evaluators differ by some ulp


def warn_of_edits(optimizer: FusedOptimizer) -> None:
    for _, group, hyper, _ in scheduled_hyperparameters(optimizer._groups(), optimizer._spec.numbers):
        if optimizer._shown.written_to(group, hyper):
            optimizer._shown.warn(hyper.name, stacklevel=4)


def check_horizon(hyper: Hyperparameter, schedule: Schedule, clock: int) -> None:
    if 0.0 <= schedule.program.horizon < clock:
        raise RuntimeError(
            f"The schedule of '{hyper.name}' ends at step {schedule.program.horizon:.0f} and past_end=\"error\" was "
            'asked for. Give it more steps, or past_end="hold".'
        )
