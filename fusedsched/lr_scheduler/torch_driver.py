# SPDX-License-Identifier: Apache-2.0
"""Drivers for what has no schedule: LambdaLR, MultiplicativeLR, and composites that have such members.

They make the steps that torch's code makes, on plain attributes: nothing here is derived from a device.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cache
from typing import Any

from torch import Tensor

from ..schedules.compositions import is_chain, is_composite, takes_metric
from ..schedules.edit import Edit
from ..schedules.torch_classes import class_of, torch_name
from .driver import groups_of
from .watched_values import copied, scalar


class MembersDriver:
    """Steps of a SequentialLR or ChainedScheduler whose members make their own."""

    on_device = False

    def __init__(self, composite: Any) -> None:
        self._chain, self._count = is_chain(composite), len(groups_of(composite.optimizer))
        self.clock = max(getattr(member, "last_epoch", 0) for member in composite._schedulers)

    def advance(self, state: dict[str, Any]) -> bool:
        """One step; False where groups were added."""
        groups, members = groups_of(state["optimizer"]), state["_schedulers"]
        if len(groups) != self._count:
            return False
        if self._chain:
            self.clock += 1
            for member in members:
                member.step()
            state["_last_lr"] = [copied(group["lr"]) for group in groups]
            return True
        self.clock = clock = state["last_epoch"] + 1
        milestones = state["_milestones"]
        i = bisect_right(milestones, clock)
        state["last_epoch"], member = clock, members[i]
        if i and milestones[i - 1] == clock:
            member._update_lr(0)
        else:
            member.step()
        state["_last_lr"] = member.get_last_lr()
        return True

    def edits(self) -> list[Edit]:
        """None: the members continue from the present rate."""
        return []


class FunctionDriver:
    """What torch's code does for LambdaLR and MultiplicativeLR: the base rate, or the present one, times a function."""

    on_device = False

    def __init__(self, scheduler: Any, from_base: bool) -> None:
        self._from_base, self._count = from_base, len(groups_of(scheduler.optimizer))
        self.clock = scheduler.__dict__["last_epoch"]

    def advance(self, state: dict[str, Any]) -> bool:
        """One step; False where groups were added, a user's method is in the place of torch's, or torch may warn."""
        groups, functions, made = groups_of(state["optimizer"]), state["lr_lambdas"], state["_step_count"]
        if len(groups) != self._count or "get_lr" in state or "_update_lr" in state or made == 1:
            return False
        state["_step_count"] = made + 1
        self.clock = state["last_epoch"] = clock = state["last_epoch"] + 1
        bases, rates, last = state["base_lrs"] if self._from_base else [group["lr"] for group in groups], [], []
        for function, base in zip(functions, bases, strict=True):
            rates.append(base * function(clock))
        for group, rate in zip(groups, rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(scalar(rate))
                rate = group["lr"]
            else:
                group["lr"] = rate = scalar(rate) if isinstance(rate, Tensor) else rate
            last.append(copied(rate) if isinstance(rate, Tensor) else rate)
        state["_last_lr"] = last
        return True

    def edits(self) -> list[Edit]:
        """None: the present rate is all."""
        return []


def torch_driver(scheduler: Any) -> MembersDriver | FunctionDriver | None:
    """A driver that runs torch's code; None where a class has more to say."""
    kind = _torch_class(type(scheduler))
    if kind is None or scheduler._branch is not None or scheduler._mirror is not None:
        return None
    if scheduler.__dict__.get("_step_count", 2) <= 1:
        return None  # its first step, in which torch warns about the order of calls
    if any(is_composite(member) or takes_metric(member) for member in scheduler.__dict__.get("_schedulers", ())):
        return None  # these begin in a way of their own at a milestone
    name = torch_name(kind)
    if name in ("LambdaLR", "MultiplicativeLR"):
        return FunctionDriver(scheduler, name == "LambdaLR") if scheduler.last_epoch >= 0 else None
    return MembersDriver(scheduler)


@cache
def _torch_class(kind: type) -> type | None:
    """The torch class that one of ours is; None for a user's subclass, and where ours computes rates itself."""
    if not kind.__module__.startswith("fusedsched.") or "get_lr" in kind.__dict__ or class_of(kind) is not None:
        return None
    found = (base for base in kind.__bases__ if base.__module__.startswith("torch.") and base.__name__ == kind.__name__)
    return next(found, None)
