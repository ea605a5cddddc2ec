# SPDX-License-Identifier: Apache-2.0
"""A scheduler that is made of others, as one program: where its rates are counted or written on a device."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from operator import is_not
from typing import Any

from torch import Tensor, full_like
from torch.optim import lr_scheduler as torch_schedulers

from fusedsched.runtime.hyperparameters import Carry, Piece, Target

from ..schedules.compose import Product, Sequence, Shift
from ..schedules.convert import closed_form, lowerable
from ..schedules.evaluate import evaluate
from ..schedules.expression import Schedule
from . import device
from .carrying import pieces_of
from .extending import clock_of
from .forms import form_of
from .rows import Programs
from .saving import write_lr
from .scheduled import Scheduled
from .tracks import copied, same, scalar, table


def holds_others(scheduler: Any) -> bool:
    """Whether it is made of others."""
    return isinstance(scheduler, (torch_schedulers.SequentialLR, torch_schedulers.ChainedScheduler))


def leaves(scheduler: Any) -> list[Any]:
    """Those that are not."""
    if not holds_others(scheduler):
        return [scheduler]
    return [leaf for member in scheduler._schedulers for leaf in leaves(member)]


def turn(scheduler: Any, t: int) -> tuple[Any, int]:
    """Whose turn it is at step t of a SequentialLR, and that member's own step."""
    idx = bisect_right(scheduler._milestones, t)
    return scheduler._schedulers[idx], t - (scheduler._milestones[idx - 1] if idx else 0)


def tables(scheduler: Any) -> list[array] | None:
    """A program for each group; None where one has no closed form, or where a momentum is cycled."""
    groups = device.groups_of(scheduler.optimizer)
    if getattr(scheduler, "_branch", None) is not None:
        stand_in = scheduler._working()
        stand_in._admit_new_groups()
        stand_in._anchor()
        return [table(stand_in._rows(i)) for i in range(len(groups))]
    admit_everywhere(scheduler)
    found = leaves(scheduler)
    ours = all(isinstance(leaf, Scheduled) and form_of(leaf) is not None for leaf in found)
    if not ours or any(getattr(leaf, "cycle_momentum", False) for leaf in found) or not _in_step(scheduler):
        return None
    schedules = [_from_base_or_here(scheduler, i, group["lr"]) for i, group in enumerate(groups)]
    return None if None in schedules else [schedule.lower().table for schedule in schedules]


def admit_everywhere(scheduler: Any) -> None:
    """Takes groups that were added since into all members; those whose turn it is give them their rates."""
    groups = device.groups_of(scheduler.optimizer)
    behind = [leaf for leaf in leaves(scheduler) if isinstance(leaf, Scheduled) and len(leaf.base_lrs) < len(groups)]
    if not behind:
        return
    scheduler._admit_at(clock_of(scheduler))
    rates = [copied(group["lr"]) for group in groups]
    for leaf in behind:
        leaf._admit_new_groups()
    for group, rate in zip(groups, rates, strict=True):
        if not same(group["lr"], rate):
            write_lr(group, rate)


def _from_base_or_here(scheduler: Any, i: int, lr: Any) -> Schedule | None:
    """What a run from the base does to group i; or, where its rate is another one, what follows from that."""
    whole, clock = closed_form(scheduler, i), clock_of(scheduler)
    return whole if whole is None or _is(lr, whole(clock)) else _ahead(scheduler, i, lr)


def _is(lr: Any, value: float) -> bool:
    """Whether a rate is this value, to a rounding of its own."""
    if isinstance(lr, Tensor):
        return scalar(lr) == scalar(full_like(lr, value, device="cpu"))
    return abs(value - lr) <= 1e-9 * abs(lr)


def _ahead(scheduler: Any, i: int, lr: Any) -> Schedule | None:
    """From here on, from the rate `lr`: of a sequence, those that follow start from their base."""
    if isinstance(scheduler, Scheduled):
        return scheduler._ahead(i)
    clock = clock_of(scheduler)
    if isinstance(scheduler, torch_schedulers.ChainedScheduler):  # of which all multiply
        factors = closed_form(scheduler, i, base=1.0)
        left = 0.0 if factors is None else factors(clock)
        return lowerable(Product, (scalar(lr) / left, factors)) if left else None
    idx, (member, local) = bisect_right(scheduler._milestones, clock), turn(scheduler, clock)
    now = _ahead(member, i, lr)
    parts = [now, *(closed_form(later, i) for later in scheduler._schedulers[idx + 1 :])]
    if None in parts:
        return None
    return lowerable(Sequence, (Shift(now, clock - local), *parts[1:]), scheduler._milestones[idx:])


def _in_step(scheduler: Any) -> bool:
    """Whether the members of chains have made the same steps."""
    if not holds_others(scheduler):
        return True
    chain = isinstance(scheduler, torch_schedulers.ChainedScheduler)
    return len({clock_of(m) for m in scheduler._schedulers} if chain else [0]) == 1 and all(
        map(_in_step, scheduler._schedulers)
    )


def programs(scheduler: Any) -> Programs | None:
    """For rates that are numbers; None too if one was written to: the members carry that on each in its own way."""
    found, clock = tables(scheduler), clock_of(scheduler)
    for group, program in zip(device.groups_of(scheduler.optimizer), found or (), strict=False):
        if not _is(group["lr"], evaluate(program, clock)):
            return None
    return None if found is None else Programs(found, list(range(len(found))), [-1] * len(found), "")


def count_to(scheduler: Any, clock: int) -> None:
    """Brings the counters of a scheduler and its members to a step, and no rates."""
    if holds_others(scheduler) and getattr(scheduler, "_branch", None) is not None:
        scheduler._stand_in.__dict__["last_epoch"] = scheduler._stand_in._clock = clock
        if "last_epoch" in scheduler.__dict__:
            scheduler.__dict__["last_epoch"] = clock
    elif isinstance(scheduler, torch_schedulers.SequentialLR):
        begins = (0, *scheduler._milestones)
        for i, member in enumerate(scheduler._schedulers):
            end = begins[i + 1] if i + 1 < len(begins) else clock + 1
            if clock < begins[i]:
                for leaf in leaves(member):
                    leaf.__dict__["last_epoch"] = -1
            elif end > max(begins[i], 0):
                count_to(member, min(clock, end - 1) - begins[i])
        scheduler.__dict__["last_epoch"] = clock
    elif isinstance(scheduler, torch_schedulers.ChainedScheduler):
        for member in scheduler._schedulers:
            count_to(member, clock)
    elif scheduler.__dict__["last_epoch"] != clock:
        scheduler._drop_track()
        scheduler._origins = None
        scheduler._count_to(clock)


class WholeTrack:
    """As a track of one scheduler, for one that is made of others and writes tensors on a device."""

    launched = True

    def __init__(self, scheduler: Any) -> None:
        self.clock, self.steps, self.edited = clock_of(scheduler), 0, False
        self._launch = scheduler._rates.launch
        self._rates = [group["lr"] for group in device.groups_of(scheduler.optimizer)]
        self._watched = _watched(scheduler)
        self._versions = self._present_versions()

    def _present_versions(self) -> list[int]:
        return [0 if lr.is_inference() else lr._version for lr in self._rates]

    def untouched(self, state: dict[str, Any]) -> bool:
        """Whether the tensors, and what the members were told, are the same."""
        groups = device.groups_of(state["_schedulers"][0].optimizer)
        if len(groups) != len(self._rates) or any(g["lr"] is not lr for g, lr in zip(groups, self._rates, strict=True)):
            return False
        now = [attributes.get(name) for attributes, name, _ in self._watched]
        same = not any(map(is_not, now, (value for _, _, value in self._watched)))
        return same and state.get("last_epoch", self.clock) == self.clock

    def step(self, state: dict[str, Any]) -> bool:
        """One step, or False and nothing changed."""
        if not self.untouched(state):
            return False
        self.launch_targets()
        self.clock += 1
        return True

    def move(self, to: int) -> None:
        """To another clock."""
        self.clock = to

    def launch_targets(self) -> None:
        """A launch of the kernel."""
        from torch.autograd.graph import increment_version

        self.edited |= self._present_versions() != self._versions
        self._launch()
        increment_version([lr for lr in self._rates if not lr.is_inference()])
        self._versions = self._present_versions()
        self.steps += 1


def _watched(scheduler: Any) -> list[tuple[dict[str, Any], str, Any]]:
    """The attributes of all leaves from which the program was made, as (attributes, name, object)."""
    found: list[tuple[dict[str, Any], str, Any]] = []
    for leaf in leaves(scheduler) if getattr(scheduler, "_branch", None) is None else ():
        form = form_of(leaf)
        found += [(leaf.__dict__, name, leaf.__dict__.get(name)) for name in (*form.attributes, *form.lists)]
    return found


def track_of(scheduler: Any) -> WholeTrack | None:
    """Tables and a track from where it stands; None where no kernel can write its rates. Waits for the device."""
    place, found = device.placement_of(scheduler.optimizer), tables(scheduler)
    if place is None or found is None:
        return None
    clock = clock_of(scheduler)
    targets = []
    for i, (group, program) in enumerate(zip(device.groups_of(scheduler.optimizer), found, strict=True)):
        pieces = pieces_of(scheduler, i)
        targets.append(None if pieces is None else _carried(Target(group["lr"], program, pieces), clock))
    rates = device.tables(scheduler, targets, place, clock)
    return None if rates is None else WholeTrack(scheduler)


def _carried(target: Target, clock: int) -> Target | None:
    """The target, going on from what its tensor holds; as in csrc/cuda/schedule.cu."""
    lr: Tensor = target.tensor
    value, found = evaluate(target.program, clock), scalar(lr)
    if _is(lr, value):
        return target
    piece: Piece = next(p for p in target.pieces if clock < p.end)
    above, height = found - piece.pivot, value - piece.pivot
    if piece.carry is Carry.DISCARD:
        return target
    if piece.carry is Carry.WAVE:
        passed = math.fmod(clock - piece.low, piece.turn)
        if passed == 0.0:
            gain = 1.0 + above * piece.kick
        else:
            gain = above / height if height else None
        return None if gain is None else target._replace(gain=gain, until=min(piece.end, clock - passed + piece.turn))
    return None if height == 0.0 else target._replace(gain=above / height, until=piece.end)
