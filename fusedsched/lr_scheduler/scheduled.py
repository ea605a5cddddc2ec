# SPDX-License-Identifier: Apache-2.0
"""What our schedulers add to torch's: closed form between edits, groups that join late, resuming, loading.

The slow path is torch's own inherited `step`. Nothing of ours lives in `__dict__`, which torch turns into the state
dict: the slots below are rebuilt, copied or saved by the methods here.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch.compiler import is_dynamo_compiling

from .._order import order_known
from . import captured, saving
from .forms import form_of, swa_zero
from .joining import join
from .rows import HORIZON, Row
from .traced import traced_step
from .tracks import same, scalar, table, track_class

# Optimizer -> the rates that schedulers built with last_epoch= wrote last, and their classes. One of another class
# multiplies, as it would have done in the run that is resumed; one of the same class is a second try.
_RESUMED: WeakKeyDictionary[torch.optim.Optimizer, tuple[list[float], list[type]]] = WeakKeyDictionary()


class Origins(NamedTuple):
    """Where the closed form of each group starts, (clock, rate), and the settings under which that is so.

    Without any, it starts where the scheduler stands, from the rate that it wrote last.
    """

    points: list[tuple[int, float]]
    settings: tuple[Any, ...]


class Scheduled(saving.Restored):
    """Mixin in front of a torch scheduler class that computes rates from `last_epoch`."""

    __slots__ = ("_track", "_origins", "_clock", "_capturing")

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._track = None
        self._origins = None
        self._clock = None  # last_epoch as we left it
        self._capturing = None  # asks whether a graph is being captured, where there may be one
        return self

    def step(self, epoch: Any = None) -> None:
        """Advances by one step, or to `epoch` (deprecated, as in torch); call it after `optimizer.step()`."""
        if is_dynamo_compiling():
            with torch.no_grad():  # Dynamo passes by methods that do not name torch, and traces what they call
                return traced_step(self, epoch)
        if epoch is None:
            track = self._track
            if track is not None and (self._capturing is None or not self._capturing()) and track.step(self.__dict__):
                return
            if captured.step(self) or self._step_on_new_track():
                return
        else:
            captured.refuse(self, "step(epoch)")
        with captured.paused(self):
            self._step_as_torch(epoch)

    def _step_as_torch(self, epoch: Any) -> None:
        self._admit_new_groups()  # now, since torch counts the step before it comes to _update_lr
        with order_known(self):
            super().step(epoch)

    def _step_on_new_track(self) -> bool:
        """The step, if closed form holds: nothing was edited since this scheduler's last write."""
        if form_of(self) is None:
            return False
        self._drop_track()
        # The first steps are torch's: it sets up in them, and warns about the order of calls.
        if self._is_initial or self._step_count == 1 or not self._untouched():
            return False
        self._admit_new_groups()
        if not self._known():
            self._mark()
        track = self._build_track()
        if track is None or not track.step(self.__dict__):
            return False
        self._track, self._capturing = track, captured.may_capture(self.optimizer)
        return True

    def _update_lr(self, epoch: Any = None) -> None:
        """torch's own step, from whatever the groups have now."""
        if form_of(self) is None:
            self._admit_new_groups()
            super()._update_lr(epoch)
            return
        self._drop_track()
        self._admit_new_groups()
        first = epoch is None and not self._is_initial and self._known() and self._untouched()
        super()._update_lr(epoch)
        self._clock = self.last_epoch
        if first:
            track = self._build_track()
            if track is not None:
                track.write(self.__dict__)  # the same to a rounding; no later step starts from that rounding
        elif self.last_epoch == 0:
            self._mark()
        else:
            self._origins = None  # noted when the next step comes and finds the rates as they are now

    def _drop_track(self) -> None:
        """Without a track; and without origins either if somebody set `last_epoch`."""
        if self._track is not None:
            self._clock = self._track.clock
            self._track = None
        if self.__dict__.get("last_epoch") != self._clock:
            self._origins = None

    def _mark(self) -> None:
        """Notes (last_epoch, rate) as the origin of every group."""
        form = form_of(self)
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
        form = form_of(self)
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

    def _untouched(self) -> bool:
        """Whether every group has what this scheduler wrote last; says no at the first that has not."""
        groups, last = self.optimizer.param_groups, self._last_lr
        if type(self.last_epoch) is not int or self.last_epoch < 0 or len(groups) < len(last):
            return False
        return all(same(group["lr"], old) for group, old in zip(groups, last, strict=False))

    def _rows(self, i: int) -> list[Row] | None:
        form, (t, x) = form_of(self), self._origins.points[i]
        return None if form is None else form.rows(self, i, t, x)

    def _tables(self) -> captured.Programs | None:
        """Programs from the origins; None where some group has no closed form."""
        form, groups = form_of(self), self.optimizer.param_groups
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
        return captured.Programs(tables, rates, momenta, slot)

    def _build_track(self) -> Any:
        """A track from the origins, standing at `last_epoch`; None where some group has no closed form."""
        programs, form = self._tables(), form_of(self)
        if programs is None:
            return None
        return track_class()(
            self.__dict__,
            self.__dict__["_step_count"] if self._counts_steps else -1,
            self._last_step(),
            programs.tables,
            programs.rates,
            programs.momenta,
            "betas" if programs.momentum == "beta1" else programs.momentum,
            list(form.attributes),
            list(form.lists),
            list(form.keys),
        )

    def _last_step(self) -> int:
        return self.total_steps if isinstance(self, torch.optim.lr_scheduler.OneCycleLR) else -1

    def _programs(self) -> captured.Programs | None:
        self._drop_track()
        self._admit_new_groups()
        if form_of(self) is None:
            return None
        if not (self._known() and self._untouched()):
            self._mark()  # goes on from what was written, as torch's recursion does
        programs = self._tables()
        for table_ in [] if programs is None else programs.tables:
            table_[HORIZON] = float(self._last_step())
        return programs

    def _move(self, clock: int) -> None:
        """To a clock that was reached inside a captured graph, without an edit on the way."""
        state = self.__dict__
        if self._counts_steps:
            state["_step_count"] += clock - state["last_epoch"]
        state["last_epoch"] = self._clock = clock
        self._build_track().write(state)

    _counts_steps = True  # CosineAnnealingWarmRestarts has a step of its own, which does not

    def _admit_new_groups(self) -> None:
        """Takes in groups added to the optimizer since; each as if it had been there from the start."""
        groups = self.optimizer.param_groups
        if len(groups) <= len(self.base_lrs):
            return
        points = list(self._origins.points) if self._known() else None
        for i in range(len(self.base_lrs), len(groups)):
            point = join(self, i, groups[i])
            if points is not None:
                points.append(point)
        self._origins = None if points is None else Origins(points, self._settings())

    def _initial_step(self) -> None:
        """torch's first step; with `last_epoch=k` the rates are then those of step k + 1 of a run from the base."""
        resumed = self.last_epoch >= 0
        start = self._resume_point() if resumed else None
        super()._initial_step()
        if resumed:
            self._catch_up(start)

    def _resume_point(self) -> list[float]:
        rates, classes = _RESUMED.get(self.optimizer, ([], []))
        now = [scalar(group["lr"]) for group in self.optimizer.param_groups]
        if rates == now and type(self) not in classes:
            return now
        _RESUMED.pop(self.optimizer, None)
        return [scalar(base) for base in self.base_lrs]

    def _catch_up(self, start: list[float]) -> None:
        form = form_of(self)
        if form is None:
            return
        points = [(0, form.first(self, i, x)) for i, x in enumerate(start)]
        self._origins, self._clock = Origins(points, self._settings()), self.last_epoch
        track = self._build_track()
        if track is not None:
            track.write(self.__dict__)
        _, classes = _RESUMED.get(self.optimizer, ([], []))
        _RESUMED[self.optimizer] = ([scalar(lr) for lr in self._last_lr], [*classes, type(self)])

    def _loaded(self, points: list[Any] | None) -> None:
        self._track, self._origins, self._clock = None, None, self.last_epoch
        if points is not None and len(points) == len(self.optimizer.param_groups):
            self._origins = Origins([(t, x) for t, x in points], self._settings())

    def __getstate__(self) -> tuple[dict[str, Any], Any]:
        self._settle()
        self._drop_track()
        return self.__dict__.copy(), self._origins.points if self._known() else None

    def __setstate__(self, state: Any) -> None:
        state, points = state if isinstance(state, tuple) else (state, None)
        self.__dict__.update(state)
        self._clock = self.__dict__.get("last_epoch")
        self._origins = None if points is None else Origins(points, self._settings())


def _frozen(container: Any) -> Any:
    if isinstance(container, dict):
        return tuple(sorted(container.items()))
    return None if container is None else tuple(map(scalar, container))
