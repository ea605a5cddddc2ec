# SPDX-License-Identifier: Apache-2.0
"""Counters of the members of a composite: while its driver steps for them, they are derived from its clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from weakref import ref

from ..schedules.compositions import is_chain, is_composite, is_sequence, leaf_schedulers, takes_metric


class MemberMirror:
    """Derives the counters of the members from the clock of the composite that steps for them."""

    def __init__(self, composite: Any, driver: Any) -> None:
        clock = (
            _reached(composite) if driver.on_device else driver.clock
        )  # a device takes members along that are behind
        self.composite, self.clock, self._busy = ref(composite), clock, False  # clock: the one that members are at

    def install(self) -> None:
        for one in (self.composite(), *members_of(self.composite())):
            if is_composite(one):
                one._arranged = list(one._schedulers), tuple(getattr(one, "_milestones", ()))
            if one is not self.composite():
                one._mirror = self

    def sync(self, name: str) -> None:
        """Brings the members up to date."""
        composite = self.composite()
        driver = None if composite is None else composite._driver or composite._mirror
        if self._busy or driver is None:
            return
        if composite._mirror is not None:
            composite._mirror.sync("last_epoch")
        own = composite.__dict__.get("last_epoch")
        if self.move(composite, driver.clock) and own is not None and not driver.on_device:
            composite.__dict__["last_epoch"] = own  # which the driver, or user code, has written

    def move(self, composite: Any, clock: int) -> bool:
        """Brings the members to a clock; whether they were at another one."""
        if clock == self.clock:
            return False
        self._busy = True
        seek(composite, clock, self.clock)
        self.clock, self._busy = clock, False
        return True

    def changed(self, name: str) -> None:
        """A member was written to."""
        composite = self.composite()
        if composite is not None and composite._driver is None and composite._mirror is not None:
            composite._mirror.changed(name)  # whose decisions are made on devices
        else:
            self.release()

    def release(self) -> None:
        """The members step for themselves again."""
        composite = self.composite()
        if composite is not None and not self._busy:
            composite._detach()


def mirror_of(composite: Any) -> MemberMirror | None:
    """What derives the counters of its members, while its driver steps for them."""
    mirrors = (member._mirror for member in members_of(composite, arranged=True))
    return next((mirror for mirror in mirrors if isinstance(mirror, MemberMirror)), None)


def release_members(composite: Any) -> None:
    """Brings the members up to date, and lets them step for themselves."""
    for one in members_of(composite, arranged=True):
        mirror = one._mirror
        if isinstance(mirror, MemberMirror):
            mirror.sync("last_epoch")
            one._mirror = None
            if mirror.composite() is not composite:
                mirror.release()  # a member of two


def _reached(scheduler: Any) -> int:
    """The clock that its members' counters belong to."""
    if is_sequence(scheduler):
        begun = [
            begin + reached
            for begin, member in zip((0, *scheduler._milestones), scheduler._schedulers, strict=False)
            if (reached := _reached(member)) >= 0
        ]
        return max(begun, default=-1)
    return max(map(_reached, scheduler._schedulers)) if is_chain(scheduler) else scheduler.last_epoch


def members_of(composite: Any, arranged: bool = False) -> list[Any]:
    """All schedulers inside of it, or those that its driver steps for; none inside of one that is no composite."""
    kept = getattr(composite, "_arranged", None) if arranged else None
    inside = [m for m in (kept or [getattr(composite, "_schedulers", ())])[0] if hasattr(m, "_skip_guard")]
    return inside + [m for one in inside if is_composite(one) for m in members_of(one, arranged)]


def own_steps(members: Sequence[Any], milestones: Sequence[int], clock: int) -> Iterator[tuple[Any, int]]:
    """The members of a SequentialLR that is at `clock`, and the steps they are at: -1 for one that has not begun.

    A member that never makes a step is left out.
    """
    begins = (0, *milestones)
    for i, member in enumerate(members):
        begin, end = begins[i], begins[i + 1] if i + 1 < len(begins) else clock + 1
        if clock < begin:
            yield member, -1
        elif end > max(begin, 0):
            yield member, min(clock, end - 1) - begin


def seek(scheduler: Any, clock: int, before: int) -> None:
    """Moves the counters of a scheduler and its members from one of its clocks to another (-1: it has not begun)."""
    if is_sequence(scheduler):
        present, steps = scheduler, {id(member): step for member, step in own_steps(*scheduler._arranged, before)}
        for member, step in own_steps(*scheduler._arranged, clock):
            was = steps.get(id(member), -1)
            if step >= 0:
                present = member  # the last one that has begun
            if step != was:
                seek(member, max(step, 0), was)
            for leaf in leaf_schedulers(member) if step < 0 <= was else ():
                if not takes_metric(leaf):
                    leaf.__dict__["last_epoch"] = -1
        present.__dict__["_last_lr"] = list(scheduler.__dict__["_last_lr"])
        scheduler.__dict__["last_epoch"] = clock
    elif is_chain(scheduler):
        members = scheduler._arranged[0]
        for member in members:
            seek(member, clock, before)
        members[-1].__dict__["_last_lr"] = list(scheduler.__dict__["_last_lr"])
    elif not takes_metric(scheduler):
        if before < 0:
            scheduler.__dict__["last_epoch"] = 0  # which is no step of its own
        scheduler._seek(clock)


def sync_counters(scheduler: Any) -> None:
    """Brings all counters and rates of the host up to date."""
    for one in {id(s): s for s in (scheduler, *leaf_schedulers(scheduler))}.values():
        mirror = getattr(one, "_mirror", None)
        if mirror is not None:
            mirror.sync("last_epoch")
            mirror.sync("_last_lr")
