# SPDX-License-Identifier: Apache-2.0
"""Drivers on the host: what makes the steps of a scheduler while only rates change.

A driver runs the schedules of `schedules/torch_classes.py`. It compares what they were made from with what the
scheduler has now; a rate that is not the one that it wrote last becomes an edit. `PythonHostDriver` is the readable
version of `csrc/bindings/host_driver.cpp`; a test compares the two. `device_driver.py` has those for rates on a device.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from operator import is_not
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .. import _native
from ..schedules.edit import NO_EDIT, Edit, EditKind, EditRule, apply, edited, end_of_edit, is_low_point, rule_at
from ..schedules.evaluate import evaluate
from ..schedules.torch_classes import class_of
from .watched_values import WatchedValue, copied, is_equal, matches, scalar, snapshot

HORIZON = 2  # where a program's header says up to which clock it is defined
UNDERFLOW = 1e-280  # nearer to its pivot, a schedule has no digits left that an edit could scale


class Driver(Protocol):
    """What makes the steps of a scheduler. It does a step as a whole, or returns False and changes nothing."""

    clock: int
    on_device: bool

    def advance(self, state: dict[str, Any]) -> bool: ...

    def edits(self) -> list[Edit]: ...


class Inputs(NamedTuple):
    """What a driver is made from.

    `programs`: flat tables. `rates`, `momenta`: for each group the index of its program, and of its momentum's (-1:
    none). `momentum_key`: "momentum" or "betas". `rules`: for each group its edit rules. `watched`, `lists`: pairs
    (attributes of a scheduler, name) that must not change, by identity and by content. `keys`: entries of the groups
    that must not. `horizon`: the last clock (-1: none). `counts`: whether `_step_count` is advanced. `kinds`: classes
    of users, whose methods must not.
    """

    programs: list[array]
    rates: list[int]
    momenta: list[int]
    momentum_key: str
    rules: list[tuple[EditRule, ...]]
    watched: list[tuple[dict[str, Any], str]]
    lists: list[tuple[dict[str, Any], str]]
    keys: list[str]
    horizon: int = -1
    counts: bool = True
    kinds: tuple[type, ...] = ()


def ending(program: array, last: int) -> array:
    """The program, defined up to the clock `last` (-1: for ever)."""
    program = array("d", program)
    program[HORIZON] = float(last)
    return program


def groups_of(optimizer: Any) -> list[dict[str, Any]]:
    """The groups, without bringing them up to date. Wrappers have none of their own and pass theirs through."""
    groups = optimizer.__dict__.get("param_groups")
    return optimizer.param_groups if groups is None else groups


def write_lr(group: dict[str, Any], value: Any) -> None:
    """Sets a group's rate; a tensor stays that tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(scalar(value))
    else:
        group["lr"] = scalar(value)


class PythonHostDriver:
    """Steps one scheduler on the host.

    Arguments: the `__dict__` of the scheduler; its clock; what `Inputs` has; for each group the edit that holds.
    `launch`: writes the rates, and momenta that are tensors, on a device, and continues edits of them; then only
    momenta that are numbers are written here, and `_last_lr` is not.
    """

    on_device = False

    def __init__(
        self,
        state: dict[str, Any],
        clock: int,
        count: int,
        horizon: int,
        programs: list[array],
        rates: list[int],
        momenta: list[int],
        momentum_key: str,
        rules: list[tuple[EditRule, ...]],
        edits: list[Edit],
        watched: list[tuple[dict[str, Any], str]],
        lists: list[tuple[dict[str, Any], str]],
        keys: list[str],
        launch: Callable[[], None] | None = None,
    ) -> None:
        self.clock, self.count, self.horizon = clock, count, horizon
        self.programs, self.rates, self.momenta, self.momentum_key = programs, rates, momenta, momentum_key
        self.rules, self._edits = rules, [Edit(*edit) for edit in edits]
        self._watched = [(attributes, name, attributes.get(name)) for attributes, name in watched]
        self._lists = [(attributes, name, snapshot(attributes.get(name))) for attributes, name in lists]
        self.keys, self.launched, self._launch = keys, launch is not None, launch
        groups = _groups(state)
        self._written = [None if self.launched else scalar(group["lr"]) for group in groups]
        self._key_values = [[WatchedValue.of(group.get(key)) for key in keys] for group in groups]
        self._targets = self._present_targets(groups) if self.launched else []

    def _present_targets(self, groups: list[dict[str, Any]]) -> list[Any]:
        """The objects that `launch` writes."""
        found = []
        for group, index in zip(groups, self.momenta, strict=True):
            found.append(group["lr"])
            if index >= 0 and isinstance(_first(group[self.momentum_key]), Tensor):
                found.append(_first(group[self.momentum_key]))
        return found

    def is_unmodified(self, state: dict[str, Any]) -> bool:
        """Whether everything but the rates is as this driver left it."""
        groups = _groups(state)
        if len(groups) != len(self.rates) or state.get("last_epoch", self.clock) != self.clock:
            return False
        if self.count >= 0 and state["_step_count"] != self.count:
            return False
        if any(attributes.get(name) is not value for attributes, name, value in self._watched):
            return False
        if any(not matches(attributes.get(name), old) for attributes, name, old in self._lists):
            return False
        if self.launched:
            present = self._present_targets(groups)
            if len(present) != len(self._targets) or any(map(is_not, present, self._targets)):
                return False
        for group, before in zip(groups, self._key_values, strict=True):
            if any(not is_equal(group.get(key), old) for key, old in zip(self.keys, before, strict=True)):
                return False
        return self.momentum_key != "betas" or all(type(group["betas"]) is tuple for group in groups)

    def advance(self, state: dict[str, Any]) -> bool:
        """One step, or False and nothing changed."""
        if not self.is_unmodified(state) or 0 <= self.horizon <= self.clock:
            return False
        if not self.launched and not self.update_edits(state):
            return False
        self.seek(self.clock + 1)
        self.write(state)
        return True

    def update_edits(self, state: dict[str, Any]) -> bool:
        """Notes the rates that are not what was written last. False, and nothing is changed, where the schedule has
        nothing to scale."""
        edits, present = list(self._edits), [scalar(group["lr"]) for group in _groups(state)]
        for i, found in enumerate(present):
            if found != self._written[i]:
                value, rule = evaluate(self.programs[self.rates[i]], self.clock), rule_at(self.rules[i], self.clock)
                if underflows(rule, value):
                    return False
                edits[i] = edited(edits[i], rule, self.clock, value, found)
        self._edits, self._written = edits, present
        return True

    def seek(self, clock: int) -> None:
        """To another clock, without writing what belongs to it."""
        if self.count >= 0:
            self.count += clock - self.clock
        self.clock = clock

    def write(self, state: dict[str, Any]) -> None:
        """Writes what belongs to the present clock, counters included."""
        if self.launched:
            self.launch()
        values, last = [evaluate(program, self.clock) for program in self.programs], []
        for i, group in enumerate(_groups(state)):
            if not self.launched:
                rule = rule_at(self.rules[i], self.clock)
                write_lr(group, apply(self._edits[i], rule, self.clock, values[self.rates[i]]))
                last.append(copied(group["lr"]))
                self._written[i] = scalar(group["lr"])
            if self.momenta[i] >= 0 and not (self.launched and isinstance(_first(group[self.momentum_key]), Tensor)):
                momentum = values[self.momenta[i]]
                tail = group["betas"][1:] if self.momentum_key == "betas" else None
                group[self.momentum_key] = momentum if tail is None else (momentum, *tail)
        if "last_epoch" in state:
            state["last_epoch"] = self.clock
        if self.count >= 0:
            state["_step_count"] = self.count
        if not self.launched:
            state["_last_lr"] = last

    def launch(self) -> None:
        """Lets the device write; whatever keeps saved values of these tensors has to know."""
        self._launch()
        torch.autograd.graph.increment_version([t for t in self._targets if not t.is_inference()])

    def edits(self) -> list[Edit]:
        """The edit of each group."""
        return list(self._edits)


def _first(momentum: Any) -> Any:
    """The momentum, or the first of the betas."""
    return momentum[0] if isinstance(momentum, tuple) and momentum else momentum


def _groups(state: dict[str, Any]) -> list[dict[str, Any]]:
    return state["optimizer"].param_groups


def underflows(rule: EditRule, value: float) -> bool:
    """Whether a schedule is too near to its pivot for an edit."""
    return rule.kind == EditKind.SCALE_OR_KEEP and abs(value - rule.pivot) < UNDERFLOW


def host_driver_class() -> type:
    """The compiled driver where there is one, else the one above."""
    return getattr(_native.module(), "HostDriver", PythonHostDriver)


def host_driver(
    scheduler: Any, inputs: Inputs, clock: int, edits: list[Edit], launch: Callable[[], None] | None = None
) -> Any:
    """A host driver for a scheduler that is at `clock`."""
    state = scheduler.__dict__
    count = state["_step_count"] if inputs.counts else -1
    driver = host_driver_class()(
        state, clock, count, inputs.horizon, inputs.programs, inputs.rates, inputs.momenta, inputs.momentum_key,
        inputs.rules, edits, inputs.watched, inputs.lists, inputs.keys, launch,
    )  # fmt: skip
    return WatchedClasses(driver, inputs.kinds) if inputs.kinds else driver


class WatchedClasses:
    """A host driver of schedulers of users' classes: over once one of these gets a method that computes rates."""

    def __init__(self, driver: Any, kinds: tuple[type, ...]) -> None:
        self._driver, self._rows = driver, [(kind, class_of(kind)) for kind in kinds]

    def _unchanged(self) -> bool:
        return all(class_of(kind) is row for kind, row in self._rows)

    def is_unmodified(self, state: dict[str, Any]) -> bool:
        """As that of the driver."""
        return self._unchanged() and self._driver.is_unmodified(state)

    def advance(self, state: dict[str, Any]) -> bool:
        """As that of the driver."""
        return self._unchanged() and self._driver.advance(state)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)


def edits_of(inputs: Inputs, clock: int, rates: list[Any], scales: list[float], known: list[Edit] | None) -> list[Edit]:
    """For each group the edit that explains the present rate: a known one where it does, none within a rounding.

    `scales`: the base rates, relative to which torch's first steps are rounded.
    """
    found = []
    for i, lr in enumerate(rates):
        rule, value = rule_at(inputs.rules[i], clock), evaluate(inputs.programs[inputs.rates[i]], clock)
        edit, rate = Edit(*known[i]) if known is not None and i < len(known) else NO_EDIT, scalar(lr)
        still = edit == NO_EDIT or edit.until == end_of_edit(rule, clock)
        if still and _explains(edit, rule, clock, value, lr):
            found.append(edit)
        elif near(lr, value, scales[i]):
            found.append(NO_EDIT)
        else:
            found.append(edited(edit if still else NO_EDIT, rule, clock, value, rate))
    return found


def _explains(edit: Edit, rule: EditRule, clock: int, value: float, lr: Any) -> bool:
    """Whether an edit that was made at this clock or goes on there has given this rate."""
    if edit != NO_EDIT and is_low_point(rule, clock):  # where the rates of all waves are the same
        return edited(NO_EDIT, rule, clock, value, scalar(lr)) == edit
    return scalar(lr) == _as_kept(lr, apply(edit, rule, clock, value))


def _as_kept(lr: Any, value: float) -> float:
    """A number as a rate keeps it."""
    return torch.full_like(lr, value, device="cpu").item() if isinstance(lr, Tensor) else value


def near(lr: Any, value: float, scale: float = 0.0) -> bool:
    """Whether a rate is this number, but for roundings in a computation that had to do with `scale`."""
    coarse = torch.finfo(lr.dtype).eps if isinstance(lr, Tensor) and lr.is_floating_point() else 0.0
    return abs(scalar(lr) - value) <= max(max(1e-12, 2.0 * coarse) * abs(value), 1e-15 * abs(scale))
