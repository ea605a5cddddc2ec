# SPDX-License-Identifier: Apache-2.0
"""What users change while a model trains: the schedules, and the clocks that they run on.

A plan takes a new schedule where the old one was, so neither eager steps nor compiled ones nor captured graphs are
built anew for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from fusedsched._layouts import CLOCKS
from fusedsched.optim.compiled import traced_advance
from fusedsched.optim.plan import every_plan, install_schedule
from fusedsched.optim.scheduled import check_schedule
from fusedsched.optim.spec import Hyperparameter
from fusedsched.schedules import Schedule


class Scheduling:
    """`set_schedule` and `advance` of an optimizer."""

    def set_schedule(self, name: str, schedule: Schedule | Sequence[Schedule], group: int | None = None) -> None:
        """Puts a schedule in the place of a scalar, in one group or (None) in all. It runs on the present clock.

        `name`: "lr", "beta1", "beta2", "momentum" or "weight_decay", as the optimizer has them. `schedule`: one, or
        with `group=None` a list of one for each group. It acts at the next step; a captured graph follows at its next
        replay.
        Raises ValueError for an unknown name, for a schedule that is negative or not finite somewhere and for a list of
        another length, IndexError for a group that is not there, RuntimeError while a graph is captured and for what
        follows a drop-in scheduler inside one. Nothing is changed then.

        >>> import torch
        >>> from fusedsched import SGD, schedules
        >>> opt = SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
        >>> opt.set_schedule("lr", schedules.linear(0.25, 0.0, steps=10))
        >>> opt.param_groups[0]["lr"]
        tensor(0.2500, dtype=torch.float64)
        """
        hyper = next((s for s in self._spec.numbers if s.name == name and s.schedulable), None)
        if hyper is None:
            names = ", ".join(s.name for s in self._spec.numbers if s.schedulable)
            raise ValueError(f"'{name}' cannot be scheduled. {type(self).__name__} has {names}.")
        chosen = _by_group(schedule, group, len(self.param_groups))
        for one in chosen.values():
            if not isinstance(one, Schedule):
                raise TypeError(f"set_schedule takes a schedule, got {type(one).__name__}. See fusedsched.schedules.")
            check_schedule(hyper, one)
        if self._runtime.capturing():
            raise RuntimeError("set_schedule() while a CUDA graph is captured. Call it before or after the capture.")
        self._runtime.refuse_scheduled(name)
        self._put(hyper, chosen)

    def _put(self, hyper: Hyperparameter, chosen: dict[int, Schedule]) -> None:
        plans, left = every_plan(self._plan), []
        for index, schedule in chosen.items():
            target = self.param_groups[index]
            self._shown.forget(target, hyper.name)
            target["schedules"] = {**target.get("schedules", {}), hyper.name: schedule}
            if plans and install_schedule(self, plans, index, target, hyper, schedule):
                left.append(index)
        if left:
            self._invalidate(fresh=[(index, hyper.name) for index in chosen])
        self._show()
        if left:
            warnings.warn(
                f"set_schedule('{hyper.name}') gives group {left[0]} another update rule than the CUDA graph has that "
                "was captured. That graph goes on as it was; capture again.",
                UserWarning,
                stacklevel=3,
            )

    def advance(self, *, samples: int | Tensor = 0, tokens: int | Tensor = 0) -> None:
        """Advances the clocks of schedules with `unit="sample"` or `unit="token"`. Updates count themselves.

        A number, or an integer tensor with one element. One on the parameters' device is not waited for; inside a
        captured graph each replay advances by what it holds then. A negative one there advances nothing, and a later
        call (`step`, `telemetry`, `state_dict`, `skipped_steps`, `sync_hparams`) raises ValueError.
        Raises ValueError for a negative number and for several elements, TypeError for what is no integer.

        >>> from fusedsched import SGD, schedules
        >>> rate = schedules.linear(0.5, 0.0, steps=1_000, unit="token")
        >>> opt = SGD([torch.zeros(1, requires_grad=True)], lr=rate)
        >>> opt.advance(tokens=torch.tensor(250))
        >>> float(opt.param_groups[0]["lr"])
        0.375
        """
        if is_dynamo_compiling():
            return traced_advance(self, samples, tokens)
        counts = [(unit, _checked(CLOCKS[unit], count)) for unit, count in ((1, samples), (2, tokens))]
        self._check_counts()
        plans = every_plan(self._ready_plan())
        numbers = [
            0 if all(_by_pointer(plan, count) for plan in plans) else _number(CLOCKS[unit], count, self)
            for unit, count in counts
        ]
        for (unit, count), number in zip(counts, numbers, strict=True):
            for plan in plans:
                if _by_pointer(plan, count):
                    plan.advance_by(unit, count.to(plan.device, non_blocking=True))
                elif number:
                    plan.advance(unit, number)

    def _check_counts(self) -> None:
        for plan in every_plan(self._plan):
            plan.check_counts()

    def _show(self) -> None:
        # The values of schedules, between steps; a step shows them itself, and asks for what is to be filled in.
        if self._constructed and any("schedules" in group for group in self.param_groups):
            if all(group.get(hyper.key) is not None for group in self._groups() for hyper in self._spec.numbers):
                self._ready_plan().advance(0, 0)


def _by_group(schedule: Any, group: Any, n: int) -> dict[int, Any]:
    """The schedules by the index of their group."""
    if isinstance(schedule, (list, tuple)):
        if group is not None or len(schedule) != n:
            where = f"{n} groups" if group is None else f"group={group}"
            raise ValueError(
                f"set_schedule() got {len(schedule)} schedules for {where}. Pass one, or one for each group."
            )
        return dict(enumerate(schedule))
    if group is None:
        return dict.fromkeys(range(n), schedule)
    if not isinstance(group, int) or isinstance(group, bool):
        raise TypeError(f"set_schedule() got group={group!r}. It must be the index of a group, or None for all.")
    if not -n <= group < n:
        raise IndexError(f"set_schedule() got group={group}. The optimizer has {n} group{'s' if n > 1 else ''}.")
    return {group % n: schedule}


def _checked(name: str, count: Any) -> int | Tensor:
    """The argument, if it is one. A number on a device is not looked at."""
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


def _by_pointer(plan: Any, count: int | Tensor) -> bool:
    """Whether a plan's device reads it when it gets there."""
    return isinstance(count, Tensor) and plan.name in ("cuda", "triton") and count.device.type == plan.device.type


def _number(name: str, count: int | Tensor, optimizer: Any) -> int:
    if isinstance(count, Tensor) and optimizer._runtime.capturing():
        raise RuntimeError(
            f"advance() inside a captured graph got {name} on {count.device}: each replay would repeat the number of "
            "now. Pass a tensor on the device of the parameters."
        )
    return _not_negative(name, int(count))
