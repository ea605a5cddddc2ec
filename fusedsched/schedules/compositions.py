# SPDX-License-Identifier: Apache-2.0
"""What a scheduler object does, as a schedule: one class, composites of several, and branches.

`schedule_of` starts at step 0 and the base rate; `edit_rules_of` says how a write to the rate is continued. A driver
runs on both. Nothing here imports torch.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from .arguments import is_number
from .compose import Product, Sequence
from .edit import EditKind, EditRule
from .evaluate import Shape
from .expression import Schedule, Segment
from .torch_classes import METHODS, TorchClass, class_of, torch_name

_BRANCHES: list[Callable[[Any], Any]] = []


def branches_found_by(function: Callable[[Any], Any]) -> None:
    """The function says in which branch a scheduler is, or None: a class of torch has none."""
    _BRANCHES[:] = [function]


def branch_of(scheduler: Any) -> Any:
    """The branch that a scheduler is in, or None."""
    return _BRANCHES[0](scheduler) if _BRANCHES else None


class AtStart:
    """A scheduler as it was at step 0, for functions that only read: its attributes, but for those that count."""

    def __init__(self, scheduler: Any) -> None:
        vars(self).update(vars(scheduler), last_epoch=0, _step_count=1, T_cur=0)
        self.T_i = getattr(scheduler, "T_0", None)
        self._scheduler = scheduler

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_scheduler"], name)  # what the class has


def is_sequence(scheduler: Any) -> bool:
    """Whether it is a SequentialLR."""
    return torch_name(type(scheduler)) == "SequentialLR"


def is_chain(scheduler: Any) -> bool:
    """Whether it is a ChainedScheduler."""
    return torch_name(type(scheduler)) == "ChainedScheduler"


def is_composite(scheduler: Any) -> bool:
    """Whether it is made of other schedulers."""
    return torch_name(type(scheduler)) in _COMPOSITES


_COMPOSITES = ("SequentialLR", "ChainedScheduler")


def leaf_schedulers(scheduler: Any) -> list[Any]:
    """The schedulers that a composite is made of in the end; a scheduler that is none is its own."""
    leaves, left = [], [scheduler]
    while left:
        one = left.pop()
        if torch_name(type(one)) in _COMPOSITES:
            left += reversed(one._schedulers)
        else:
            leaves.append(one)
    return leaves


def active_member(scheduler: Any, clock: int) -> tuple[Any, int]:
    """The member of a SequentialLR that makes step `clock`, and that member's own step."""
    k = bisect_right(scheduler._milestones, clock)
    return scheduler._schedulers[k], clock - (scheduler._milestones[k - 1] if k else 0)


def base_of(scheduler: Any, i: int) -> float:
    """The base rate of a group."""
    return float(scheduler.base_lrs[i])


def combined(kind: type[Schedule], *parts: Any) -> Schedule | None:
    """The composition; None where its parts are too odd to be put together in rows."""
    try:
        whole = kind(*(tuple(part) for part in parts))
        whole.lower()
        return whole
    except ValueError:
        return None


def schedule_of(scheduler: Any, i: int, base: float | None = None) -> Schedule | None:
    """What a scheduler does to group i from its step 0 and the base rate on, its branches included.

    `base`: another base rate, for classes that multiply it. None where it has no schedule.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    >>> schedule_of(torch.optim.lr_scheduler.StepLR(opt, step_size=2, gamma=0.5), 0).curve(5)
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    branch, own = branch_of(scheduler), _own_schedule(scheduler, i, base)
    if branch is None or own is None:
        return own
    return branch.after(own, i) if base is None else None


def _own_schedule(scheduler: Any, i: int, base: float | None) -> Schedule | None:
    kind = type(scheduler)
    if is_composite(scheduler) and not kind.__module__.startswith(("torch.optim.", "fusedsched.")):
        return None
    if is_sequence(scheduler):
        parts = [_part(member, i, k > 0) for k, member in enumerate(scheduler._schedulers)]
        return None if None in parts or base is not None else combined(Sequence, parts, scheduler._milestones)
    if is_chain(scheduler):
        factors = [_factor(member, i) for member in scheduler._schedulers]
        start = float(scheduler.optimizer.param_groups[i]["initial_lr"]) if base is None else base
        return None if None in factors else combined(Product, (start, *factors))
    return leaf_schedule(AtStart(scheduler), class_of(kind), i, base)


def leaf_schedule(scheduler: Any, entry: TorchClass | None, i: int, base: float | None = None) -> Schedule | None:
    """The schedule of one class from the scheduler's present counters."""
    if entry is None or not scheduler.__dict__.keys().isdisjoint(METHODS):
        return None
    base = base_of(scheduler, i) if base is None else base
    try:
        return entry.schedule(scheduler, i, base) if math.isfinite(base) else None
    except ValueError:
        return None  # numbers that no row can hold


def _part(member: Any, i: int, late: bool) -> Schedule | None:
    """A member of a SequentialLR; `late`: it begins at a milestone, where torch takes the closed form of step 0."""
    name = torch_name(type(member))
    if takes_metric(member):
        return Segment(Shape.CONSTANT, start=float(member.optimizer.param_groups[i]["initial_lr"]))
    if late and name == "SWALR":
        return None  # it begins at the rate that the member before it leaves
    if late and name == "ConstantLR" and is_number(member.total_iters) and member.total_iters <= 0:
        return Segment(Shape.CONSTANT, start=base_of(member, i)) if class_of(type(member)) is not None else None
    return schedule_of(member, i)


def _factor(member: Any, i: int) -> Schedule | None:
    """What a member of a chain multiplies the rate by; None if it does anything else."""
    if branch_of(member) is not None:
        return None
    if is_chain(member):
        return schedule_of(member, i, base=1.0)
    entry = class_of(type(member))
    if entry is None or not entry.multiplies or getattr(member, "factor", 1.0) == 0.0:
        return None  # ConstantLR(factor=0) returns to the base rate, which is no multiple of zero
    return schedule_of(member, i, base=1.0)


def edit_rules_of(scheduler: Any, i: int) -> tuple[EditRule, ...] | None:
    """How edits of group i are continued, in the order of their ends; None where only torch's own code knows.

    A SequentialLR forgets edits at its milestones.
    """
    branch = branch_of(scheduler)
    if branch is not None:
        return (branch.edit_rule(i),)
    kind = torch_name(type(scheduler))
    if kind == "ChainedScheduler":
        found = [edit_rules_of(member, i) for member in scheduler._schedulers]
        scaling = all(r is not None and len(r) == 1 and r[0].kind == EditKind.SCALE_OR_KEEP for r in found)
        return found[0] if scaling else None
    if kind != "SequentialLR":
        if takes_metric(scheduler):
            return (EditRule(EditKind.HOLD),)
        entry = class_of(type(scheduler))
        rule = None if entry is None else entry.edit_rule(scheduler, i, base_of(scheduler, i))
        return None if rule is None else (rule,)
    rules: list[EditRule] = []
    begins = (0, *scheduler._milestones)
    for k, member in enumerate(scheduler._schedulers):
        found, begin = edit_rules_of(member, i), begins[k]
        end = begins[k + 1] if k + 1 < len(begins) else math.inf
        if found is None or is_degenerate(found[0], member, i):
            return None
        for rule in found:
            rules.append(rule._replace(end=min(rule.end + begin, end), low=rule.low + begin))
            if rule.end + begin >= end:
                break
    return tuple(rules)


def is_degenerate(rule: EditRule, scheduler: Any, i: int) -> bool:
    """Whether the schedule from the base is always at the pivot, so that an edit finds nothing to scale."""
    if rule.kind not in (EditKind.SCALE_OR_KEEP, EditKind.SCALE_OR_DROP) or is_sequence(scheduler):
        return False
    base = scheduler.optimizer.param_groups[i]["initial_lr"] if is_chain(scheduler) else scheduler.base_lrs[i]
    return float(base) == rule.pivot


def driving_schedule(scheduler: Any, i: int, rules: tuple[EditRule, ...] | None) -> Schedule | None:
    """The schedule that a driver runs on, from the scheduler's present counters; None where there is none.

    It is the one from the base, or where that is always at the pivot, one that is not: the present rate, an edit,
    scales it to what it should be.
    """
    branch = branch_of(scheduler)
    if branch is not None:
        return branch.alone(i)
    if rules is None:
        return None
    base = rules[0].pivot + 1.0 if is_degenerate(rules[0], scheduler, i) else None
    if is_composite(scheduler):
        return schedule_of(scheduler, i, base)
    return leaf_schedule(scheduler, class_of(type(scheduler)), i, base)


def takes_metric(scheduler: Any) -> bool:
    """Whether its `step` takes a metric."""
    return getattr(scheduler, "_follows_metric", False) or torch_name(type(scheduler)) == "ReduceLROnPlateau"
