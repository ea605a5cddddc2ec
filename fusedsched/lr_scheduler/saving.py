# SPDX-License-Identifier: Apache-2.0
"""State dicts that bring the rates back.

torch's state of a scheduler has no rate that its `load_state_dict` would write anywhere: loaded without the optimizer,
`get_last_lr()` says one thing and the groups another. One more key of plain data mends that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from fusedsched.runtime.compile_ops import CompileHandle

from ..schedules.convert import from_torch
from ..schedules.expression import Schedule
from . import device
from .captured import Mirrored, may_capture
from .rows import Programs
from .skips import Gate, extended
from .tracks import copied, same, scalar

KEY = "fusedsched"


class Restored:
    """Mixin: the state dict of a torch scheduler, with the rates of the groups in it."""

    # A follower or driver advances it inside a captured graph, once it has stepped in one; rates: its tables on a
    # device; a gate holds it while no update is applied.
    # capturing asks whether a step is more than its track's: where a graph may be captured, or one of these is. plain:
    # see plain.py. built_on: the optimizer's list of groups when this was built or loaded.
    __slots__ = (
        "_compile_handle",
        "_follower",
        "_rates",
        "_gate",
        "_track",
        "_hosted",
        "_capturing",
        "_plain",
        "_built_on",
    )
    last_epoch, _step_count, _last_lr = Mirrored(), Mirrored(), Mirrored()
    _follows_metric = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith("fusedsched.") and "__init__" in cls.__dict__:
            cls.__init__ = extended(cls.__init__)

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._compile_handle = CompileHandle(self)
        self._follower = self._rates = self._gate = self._track = self._hosted = self._capturing = self._plain = None
        self._built_on = None
        return self

    def __getstate__(self) -> Any:
        self._settle_all()
        return self.__dict__.copy(), {"advance_on_skip": self._gate is None}  # a copy makes its own trace and tables

    def __setstate__(self, state: Any) -> None:
        state, ours = state if isinstance(state, tuple) else (state, {})
        self.__dict__.update(state)
        self._built_on = state["optimizer"].__dict__.get("param_groups") if "optimizer" in state else None
        self._set_gate(ours.get("advance_on_skip", True))

    def _set_gate(self, advance_on_skip: bool) -> None:
        self._gate = None if advance_on_skip else Gate(self.optimizer, type(self))
        if self._gate is not None:
            self._capturing = device.is_counted
        if self._gate is not None and self._follower is not None:
            self._follower.see(self._gate.seen)

    def _settle(self) -> None:
        """Brings it up to date with a captured graph that advances it."""
        if self._follower is not None:
            self._follower.settle()

    def _settle_all(self) -> None:
        """Brings everything that is saved up to date."""
        self._settle()
        if self._track is not None and self._track.launched and self._track.edited:
            self._rebase(edited=True)  # a copy goes on from the rates as well, to the same bits
        self._show_rates()

    def _show_rates(self) -> None:
        """Derives `_last_lr` from what a kernel wrote."""
        if self._track is not None and self._track.launched:
            self.__dict__["_last_lr"] = self._rates.written()

    def _capturing_now(self) -> bool:
        probe = may_capture(self.optimizer)
        return probe is not None and probe()

    def _steps_counted(self) -> int:
        """Its clock, as the host has it."""
        return self.__dict__["last_epoch"]

    def _stepped(self) -> None:
        """Called after a step that a launch did."""

    def _saved_points(self) -> list[tuple[int, float]] | None:
        """Where the closed forms of its groups start; None where it has none."""
        return None

    def _has_form(self) -> bool:
        """Whether its rates have a closed form."""
        return False

    def _programs(self) -> Programs | None:
        """What it does from here on, for a captured graph; None: it has no closed form."""
        return None

    def expressions(self, steps: int | None = None) -> list[Schedule]:
        """What this scheduler does to each group, as schedules; `steps` where one must be tabulated (from_torch)."""
        return [from_torch(self, steps, i) for i in range(len(self.optimizer.param_groups))]

    def state_dict(self) -> dict[str, Any]:
        """torch's state dict of this class, and one key of plain data, "fusedsched": the groups' rates, exactly."""
        self._settle_all()
        return with_rates(self, super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` of this class or of torch's wrote; the groups get their rates back too.

        Other than in torch, it does not matter whether the optimizer is loaded before, after or not at all.
        """
        load(self, state_dict, super().load_state_dict)

    def _loaded(self, ours: dict[str, Any]) -> None:
        """Called when everything is in place; `ours`: what stood under our key."""


def write_lr(group: dict[str, Any], value: Any) -> None:
    """Sets a group's rate; a tensor stays that tensor."""
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(scalar(value))
    else:
        group["lr"] = scalar(value)


def with_rates(scheduler: Any, state: dict[str, Any]) -> dict[str, Any]:
    """`state` and our key: rates, momenta, and where the closed form of each group began."""
    groups = scheduler.optimizer.param_groups
    state.pop(KEY, None)
    ours: dict[str, Any] = {"lr": [scalar(group["lr"]) for group in groups], "mark": _mark(state)}
    ours["advance_on_skip"] = scheduler._gate is None
    if getattr(scheduler, "cycle_momentum", False):
        key = "betas" if scheduler.use_beta1 else "momentum"
        ours[key] = [list(map(scalar, g[key])) if key == "betas" else scalar(g[key]) for g in groups]
    points = scheduler._saved_points()
    if points is not None:
        ours["origins"] = [list(point) for point in points]
    state[KEY] = ours
    return state


def _mark(state: dict[str, Any]) -> list[Any]:
    """Tells our key from one that torch's class carried along while it went on stepping."""
    return [state.get("last_epoch"), state.get("_step_count"), [scalar(lr) for lr in state.get("_last_lr", ())]]


def load(scheduler: Any, state: dict[str, Any], torch_load: Callable[[dict[str, Any]], None]) -> None:
    """Loads a state of ours or of torch's into `scheduler` and its optimizer's groups; `state` stays as it is."""
    state = dict(state)
    ours = state.pop(KEY, None)
    if ours is not None and ours["mark"] != _mark(state):
        ours = None
    groups = scheduler.optimizer.param_groups
    loaded = scheduler._built_on is not None and scheduler._built_on is not groups
    last = getattr(scheduler, "_last_lr", [])
    # Rates that this scheduler did not write belong to another one.
    owned = len(last) == len(groups) and all(same(g["lr"], lr) for g, lr in zip(groups, last, strict=True))
    torch_load({key: _own_copy(value) for key, value in state.items()})
    if not loaded and ours is not None:  # else the optimizer's own state, which was loaded before, knows better
        _write_hyperparameters(scheduler, ours["lr"], ours)
    elif not loaded and owned:
        _write_hyperparameters(scheduler, scheduler.__dict__.get("_last_lr", ()), {})
    if ours is not None or scheduler._gate is not None:
        scheduler._set_gate((ours or {}).get("advance_on_skip", scheduler._gate is None))
    scheduler._loaded(ours or {})
    scheduler._built_on = groups
    if scheduler._follower is not None:
        scheduler._follower.restart()


def _write_hyperparameters(scheduler: Any, rates: Any, momenta: dict[str, Any]) -> None:
    groups = scheduler.optimizer.param_groups
    for group, rate in zip(groups, rates, strict=False):
        if not same(group["lr"], rate):
            write_lr(group, rate)
    with device.momenta_kept(scheduler.optimizer):
        for key in ("betas", "momentum"):
            for group, saved in zip(groups, momenta.get(key, ()), strict=False):
                group[key] = tuple(saved) if key == "betas" else saved


def _own_copy(value: Any) -> Any:
    """A list of its own for each scheduler: torch's state dict hands out the live one."""
    if type(value) is list:
        return [copied(item) for item in value]
    return value.copy() if isinstance(value, Counter) else copied(value)
