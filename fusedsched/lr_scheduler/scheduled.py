# SPDX-License-Identifier: Apache-2.0
"""What our schedulers add to torch's: closed form between edits, groups that join late, resuming, loading.

The slow path is torch's own inherited `step`. Nothing of ours lives in `__dict__`, which torch turns into the state
dict: the slots below are rebuilt, copied or saved by the methods here.
"""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.compiler import is_dynamo_compiling

from fusedsched.runtime.order import warn_about_epoch, warn_about_order

from . import captured, device, skips
from .branch import Branch
from .closed import ClosedForm, Origins
from .forms import form_of_class
from .joining import join
from .live import Branching
from .plain import plain
from .rows import Programs, value
from .traced import traced_step
from .tracks import copied, near, scalar

# Optimizer -> the rates that schedulers built with last_epoch= wrote last, and their classes. One of another class
# multiplies, as it would have done in the run that is resumed; one of the same class is a second try.
_RESUMED: WeakKeyDictionary[torch.optim.Optimizer, tuple[list[float], list[type]]] = WeakKeyDictionary()


class Scheduled(ClosedForm, Branching):
    """Mixin in front of a torch scheduler class that computes rates from `last_epoch`."""

    __slots__ = ("_origins", "_clock", "_branch")

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._origins = self._branch = None
        self._clock = None  # last_epoch as we left it
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
            if captured.hosted(self) and self._step_plainly():
                return
            if self._gate is not None and skips.holds(self):
                return
            if captured.step(self) or self._step_on_track() or self._step_on_new_track():
                return
        else:
            captured.refuse(self, "step(epoch)")
        if self._gate is not None and skips.holds_after_waiting(self) and epoch is None:
            return
        self._step_slowly(epoch)

    def _step_plainly(self) -> bool:
        """torch's own step, past its first and where nothing leads on from the rates in closed form."""
        state = self.__dict__
        if self._gate is not None or self._branch is not None or state["_step_count"] <= 1 or state["last_epoch"] < 0:
            return False
        if self._is_initial or len(self.optimizer.param_groups) > len(state["base_lrs"]):
            return False
        has_form = form_of_class(self) is not None
        if has_form and self._untouched():
            return False
        view = plain(self)
        if view is None:
            return False
        if has_form:
            self._drop_track()
        type(view).step(view)  # not what somebody has put around the scheduler's own
        self._origins, self._clock = None, state["last_epoch"]
        return True

    def _step_slowly(self, epoch: Any) -> None:
        if captured.hosted(self):
            return self._step_as_torch(epoch)
        with captured.paused(self):
            self._step_as_torch(epoch)
        if captured.hosted(self):
            return
        if self._track is None and not self._is_initial and device.placement_of(self.optimizer) is not None:
            self._rebase()  # now, so that the next step may stand in a graph

    def _step_on_track(self) -> bool:
        return self._track is not None and self._follower is None and self._track.step(self.__dict__)

    def _step_as_torch(self, epoch: Any) -> None:
        self._admit_new_groups()  # now, since torch counts the step before it comes to _update_lr
        if self._step_count == 1:
            warn_about_order(self)
        if epoch is not None:
            warn_about_epoch()
        self._step_count += 1
        self._update_lr(epoch)

    def _step_on_new_track(self) -> bool:
        """The step, if closed form holds: nothing was edited since this scheduler's last write."""
        if self._form() is None:
            return False
        self._drop_track()
        # The first steps are torch's: it sets up in them, and warns about the order of calls.
        first = self._step_count == 1 and not (self._gate is not None and self._gate.on_device)
        if self._is_initial or first or not self._untouched():
            return False
        self._admit_new_groups()
        if not self._known():
            self._mark()
        track = self._build_track()
        if track is None or not track.step(self.__dict__):
            return False
        self._keep(track)
        return True

    def _update_lr(self, epoch: Any = None) -> None:
        """torch's own step, from whatever the groups have now."""
        if self._in_branch(epoch):
            return
        if self._form() is None:
            self._admit_new_groups()
            super()._update_lr(epoch)
            return
        self._drop_track()
        self._admit_new_groups()
        first = epoch is None and not self._is_initial and self._known() and self._untouched()
        if captured.hosted(self):
            super()._update_lr(epoch)
        else:
            with device.momenta_kept(self.optimizer):
                super()._update_lr(epoch)
        self._clock = self.last_epoch
        if first:
            self._write_from_origins()  # the same to a rounding; no later step starts from that rounding
        elif self.last_epoch == 0:
            self._mark()
        else:
            self._origins = None  # noted when the next step comes and finds the rates as they are now

    def _write_from_origins(self) -> None:
        track = self._build_track()
        if track is not None and track.launched:
            self._rates.place_at(self.__dict__["last_epoch"] - 1)  # a launch goes on by one
            self._keep(track)
        if track is not None:
            track.write(self.__dict__)

    def _programs(self) -> Programs | None:
        self._drop_track()
        self._admit_new_groups()
        programs = None if self._form() is None else self._from_here()
        return programs if self._branch is None else self._branch.holding_momentum(self, programs)

    def _has_form(self) -> bool:
        return self._form() is not None

    def _rebase(self, edited: bool = False) -> None:
        """Tables for where it stands and for what the groups hold: captured graphs go on from there."""
        self._drop_track(edited)
        self._admit_new_groups()
        if self._form() is not None:
            self._anchor()
            self._keep(self._build_track())

    def _move(self, clock: int) -> None:
        """To a clock that was reached on the device, without an edit on the way."""
        self._count_to(clock)
        if self._track is not None and self._track.launched:
            self._track.move(clock)
        else:
            self._build_track().write(self.__dict__)

    def _count_to(self, clock: int) -> None:
        state = self.__dict__
        if self._counts_steps:
            state["_step_count"] += clock - max(state["last_epoch"], 0)
        state["last_epoch"] = self._clock = clock

    def _admit_new_groups(self) -> None:
        """Takes in groups added to the optimizer since; each as if it had been there from the start."""
        if self._branch is not None:
            points = list(self._origins.points) if self._known() else None
            if self._branch.admit(self):
                joined = [] if points is None else self._branch.tops()[len(points) :]
                self._origins = None if points is None else Origins([*points, *joined], self._settings())
            return
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
        """torch's first step; with `last_epoch=k` the rates are then those of step k + 1 of a run from the base.

        Those that were restored with an edit in them stay.
        """
        self._branch = None
        before = [copied(group["lr"]) for group in self.optimizer.param_groups] if self.last_epoch >= 0 else None
        super()._initial_step()
        if before is not None:
            self._catch_up(before)

    def _catch_up(self, before: list[Any]) -> None:
        """Brings the rates, which were these, to where a run that never stopped would have them."""
        if self._form() is None:
            return
        written, classes = _RESUMED.pop(self.optimizer, ([], []))
        ours = written == list(map(scalar, before))
        onto = ours and type(self) not in classes
        points = [self._point_to_resume(i, lr, onto, ours) for i, lr in enumerate(before)]
        self._origins, self._clock = Origins(points, self._settings()), self.last_epoch
        self._write_from_origins()
        if any(t == 0 for t, _ in points):
            rates = [scalar(lr) for lr in self._last_lr]
            _RESUMED[self.optimizer] = rates, [*classes, type(self)] if onto else [type(self)]

    def _point_to_resume(self, i: int, lr: Any, onto: bool, ours: bool) -> tuple[int, float]:
        """Where group i, which had the rate `lr`, starts. `ours`: an earlier scheduler that was resumed wrote that;
        `onto`: and this one goes on from it."""
        form, base = self._form(), scalar(self.base_lrs[i])
        start = 0, form.first(self, i, scalar(lr) if onto else base)
        if ours or near(lr, base):
            return start
        rows, now = form.rows(self, i, *start), self.last_epoch
        # What torch has restored is the rate of now; where the last step was not made, the one before.
        untouched = rows is None or any(near(lr, value(rows, clock)) for clock in (now, now - 1))
        return start if untouched else (now, scalar(lr))

    def _loaded(self, ours: dict[str, Any]) -> None:
        saved = ours.get("branch")
        self._branch = None if saved is None else Branch.loaded(saved)
        self._track, self._origins, self._clock, points = None, None, self.last_epoch, ours.get("origins")
        if points is not None and len(points) == len(self.optimizer.param_groups):
            self._origins = Origins([(t, x) for t, x in points], self._settings())
            if not self._leads_here():  # somebody has changed a setting in the state, or left it out
                self._origins = None

    def _leads_here(self) -> bool:
        """Whether the closed form from the origins has the rates that were written last."""
        if type(self.last_epoch) is not int:
            return False
        for i, lr in enumerate(self._last_lr):
            rows = self._rows(i)
            if rows is None or not near(lr, value(rows, self.last_epoch), beside=self._origins.points[i][1]):
                return False
        return True

    def __getstate__(self) -> tuple[dict[str, Any], Any]:
        state, ours = super().__getstate__()
        return state, {**ours, "origins": self._saved_points(), "branch": copy.copy(self._branch)}

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        ours = state[1] if isinstance(state, tuple) else {}
        self._branch, points = ours.get("branch"), ours.get("origins")
        self._clock = self.__dict__.get("last_epoch")
        self._origins = None if points is None else Origins(points, self._settings())
