# SPDX-License-Identifier: Apache-2.0
"""A closed form at work: where it starts for each group, and the track and the programs that follow from that."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from fusedsched.runtime.hyperparameters import Piece

from . import captured, device
from .carrying import piece_of
from .forms import Form, form_of, swa_zero
from .rows import HORIZON, Programs, Row
from .tracks import same, scalar, table, track_class


class Origins(NamedTuple):
    """Where the closed form of each group starts, (clock, rate), and the settings under which that is so.

    Without any, it starts where the scheduler stands, from the rate that it wrote last.
    """

    points: list[tuple[int, float]]
    settings: tuple[Any, ...]


class ClosedForm:
    """Mixin: what has `optimizer`, `last_epoch` and `_last_lr` in its `__dict__` moves along the rows of a form."""

    __slots__ = ()  # those who use it have _track, _origins, and _clock: last_epoch as we left it

    _counts_steps = True  # CosineAnnealingWarmRestarts has a step of its own, which does not

    def _form(self) -> Form | None:
        return form_of(self)

    def _piece(self, i: int) -> Piece | None:
        """How an edit of group i goes on where a kernel finds it."""
        return piece_of(self, i)

    def _drop_track(self, edited: bool = False) -> None:
        """Without a track; and without origins either if somebody set `last_epoch`, or a kernel carried an edit on."""
        if self._track is not None:
            self._show_rates()
            self._clock = self._track.clock
            if edited or (self._track.launched and self._track.edited):
                self._origins = None
            self._track = None
        if self.__dict__.get("last_epoch") != self._clock:
            self._origins = None

    def _mark(self) -> None:
        """Notes (last_epoch, rate) as the origin of every group."""
        form = self._form()
        self._origins, self._clock = None, self.last_epoch
        if form is None or type(self.last_epoch) is not int:
            return
        points = []
        for i, group in enumerate(self.optimizer.param_groups):
            now = scalar(group["lr"])
            if self.last_epoch == 0 and isinstance(group["lr"], torch.Tensor):
                exact = form.first(self, i, scalar(self.base_lrs[i]))
                if scalar(torch.full_like(group["lr"], exact)) == now:
                    now = exact  # the tensor rounded it; later rates need not inherit that
            points.append((self.last_epoch, now))
        self._origins = Origins(points, self._settings())

    def _settings(self) -> tuple[Any, ...]:
        """What the origins are good for: another value of one of these makes them void."""
        if self._branch is not None:
            return self._branch.settings()
        form = self._form()
        if form is None:
            return ()
        values = [self.__dict__.get(name) for name in form.attributes]
        values += [_frozen(self.__dict__.get(name)) for name in form.lists]
        if isinstance(self, torch.optim.swa_utils.SWALR):
            groups = self.optimizer.param_groups[: len(self.base_lrs)]
            values += [swa_zero(self), *(scalar(group["swa_lr"]) for group in groups)]
        return tuple(values)

    def _known(self) -> bool:
        return self._origins is not None and self._origins.settings == self._settings()

    def _saved_points(self) -> list[tuple[int, float]] | None:
        """The origins that a copy starts from as well; None where they are void, as after somebody set `last_epoch`."""
        clock = self._clock if self._track is None else self._track.clock
        return self._origins.points if self.__dict__.get("last_epoch") == clock and self._known() else None

    def _untouched(self) -> bool:
        """Whether every group has what this scheduler wrote last; says no at the first that has not."""
        groups, last, clock = self.optimizer.param_groups, self._last_lr, self.last_epoch
        if type(clock) is not int or clock < 0 or len(groups) < len(last):
            return False
        for group, old in zip(groups, last, strict=False):
            if not same(group["lr"], old):
                return False
        return True

    def _anchor(self) -> None:
        """Notes new origins, unless those that are known lead to what the groups have now."""
        if self._known() and self._untouched():
            pairs = zip(self._origins.points, self.optimizer.param_groups, strict=False)
            # Those of the present step may be of an edit, which another one has taken back since.
            if all(t != self.last_epoch or same(group["lr"], x) for (t, x), group in pairs):
                return
        self._mark()

    def _rows(self, i: int) -> list[Row] | None:
        form, (t, x) = self._form(), self._origins.points[i]
        return None if form is None else form.rows(self, i, t, x)

    def _tables(self) -> Programs | None:
        """Programs from the origins; None where some group has no closed form."""
        form, groups = self._form(), self.optimizer.param_groups
        if form is None or self._origins is None or len(groups) != len(self._origins.points):
            return None
        if not self.__dict__.keys().isdisjoint(("get_lr", "_get_closed_form_lr", "_update_lr")):
            return None
        cycled = form.momentum is not None and self.cycle_momentum
        programs: dict[bytes, int] = {}
        tables, rates, momenta = [], [], []
        for i in range(len(groups)):
            for rows, indices in ((self._rows(i), rates), (form.momentum(self, i) if cycled else [], momenta)):
                if rows is None:
                    return None
                flat = table(rows)
                index = programs.setdefault(flat.tobytes(), len(tables)) if rows else -1
                if index == len(tables):
                    tables.append(flat)
                indices.append(index)
        slot = ("beta1" if self.use_beta1 else "momentum") if cycled else ""
        return Programs(tables, rates, momenta, slot)

    def _build_track(self) -> Any:
        """A track from the origins, standing at `last_epoch`; None where some group has no closed form."""
        programs, form = self._tables(), self._form()
        if programs is None:
            return None
        if self._branch is not None and device.placement_of(self.optimizer) is not None:
            programs = self._branch.holding_momentum(self, programs)  # captured graphs go on writing the tensors
        launched = device.track_arguments(self, programs, self._origins.points)
        launch, *rates = launched or (None, *programs[:3])
        return track_class()(
            self.__dict__,
            self.__dict__["_step_count"] if self._counts_steps else -1,
            self._last_step(),
            *rates,
            "betas" if programs.momentum == "beta1" else programs.momentum,
            [*form.attributes, "get_lr"],  # which somebody may put into the object later on
            list(form.lists),
            list(form.keys),
            launch,
        )

    def _last_step(self) -> int:
        if self._branch is not None:
            return -1
        return self.total_steps if isinstance(self, torch.optim.lr_scheduler.OneCycleLR) else -1

    def _keep(self, track: Any) -> None:
        self._track = track
        if track is not None and track.launched and self._gate is not None and self._follower is None:
            self._follower = device.Driver(self)
        counted = self._gate is not None or self._follower is not None
        self._capturing = device.is_counted if counted else captured.may_capture(self.optimizer)

    def _from_here(self) -> Programs | None:
        """Programs from where it stands, for a captured graph."""
        self._anchor()  # goes on from what was written, as torch's recursion does
        programs = self._tables()
        for table_ in [] if programs is None else programs.tables:
            table_[HORIZON] = float(self._last_step())
        return programs


def _frozen(container: Any) -> Any:
    if isinstance(container, dict):
        return tuple(sorted(container.items()))
    return None if container is None else tuple(map(scalar, container))
