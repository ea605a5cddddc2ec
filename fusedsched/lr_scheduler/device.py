# SPDX-License-Identifier: Apache-2.0
"""Rates that are tensors on a device: a step is one launch, in a captured graph too (`runtime/hyperparameters.py`).

Any optimizer will do, since the kernel writes the tensors that it reads. As long as no graph advances the counter the
host counts along; from then on its counters are derived from the one on the device when somebody reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, ref

from torch import Tensor
from torch.optim import Optimizer

from fusedsched.runtime import hyperparameters as _rates
from fusedsched.runtime.compile_ops import ReentrancyGuard
from fusedsched.runtime.hyperparameters import Carry, Piece, Place, Rates, Target

from . import carrying
from .rows import Programs

# Those whose steps a graph holds, by optimizer.
_IN_GRAPHS: WeakKeyDictionary[Optimizer, WeakSet[Any]] = WeakKeyDictionary()


def groups_of(optimizer: Any) -> list[dict[str, Any]]:
    """The groups, without bringing them up to date. Wrappers have none of their own and hand them through."""
    groups = optimizer.__dict__.get("param_groups")
    return optimizer.param_groups if groups is None else groups


def is_counted() -> bool:
    """In the place of asking whether a graph is captured: each step is looked at, since a device may count it."""
    return True


def placement_of(optimizer: Any) -> Place | None:
    """Where the rates of all groups lie, if a kernel can write them."""
    return _rates.placement_of(optimizer, groups_of(optimizer))


def tables(scheduler: Any, targets: list[Target | None], place: Place, clock: int) -> Rates | None:
    """The scheduler's tables with these targets, written anew; None where no kernel can write them."""
    found = None if None in targets else _rates.merged(targets)
    if found is None:
        return None
    rates, gate = scheduler._rates, scheduler._gate
    if rates is None or len(rates) != len(found) or rates.place != place or rates.conditional != (gate is not None):
        updates, before = None if gate is None else gate.clocks(place.device), rates
        rates = scheduler._rates = Rates(place, len(found), updates)
        if gate is not None:  # launches have counted on in the old tables, without telling the host
            rates.see(before.seen() if before is not None and before.conditional else gate.seen)
    rates.write(found, [group["lr"] for group in groups_of(scheduler.optimizer)], clock)
    return rates


def momentum_tensor(group: dict[str, Any], slot: str, place: Place) -> Tensor | None:
    """The momentum or beta1 of a group, if a kernel can write it."""
    now = group["betas"][0] if slot == "beta1" else group[slot]
    return now if _rates.writable(now, place.device) else None


def track_arguments(scheduler: Any, programs: Programs, points: list[Any]) -> tuple[Any, ...] | None:
    """(launch, programs, rates, momenta) of a track whose rates a kernel writes; None where none can.

    Momenta that are numbers are the track's to write.
    """
    place = placement_of(scheduler.optimizer)
    if place is None:
        return None
    last, targets = scheduler._last_step(), []
    numbers: list[Any] = []
    momenta = []
    for i, group in enumerate(groups_of(scheduler.optimizer)):
        target = carrying.target_of(scheduler, i, *points[i], scheduler._rows(i))
        targets.append(target and target._replace(program=carrying.ending(target.program, last)))
        index = programs.momenta[i]
        tensor = momentum_tensor(group, programs.momentum, place) if index >= 0 else None
        if tensor is not None:
            piece = Piece(float("inf"), Carry.DISCARD)
            targets.append(Target(tensor, carrying.ending(programs.tables[index], last), (piece,)))
            index = 0
        elif index >= 0:
            numbers.append(programs.tables[index])
            index = len(numbers) - 1
        momenta.append(index)
    rates = tables(scheduler, targets, place, scheduler.__dict__["last_epoch"])
    return None if rates is None else (rates.launch, numbers, [0] * len(momenta), momenta)


@contextmanager
def momenta_kept(optimizer: Any) -> Iterator[None]:
    """torch replaces a momentum that is a tensor by a number; here the tensor gets the number."""
    place = placement_of(optimizer) if isinstance(optimizer, Optimizer) else None
    before = [_momenta(group, place) for group in groups_of(optimizer)] if place is not None else []
    yield
    for group, tensors in zip(groups_of(optimizer) if before else (), before, strict=False):
        for slot, tensor in tensors.items():
            now = group["betas"][0] if slot == "beta1" else group[slot]
            if now is not tensor:
                tensor.fill_(float(now))
                if slot == "beta1":
                    group["betas"] = (tensor, *group["betas"][1:])
                else:
                    group[slot] = tensor


def _momenta(group: dict[str, Any], place: Place) -> dict[str, Tensor]:
    present = [slot for slot, key in (("beta1", "betas"), ("momentum", "momentum")) if key in group]
    found = {slot: momentum_tensor(group, slot, place) for slot in present}
    return {slot: tensor for slot, tensor in found.items() if tensor is not None}


def step(scheduler: Any, capturing: bool) -> bool:
    """The step, if a launch does it. Otherwise a slow one is to come, for which counters are settled."""
    kind, track, follower = type(scheduler).__name__, scheduler._track, scheduler._follower
    if not capturing:
        if follower is not None:
            follower.check_horizon()
        if track is not None and track.launched and track.step(scheduler.__dict__):
            scheduler._stepped()
            return True
        if follower is not None:
            follower.settle()
        return False
    if not scheduler._has_form():
        raise RuntimeError(
            f"{kind}.step() cannot be captured: its rates have no closed form that a kernel knows, and a graph would "
            "repeat the one of now for ever. Give the optimizer a native schedule (fusedsched.schedules.from_function, "
            "from_torch), or step it outside of the graph."
        )
    if track is None or not track.launched or not track.untouched(scheduler.__dict__):
        raise RuntimeError(
            f"{kind}.step() cannot be captured yet: the tables that its kernel reads have to be written before. Call "
            "step() once outside of the graph, after the last change of the scheduler or of param_groups, and capture "
            "then."
        )
    _alone(scheduler)
    _check_momenta(scheduler)
    track.launch_targets()
    scheduler._rates.keep_for_graph()
    if scheduler._follower is None:
        scheduler._follower, scheduler._capturing = Driver(scheduler), is_counted
    return True


def _alone(scheduler: Any) -> None:
    optimizer = scheduler.optimizer
    others = _IN_GRAPHS.setdefault(optimizer, WeakSet())
    if getattr(optimizer, "_followers", None) or any(other is not scheduler for other in others):
        raise RuntimeError(
            f"{type(scheduler).__name__}.step() cannot be captured: another scheduler of the same optimizer already "
            "steps inside a graph, and the rates can follow one. Put them into a SequentialLR or ChainedScheduler."
        )
    others.add(scheduler)


def _check_momenta(scheduler: Any) -> None:
    if not getattr(scheduler, "cycle_momentum", False):
        return
    place, slot = scheduler._rates.place, "beta1" if scheduler.use_beta1 else "momentum"
    if any(momentum_tensor(group, slot, place) is None for group in groups_of(scheduler.optimizer)):
        raise RuntimeError(
            f"{type(scheduler).__name__}.step() cannot be captured: it cycles {slot}, which is a number that a graph "
            f"would keep. Give the optimizer a tensor on {place.device} for it, as for lr, or cycle_momentum=False."
        )


class Driver(ReentrancyGuard):
    """Derives a scheduler's counters from the one on the device. Does not hold it: it holds the driver."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = ref(scheduler)
        self._probe = _rates.capture_probe(scheduler.optimizer, groups_of(scheduler.optimizer))

    def settle(self) -> None:
        """Brings the host up to date. Waits; does nothing while a graph is captured."""
        scheduler = self._scheduler()
        if self._busy or scheduler is None or scheduler._track is None or self.capturing():
            return
        with self.paused():
            clock = scheduler._rates.read()
            if clock != scheduler._track.clock:
                scheduler._move(clock)
            if scheduler._track.edited or scheduler._rates.edited():
                scheduler._rebase(edited=True)

    def capturing(self) -> bool:
        """Whether a graph is being captured."""
        return self._probe is not None and self._probe()

    def see(self, updates: int) -> None:
        """Sets the count of applied updates at its last step."""
        scheduler = self._scheduler()
        if scheduler._rates is not None:
            scheduler._rates.see(updates)

    def check_horizon(self) -> None:
        """Raises RuntimeError if replays went past the last step."""
        if int(self._scheduler()._rates.past_horizon[0]):
            raise RuntimeError("A scheduler inside a captured graph was stepped past its last step.")

    def restart(self) -> None:
        """After the scheduler was loaded or set to another step: tables for where it stands now."""
        scheduler = self._scheduler()
        if not self._busy and scheduler is not None:
            with self.paused():
                scheduler._rebase()
