# SPDX-License-Identifier: Apache-2.0
"""Counters of the members of a composite: while its driver steps for them, they are derived from its clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from weakref import ref

from ..schedules.compositions import is_chain, is_composite, is_sequence, leaf_schedulers, takes_metric


class MemberMirror:
    """Derives the counters of the members from the clock of the composite that steps for them."""

    def __init__(self, composite: Any, clock: int) -> None:
        self.composite, self._clock, self._busy = ref(composite), clock, False

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
        clock = driver.clock
        if clock != self._clock:
            self._busy, own = True, composite.__dict__.get("last_epoch")
            seek(composite, clock)
            self._clock, self._busy = clock, False
            if own is not None and not driver.on_device:
                composite.__dict__["last_epoch"] = own  # which the driver, or user code, has written

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


def release_members(composite: Any) -> None:
    """Brings the members up to date, and lets them step for themselves."""
    for one in members_of(composite, arranged=True):
        mirror = one._mirror
        if isinstance(mirror, MemberMirror):
            mirror.sync("last_epoch")
            one._mirror = None
            if mirror.composite() is not composite:
                mirror.release()  # a member of two


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


def seek(scheduler: Any, clock: int) -> None:
    """Derives the counters of a scheduler and its members from its clock."""
    if is_sequence(scheduler):
        present = scheduler
        for member, step in own_steps(*scheduler._arranged, clock):
            if step >= 0:
                seek(member, step)
                present = member  # the last one that has begun
                continue
            for leaf in leaf_schedulers(member):
                if not takes_metric(leaf):
                    leaf.__dict__["last_epoch"] = -1
        present.__dict__["_last_lr"] = list(scheduler.__dict__["_last_lr"])
        scheduler.__dict__["last_epoch"] = clock
    elif is_chain(scheduler):
        members = scheduler._arranged[0]
        for member in members:
            seek(member, clock)
        members[-1].__dict__["_last_lr"] = list(scheduler.__dict__["_last_lr"])
    elif not takes_metric(scheduler) and scheduler.__dict__["last_epoch"] != clock:
        scheduler._seek(clock)
