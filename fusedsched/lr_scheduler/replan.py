# SPDX-License-Identifier: Apache-2.0
"""Plans that change while they run: another end (`extend`), or a decay from here on (`branch`).

Both leave the present rates as they are: what the new plan has there is their edit. A graph that was captured follows
at its next replay, since what changes are tables in device memory. See docs/live-plans.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from fusedsched.schedules.arguments import final_level, one_of

from ..schedules.compose import Sequence
from ..schedules.compositions import branches_found_by, is_chain, is_sequence
from ..schedules.edit import NO_EDIT, EditKind, EditRule, apply, edited
from ..schedules.expression import Schedule, Segment
from ..schedules.torch_classes import CLASSES, swa_begin, torch_name
from ..schedules.warmups import DECAYS
from .building import reattach
from .devices import refuse_capture
from .driver import near, write_lr
from .inputs import clock_of
from .member_counters import sync_counters
from .param_groups import add_groups, shared
from .watched_values import copied, scalar

branches_found_by(lambda scheduler: getattr(scheduler, "_branch", None))


class Branch:
    """Group i had the rate `start[i]` at step `begin`; it has `final[i]` at step `end`, and holds it.

    `ratio`: the finals as parts of the starts, if they were given so. `earlier`: branches that this one cut short.
    `clock`: the present step, for a scheduler that has no counter of its own.
    """

    __slots__ = ("begin", "end", "decay", "start", "final", "ratio", "earlier", "clock")

    def __init__(self, **plain: Any) -> None:
        for key in self.__slots__:
            setattr(self, key, copy.copy(plain[key]))

    def saved(self, scheduler: Any) -> dict[str, Any]:
        """Plain data: the arguments of the constructor, but that the earlier ones are such data too."""
        self.clock = clock_of(scheduler)
        plain = {key: copy.copy(getattr(self, key)) for key in self.__slots__}
        return {**plain, "earlier": [branch.saved(scheduler) for branch in self.earlier]}

    @classmethod
    def loaded(cls, saved: dict[str, Any]) -> Branch:
        """What `saved` wrote."""
        return cls(**{**saved, "earlier": list(map(cls.loaded, saved["earlier"]))})

    def __copy__(self) -> Branch:
        twin = Branch(**{key: getattr(self, key) for key in self.__slots__})
        twin.earlier = list(map(copy.copy, self.earlier))
        return twin

    def _way(self, start: float, final: float) -> Segment:
        shape, param = DECAYS[self.decay]
        return Segment(shape, span=self.end - self.begin, start=start, stop=final, param=param)

    def _from(self, before: Any, start: float, final: float) -> Schedule:
        return Sequence((before, self._way(start, final), final), (self.begin, self.end))

    def edit_rule(self, i: int) -> EditRule:
        """An edit changes the height of the way, never its end; after that it is held."""
        return EditRule(EditKind.SCALE_OR_KEEP, self.final[i])

    def alone(self, i: int) -> Schedule:
        """What a driver runs on: where the way has no height, one that an edit can scale."""
        start, final = self.start[i], self.final[i]
        start = start if start != final else final + 1.0
        return self._from(start, start, final)

    def after(self, before: Schedule, i: int) -> Schedule:
        """What its scheduler does to group i: `before`, then the branches."""
        for branch in (*self.earlier, self):
            if i < len(branch.start):  # else the group was not there yet
                before = branch._from(before, branch.start[i], branch.final[i])
        return before

    def first_begin(self) -> int:
        """The step up to which its scheduler did what its class does."""
        return (self.earlier or [self])[0].begin

    def final_of(self, i: int, start: float) -> float:
        """The final rate of group i; that of all others, if it was given none. Raises ValueError where they differ."""
        where = "call scheduler.branch() again, with one for each group,"
        if i < len(self.final):
            return self.final[i]
        if self.ratio is not None:
            return start * shared("final_ratio", self.ratio, i + 1, where)
        return shared("final", self.final, i + 1, where)

    def add_groups(self, scheduler: Any) -> None:
        """New groups decay from the rates that they bring."""
        for i, group in enumerate(scheduler.optimizer.param_groups):
            if i >= len(self.start):
                rate = scalar(group["lr"])
                self.final = [*self.final, self.final_of(i, rate)]
                self.start = [*self.start, rate]

    def move_end(self, now: int, end: int) -> None:
        """Continues from the rates of now, so that it arrives at step `end`."""
        left, self.end = self._left(now), end
        ratio = left / self._left(now)
        if ratio != 1.0:
            self.start = [f + (s - f) * ratio for s, f in zip(self.start, self.final, strict=True)]

    def _left(self, t: float) -> float:
        """How much of the way is left at step t, from 1 to 0."""
        return self._way(1.0, 0.0)(t - self.begin) if t > self.begin else 1.0


def step_in_branch(scheduler: Any, epoch: float | None) -> None:
    """A step, or one to `epoch`, where no driver can: between whole steps."""
    branch, groups = scheduler._branch, scheduler.optimizer.param_groups
    add_groups(scheduler)
    now = clock_of(scheduler)
    time = now + 1 if epoch is None else epoch
    for i, group in enumerate(groups):
        way, rule, edit, rate = branch.alone(i), branch.edit_rule(i), NO_EDIT, scalar(group["lr"])
        if epoch is not None:
            way = branch._from(branch.start[i], branch.start[i], branch.final[i])
        elif not near(group["lr"], way(now)):
            edit = edited(edit, rule, now, way(now), rate)
        write_lr(group, apply(edit, rule, time, way(time)))
    scheduler._last_lr = [copied(group["lr"]) for group in groups]
    branch.clock = clock = time
    if "last_epoch" in scheduler.__dict__:
        scheduler.last_epoch = clock


def extend(scheduler: Any, total_steps: int) -> None:
    """Moves the end of a scheduler; `SchedulerMixin.extend` says what that is."""
    refuse_capture(scheduler, "extend()")
    sync_counters(scheduler)
    changes = _extension(scheduler, _step_count("total_steps", total_steps, "the length of the whole run"))
    scheduler._detach()
    add_groups(scheduler)
    for change in changes:
        change()
    reattach(scheduler)


def branch(scheduler: Any, steps: int, final: Any, decay: str, final_ratio: Any) -> None:
    """Starts a branch; `SchedulerMixin.branch` says what that is."""
    refuse_capture(scheduler, "branch()")
    sync_counters(scheduler)
    begin, steps = clock_of(scheduler), _step_count("steps", steps, "how many steps the decay takes")
    if type(begin) is not int:
        raise ValueError(f"The scheduler is at last_epoch={begin}. A branch begins at a whole step.")
    one_of("decay", decay, tuple(DECAYS))
    if final is not None and final_ratio is not None:
        raise ValueError(f"Got both final={final} and final_ratio={final_ratio}. Give one of them.")
    given, ratios = _each(scheduler, "final", final), _each(scheduler, "final_ratio", final_ratio)
    rates = [scalar(group["lr"]) for group in scheduler.optimizer.param_groups]
    finals = [
        final_level("final", value, ratio, of=rate, default=0.0)
        for value, ratio, rate in zip(given, ratios, rates, strict=True)
    ]
    scheduler._detach()
    before = scheduler._branch
    scheduler._branch = Branch(
        begin=begin,
        end=begin + steps,
        decay=decay,
        start=rates,
        final=finals,
        ratio=None if final_ratio is None else ratios,
        earlier=[] if before is None else [*before.earlier, before],
        clock=begin,
    )
    add_groups(scheduler)
    scheduler._edits = None
    reattach(scheduler)


def _step_count(name: str, number: Any, what: str) -> int:
    """A positive integer."""
    if isinstance(number, bool) or not hasattr(number, "__index__") or number.__index__() < 1:
        raise ValueError(f"Invalid {name}: {number!r}. It must be an integer of 1 or more: {what}.")
    return number.__index__()


def _each(scheduler: Any, name: str, number: Any) -> list[Any]:
    """One for each group."""
    count = len(scheduler.optimizer.param_groups)
    if not isinstance(number, (list, tuple)):
        return [number] * count
    if len(number) != count:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. "
            f"{name} has {len(number)} values, param_groups has {count}."
        )
    return list(number)


def _end_attribute(s: Any) -> str | None:
    return getattr(CLASSES.get(torch_name(type(s)) or ""), "end", None)


def _begin(s: Any) -> int:
    """The step from which a scheduler counts."""
    return swa_begin(s) if torch_name(type(s)) == "SWALR" and s.last_epoch >= 0 else 0


def end_of(s: Any) -> float | None:
    """The step at which it arrives; None if it has no end."""
    branch = getattr(s, "_branch", None)
    if branch is not None:
        return branch.end
    if is_sequence(s) and (end := end_of(s._schedulers[-1])) is not None:
        return end + (s._milestones or [0])[-1]
    if is_chain(s):
        return max((end for end in map(end_of, s._schedulers) if end is not None), default=None)
    attribute = _end_attribute(s)
    return None if attribute is None else _begin(s) + getattr(s, attribute)


def _extension(s: Any, total_steps: int, before: int = 0) -> list[Callable[[], Any]]:
    """What to call so that the scheduler arrives at this step of its own; `before`: steps of those that went before it.

    Raises TypeError where there is no end, ValueError where the step is none. Nothing is changed here.
    """
    kind, end, now = type(s).__name__, end_of(s), clock_of(s)
    branch = getattr(s, "_branch", None)
    if end is None:
        raise TypeError(
            f"{kind} goes on for as long as it is stepped: there is no end that extend() could move. "
            "branch(steps=...) lets the rates decay from here and gives it one."
        )
    if total_steps <= max(now, 0):
        raise ValueError(
            f"Invalid total_steps: {total_steps + before}. {kind} stands at step {max(now, 0) + before}; "
            "give a later one. It is the length of the whole run, not of what is left."
        )
    if branch is not None:
        _refuse_arrived(kind, now >= end, end + before)
        return [partial(branch.move_end, now, total_steps)]
    if is_sequence(s):
        begin = (s._milestones or [0])[-1]
        if total_steps <= begin:
            raise ValueError(
                f"Invalid total_steps: {total_steps + before}. The last member of {kind} begins at step "
                f"{begin + before}, and its end is what extend() moves; give a later one."
            )
        return _extension(s._schedulers[-1], total_steps - begin, before + begin)
    if is_chain(s):
        last = [member for member in s._schedulers if end_of(member) == end]  # a warmup in the chain stays one
        return [change for member in last for change in _extension(member, total_steps, before)]
    if torch_name(type(s)) == "OneCycleLR":
        return [partial(s.__dict__.update, _stretched(s, total_steps, before))]
    _refuse_arrived(kind, torch_name(type(s)) != "CosineAnnealingLR" and now >= end, end + before)
    return [partial(setattr, s, _end_attribute(s), total_steps - _begin(s))]


def _refuse_arrived(kind: str, arrived: bool, end: float) -> None:
    if arrived:
        raise ValueError(
            f"{kind} has been at its end since step {end:g}: there is nothing left to extend. "
            "branch(steps=..., final=...) goes somewhere else from here."
        )


def _stretched(s: Any, total_steps: int, before: int) -> dict[str, Any]:
    """The attributes of a OneCycleLR of another length: what lies ahead of it is stretched in proportion.

    That is a scaling of time around the present step, or around the peak while it climbs there: the way up keeps its
    pace. Phases that are over move along, since each begins where the one before it ends.
    """
    phases, now = s._schedule_phases, max(s.last_epoch, 0)
    ends = [phase["end_step"] for phase in phases]
    pivot = ends[0] if 0 < now < ends[0] else now
    last = total_steps - 1
    _refuse_arrived("OneCycleLR", ends[-1] <= pivot, ends[-1] + before)
    if last <= pivot:
        until = "is at the last step of such a run" if pivot == now else f"climbs until step {pivot + before:g}"
        raise ValueError(
            f"Invalid total_steps: {total_steps + before}. {type(s).__name__} {until}; give more than "
            f"{pivot + before + 1:g}, so that there is room for the way down."
        )
    factor = (last - pivot) / (ends[-1] - pivot)
    moved = [*(pivot + (end - pivot) * factor for end in ends[:-1]), float(last)]
    return {
        "total_steps": total_steps,
        "_schedule_phases": [{**phase, "end_step": end} for phase, end in zip(phases, moved, strict=True)],
    }
