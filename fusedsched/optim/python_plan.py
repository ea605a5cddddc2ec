# SPDX-License-Identifier: Apache-2.0
"""What the plans in Python have in common. What the methods promise: `csrc/plan/plan.h`, whose plans are in C++."""

from __future__ import annotations

from collections.abc import Callable, Container
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from fusedsched.optim.counting import may_probe
from fusedsched.optim.inputs import PlanInputs
from fusedsched.optim.spec import Hyperparameter, OptimizerSpec
from fusedsched.reference.arguments import check_pair, is_number, not_a_number, place

DONE, REBUILD, STATE_MISSING, DONE_WITH_EDITS, IDLE = range(5)  # Plan::Outcome
EXACT = 2**24  # float32 counts exactly up to here


class Programs:
    """The native schedules that a plan evaluates, in the order in which they were put there."""

    def __init__(self) -> None:
        self.names: list[tuple[int, str]] = []  # group, hyperparameter
        self.shown: list[Tensor] = []  # what shows the value in the group
        self.horizons: list[float] = []  # negative: none

    def __len__(self) -> int:
        return len(self.names)

    def put(self, name: tuple[int, str], table: list[float], unit: int, shown: Tensor) -> int:
        """Puts a program there, or in the place of the one with this name. Returns which of all it is."""
        if name not in self.names:
            self.names.append(name)
            self.shown.append(shown)
            self.horizons.append(0.0)
        i = self.names.index(name)
        self.shown[i], self.horizons[i] = shown, table[2]
        return i

    def advance(self, unit: int, amount: int) -> None:
        """Advances a clock, and writes the values at the present clocks."""
        raise NotImplementedError

    def edited(self, i: int) -> bool:
        """Whether user code has written to the tensor that shows a value."""
        raise NotImplementedError

    def ended(self, i: int) -> bool:
        """Whether the clock is past the last defined step."""
        raise NotImplementedError

    def any_edited(self, objects: Callable[[int, str], Any]) -> bool:
        """Whether a number has another value than its schedule's. `objects`: what the groups hold, by group, name."""
        found = [self.edited(i) or objects(*name) is not self.shown[i] for i, name in enumerate(self.names)]
        return any(found)

    def check_horizons(self, objects: Callable[[int, str], Any]) -> None:
        """Raises RuntimeError for a schedule that has ended, if that was asked for."""
        for i, name in enumerate(self.names):
            if self.ended(i) and objects(*name) is self.shown[i] and not self.edited(i):
                raise RuntimeError(
                    f"The schedule of '{name[1]}' ends at step {self.horizons[i]:.0f} and past_end=\"error\" was asked "
                    'for. Give it more steps, or past_end="hold".'
                )


class PythonPlan:
    """A plan for the parameters on the device of `clocks` (int64: applied updates, samples, tokens, skipped).

    Between two steps it holds no tensor, dictionary or list of the user's, only their ids and addresses: what is
    replaced is freed at once. An id may belong to another object by now, so that all else is read anew at each step.
    Subclasses set `_programs`, and say how they collect and update.
    """

    name: str
    _programs: Programs

    def __init__(self, inputs: PlanInputs, clocks: Tensor) -> None:
        self._inputs, self._spec, self._clocks, self.device = inputs, inputs.spec, clocks, clocks.device
        self._structure = _structure_of(inputs.groups)
        self._hyperparameters = {hyper.name: hyper for hyper in inputs.spec.hyperparameters}
        self._missing: list[tuple[int, int]] = []
        self._ring: Tensor | None = None
        self.turn = RLock()  # of the thread that is in a step

    def step(self, param_groups: list[Any], state: Any, scale: Tensor | None, found_inf: Tensor | None) -> int:
        with self.turn:
            outcome = self.check(param_groups, state)
            if outcome != DONE:
                return outcome
            idle = not self.pending() or may_probe(param_groups, state)
            return IDLE if idle else self.apply(scale, found_inf, False)

    def check(self, param_groups: list[Any], state: Any) -> int:
        if not self._same_structure(param_groups):
            return REBUILD
        self._missing, found = [], False
        try:
            with torch.no_grad():
                found = self._collect() and not self._missing
        finally:
            if not found:
                self.release()
        return DONE if found else STATE_MISSING if self._missing else REBUILD

    def apply(self, scale: Tensor | None, found_inf: Tensor | None, counts: bool) -> int:
        try:
            with torch.no_grad():
                if self.pending() or counts:
                    self._update(scale, found_inf)
        finally:
            self.release()
        return DONE_WITH_EDITS if self._programs.any_edited(self._object) else DONE

    def release(self) -> None:
        """Lets go of what `check` has found."""
        raise NotImplementedError

    def _same_structure(self, param_groups: list[Any]) -> bool:
        return _structure_of(param_groups) == self._structure

    def _object(self, group: int, name: str) -> Any:
        return read_object(self._hyperparameters[name], self._inputs.groups[group], group)

    def _collect(self) -> bool:
        """Reads and checks everything; changes nothing. False: the plan is out of date."""
        raise NotImplementedError

    def _update(self, scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Does what was collected."""
        raise NotImplementedError

    def pending(self) -> bool:
        """Whether the last check found anything to update."""
        raise NotImplementedError

    def missing(self) -> list[tuple[int, int]]:
        return list(self._missing)

    def set_program(self, group: int, name: str, table: list[float], unit: int, shown: Tensor) -> bool:
        self._programs.put((group, name), table, unit, shown)
        self.advance(0, 0)
        return False

    def advance(self, unit: int, amount: int) -> None:
        self._programs.advance(unit, amount)

    def check_counts(self) -> None:
        """Nothing: the host has counted."""

    def record_to(self, ring: Tensor | None) -> None:
        self._ring = ring

    def zero_grad(self, param_groups: list[Any], set_to_none: bool) -> bool:
        """As `torch.optim.Optimizer.zero_grad`."""
        if not self._same_structure(param_groups):
            return False
        for p in (p for group in param_groups for p in group["params"] if p.grad is not None):
            if set_to_none:
                p.grad = None
                continue
            if p.grad.grad_fn is not None:
                p.grad.detach_()
            else:
                p.grad.requires_grad_(False)
            with torch.no_grad():
                p.grad.zero_()
        return True


def _structure_of(param_groups: list[Any]) -> list[tuple[int, int, list[int]]]:
    """Which groups, lists and parameters there are, by their ids."""
    lists = [group.get("params") or () for group in param_groups]
    return [(id(group), id(params), [*map(id, params)]) for group, params in zip(param_groups, lists, strict=True)]


def state_of(state: Any, p: Tensor, at: tuple[int, int]) -> dict[str, Any]:
    """The state of a parameter, empty if it has none. Raises TypeError for one that is no dictionary."""
    held = state.get(p)
    if held is not None and not isinstance(held, dict):
        raise TypeError(
            f"The state of a parameter must be a dict. That of {where(p, at)} is a {type(held).__name__}: {held!r:.80}"
        )
    return held or {}


def read_object(hyper: Hyperparameter, group: dict[str, Any], index: int) -> Any:
    """What the group with this index holds for a hyperparameter. Raises KeyError if it is gone, ValueError or TypeError
    for what should be a pair and is not."""
    if hyper.key not in group:
        raise KeyError(f"param_groups[{index}] has no '{hyper.key}': it was removed or never loaded.")
    if hyper.item is not None:
        check_pair(group[hyper.key], index, hyper.key)
    return hyper.read(group)


def check_object(hyper: Hyperparameter, value: Any, index: int) -> None:
    """Raises ValueError or TypeError for what is neither a number nor converted to one."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"Tensor {hyper.name} must be 1-element, got {value.numel()} elements.")
    elif not is_number(value):
        raise TypeError(not_a_number(place(index, hyper.key), value))


def where(p: Tensor, at: tuple[int, int]) -> str:
    """How errors name a parameter. `at`: group, index in the group."""
    return f"parameter {at[1]} of group {at[0]} (shape {list(p.shape)}, {p.dtype} on {p.device})"


def check_gradient(
    p: Tensor, spec: OptimizerSpec, at: tuple[int, int], dtypes: Container[torch.dtype] | None = None
) -> None:
    """Raises RuntimeError for a gradient that no rule can use. `dtypes`: those that kernels read; None: all."""
    grad = p.grad
    if grad.layout != torch.strided:
        raise RuntimeError(
            f"{spec.sparse_error} The gradient of {where(p, at)} is sparse; use sparse=False in the embedding, or "
            "to_dense()."
        )
    wrong = fix = ""
    if grad.device != p.device:
        wrong, fix = f"on {grad.device}", "Move it to the device of its parameter."
    elif grad.is_complex() != p.is_complex() or (dtypes is not None and grad.dtype not in dtypes):
        wrong, fix = f"of dtype {grad.dtype}", "Cast it to the dtype of its parameter."
    elif grad.shape != p.shape:
        wrong, fix = f"of shape {list(grad.shape)}", "It must have the shape of its parameter."
    if wrong:
        raise RuntimeError(f"The gradient of {where(p, at)} is {wrong}. {fix}")


def refuse_expanded(p: Tensor, at: tuple[int, int]) -> None:
    """Raises RuntimeError for a parameter several of whose elements are one number in memory."""
    if p.layout == torch.strided and any(n > 1 and s == 0 for n, s in zip(p.shape, p.stride(), strict=True)):
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a single memory location. "
            f"{where(p, at)} is expanded; clone() it before it becomes a parameter."
        )
