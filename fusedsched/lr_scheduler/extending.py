# SPDX-License-Identifier: Apache-2.0
"""Another end for a schedule that is under way: which attribute of which scheduler has to become what.

Everything is checked before anything is set. Between its attributes and the present rate a scheduler needs nothing
more: torch's recursion and the closed forms go on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.swa_utils import SWALR

from .forms import swa_zero

ENDS: dict[type, str] = {
    torch_schedulers.CosineAnnealingLR: "T_max",
    torch_schedulers.LinearLR: "total_iters",
    torch_schedulers.PolynomialLR: "total_iters",
    torch_schedulers.ConstantLR: "total_iters",
    SWALR: "anneal_epochs",
    torch_schedulers.OneCycleLR: "total_steps",
}
"""The attribute that says how many steps a class takes."""


def _attribute(s: Any) -> str | None:
    return next((name for cls, name in ENDS.items() if isinstance(s, cls)), None)


def clock_of(s: Any) -> int:
    """The present step, as the host has it; a chain has none of its own."""
    while "last_epoch" not in s.__dict__:
        stand_in = getattr(s, "_stand_in", None)
        s = max(s._schedulers, key=clock_of) if stand_in is None else stand_in
    return s.__dict__["last_epoch"]


def _begin(s: Any) -> int:
    """The step from which a scheduler counts."""
    return swa_zero(s) if isinstance(s, SWALR) and s.last_epoch >= 0 else 0


def end_of(s: Any) -> float | None:
    """The step at which it arrives; None if it goes on for ever."""
    branch = getattr(s, "_branch", None)
    if branch is not None:
        return branch.end
    if isinstance(s, torch_schedulers.SequentialLR):
        end = end_of(s._schedulers[-1])
        return None if end is None else end + (s._milestones or [0])[-1]
    if isinstance(s, torch_schedulers.ChainedScheduler):
        return max((end for end in map(end_of, s._schedulers) if end is not None), default=None)
    attribute = _attribute(s)
    return None if attribute is None else _begin(s) + getattr(s, attribute)


def extension(s: Any, total_steps: int, before: int = 0) -> list[Callable[[], Any]]:
    """What to call so that the scheduler arrives at this step of its own; `before`: steps of those that went before it.

    Raises TypeError where there is no end, ValueError where the step is none.
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
        return [partial(s._move_end, total_steps)]
    if isinstance(s, torch_schedulers.SequentialLR):
        begin = (s._milestones or [0])[-1]
        if total_steps <= begin:
            raise ValueError(
                f"Invalid total_steps: {total_steps + before}. The last member of {kind} begins at step "
                f"{begin + before}, and its end is what extend() moves; give a later one."
            )
        return extension(s._schedulers[-1], total_steps - begin, before + begin)
    if isinstance(s, torch_schedulers.ChainedScheduler):
        last = [member for member in s._schedulers if end_of(member) == end]  # a warmup in the chain stays one
        return [change for member in last for change in extension(member, total_steps, before)]
    if isinstance(s, torch_schedulers.OneCycleLR):
        return [partial(s.__dict__.update, _stretched(s, total_steps, before))]
    _refuse_arrived(kind, not isinstance(s, torch_schedulers.CosineAnnealingLR) and now >= end, end + before)
    return [partial(setattr, s, _attribute(s), total_steps - _begin(s))]


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
