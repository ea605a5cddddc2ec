# SPDX-License-Identifier: Apache-2.0
"""The plan of the reference backend: what `fusedsched._C.Plan` does in one call, done parameter by parameter in torch.

It serves machines without a compiler, devices without kernels and tensor subclasses, and `backend="reference"`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedsched.optim.inputs import PlanInputs
from fusedsched.optim.python_plan import (
    DONE,
    EXACT,
    REBUILD,
    Programs,
    PythonPlan,
    check_gradient,
    check_object,
    read_object,
    refuse_expanded,
    state_of,
    where,
)
from fusedsched.optim.scheduling import value_at
from fusedsched.optim.spec import OptimizerSpec
from fusedsched.optim.state import init_state
from fusedsched.optim.telemetry import write_row
from fusedsched.reference.arguments import with_floats
from fusedsched.runtime.addresses import check_backed, is_native, native
from fusedsched.runtime.clocks import number, unwatched
from fusedsched.runtime.compile_ops import detached_alias


def check_memory(p: Tensor, state: dict[str, Any], at: tuple[int, int]) -> None:
    """Raises RuntimeError where memory that a step reads was freed."""
    check_backed(p, where(p, at))
    check_backed(p.grad, f"the gradient of {where(p, at)}")
    for name, value in state.items():
        if isinstance(value, Tensor):
            check_backed(value, f"state['{name}'] of {where(p, at)}")


def check_shapes(
    spec: OptimizerSpec, group: dict[str, Any], p: Tensor, state: dict[str, Any], at: tuple[int, int]
) -> None:
    """Raises RuntimeError for state of another model."""
    for array in spec.needed_states(group):
        value = state.get(array.name)
        if isinstance(value, Tensor) and value.shape != p.shape:
            raise RuntimeError(
                f"state['{array.name}'] of parameter {at[1]} of group {at[0]} has shape {list(value.shape)}; the "
                f"parameter has shape {list(p.shape)}. Load a state that belongs to this model."
            )


class HostPrograms(Programs):
    """Schedules that the host evaluates and shows."""

    def __init__(self, clocks: Tensor) -> None:
        super().__init__()
        self._clocks = clocks
        self._tables: dict[int, tuple[list[float], int]] = {}  # and the clock that each runs on
        self._written: dict[int, float] = {}

    def put(self, name: tuple[int, str], table: list[float], unit: int, shown: Tensor) -> int:
        i = super().put(name, table, unit, shown)
        self._tables[i] = table, unit
        self._written.pop(i, None)
        return i

    def advance(self, unit: int, amount: int) -> None:
        with unwatched():
            self._clocks[unit] += amount
            for i, (table, clock) in self._tables.items():
                if not self.edited(i):
                    self._written[i] = value_at(table, int(self._clocks[clock]))
                    detached_alias(self.shown[i]).fill_(self._written[i])

    def edited(self, i: int) -> bool:
        return i in self._written and number(self.shown[i]) != self._written[i]

    def ended(self, i: int) -> bool:
        with unwatched():
            return 0.0 <= self.horizons[i] < int(self._clocks[self._tables[i][1]])


class ReferencePlan(PythonPlan):
    """Updates chosen parameters with the reference rules, and keeps the exact count of each one's updates.

    `members`: (group, index) of the parameters; None: all. Then it also counts updates, shows schedules and keeps
    telemetry; else other plans do.
    """

    name = "reference"

    def __init__(self, inputs: PlanInputs, clocks: Tensor, members: list[tuple[int, int]] | None = None) -> None:
        super().__init__(inputs, clocks)
        self._alone = members is None
        self._places = members or inputs.members()
        self._programs = HostPrograms(self._clocks)
        self._counts: dict[int, int] = {}  # by the id of the parameter
        self._read: dict[int, Tensor] = {}  # the same: the values of a gradient that is not native
        self._found = False

    def members(self) -> list[tuple[int, int, Tensor]]:
        """Group, index in the group, parameter."""
        return [(g, i, self._inputs.parameter(g, i)) for g, i in self._places]

    def step(self, param_groups: list[Any], state: Any, scale: Tensor | None, found_inf: Tensor | None) -> int:
        if found_inf is not None and float(found_inf) != 0.0:
            return self.skip(param_groups, found_inf)
        return super().step(param_groups, state, scale, None)

    def skip(self, param_groups: list[Any], found_inf: Tensor) -> int:
        if not self._same_structure(param_groups):
            return REBUILD
        self.record(True)
        with unwatched():
            self._clocks[3] += 1
        return DONE

    def pending(self) -> bool:
        return self._found

    def release(self) -> None:
        self._found = False
        self._read.clear()

    def _collect(self) -> bool:
        self._programs.check_horizons(self._object)
        self._found, last, groups = False, None, self._inputs.groups
        self._read.clear()
        for g, i, p in self.members():
            if p.grad is not None:
                at = (g, i)
                state = state_of(self._inputs.state, p, at)
                if g != last:
                    self._check_numbers(groups[g], g)
                    last = g
                check_gradient(p, self._spec, at)
                if not (p.is_floating_point() or p.is_complex()):
                    raise RuntimeError(
                        f"{where(p, at)} is of dtype {p.dtype}. Only floating point and complex parameters can be "
                        "updated."
                    )
                refuse_expanded(p, at)
                check_shapes(self._spec, groups[g], p, state, at)
                check_memory(p, state, at)
                if is_native(p):
                    self._check_native(p, state)
                self._found = True
        return True

    def _check_numbers(self, group: dict[str, Any], index: int) -> None:
        for hyper in self._spec.numbers:
            value = read_object(hyper, group, index)
            check_object(hyper, value, index)
            if isinstance(value, Tensor) and not is_native(value):
                float(value)  # raises where it has no value
            elif isinstance(value, Tensor):
                check_backed(value, f"the tensor that is the {hyper.name} of a group")

    def _check_native(self, p: Tensor, state: dict[str, Any]) -> None:
        """Reads and writes what is not native beside this parameter, by its own `copy_`: it may wait, or raise."""
        if not is_native(p.grad):
            self._read[id(p)] = torch.empty_like(p, dtype=p.grad.dtype, requires_grad=False).copy_(p.grad)
        for key, value in state.items():
            if isinstance(value, Tensor) and not is_native(value):
                value.fill_(float(value)) if key == "step" else value.copy_(native(value))

    def _update(self, scale: Tensor | None, found_inf: Tensor | None) -> None:
        if self._alone:
            self.record(False)
        if scale is not None:
            self._unscale(scale)
        groups, states = (
            [with_floats(group, self._spec.number_keys) for group in self._inputs.groups],
            self._inputs.state,
        )
        for g, _, p in self.members():
            if p.grad is not None:
                group = groups[g]
                init_state(self._inputs, group, p)
                fresh: dict[str, Any] = {}
                state = states[p] if p in states else fresh
                self._spec.reference(group, p, self._read.get(id(p), p.grad), state, self._count(p))
                if fresh:
                    states[p].update(fresh)
        if self._alone:
            self.advance(0, 1)

    def _unscale(self, scale: Tensor) -> None:
        """Users find unscaled gradients after the step, as with torch's fused optimizers."""
        grads = {id(p.grad): p.grad for _, _, p in self.members() if p.grad is not None}  # each once
        gain = 1.0 / float(scale)
        plain = [*filter(is_native, grads.values()), *self._read.values()]
        if plain:
            torch._foreach_mul_(plain, gain)
        for grad in grads.values():
            if not is_native(grad):
                grad.mul_(gain)  # alone: its class would be asked about the others too

    def _count(self, p: Tensor) -> int:
        if not self._spec.counts_steps:
            return 0
        shown = self._inputs.state[p]["step"]
        count = self._counts.get(id(p), 0)
        if float(torch.tensor(float(count), dtype=torch.float32, device="cpu")) != float(shown):
            count = int(shown)  # it was written to: then it is the count
        self._counts[id(p)] = count + 1
        shown.fill_(float(count + 1))
        return count + 1

    def exact_counts(self) -> list[tuple[Tensor, int]]:
        found = {id(p): p for p in self._inputs.state if self._counts.get(id(p), 0) > EXACT}
        return [(p, self._counts[at]) for at, p in found.items()]

    def adopt_counts(self, counts: list[tuple[Tensor, int]]) -> None:
        self._counts.update({id(p): count for p, count in counts})

    def record(self, skipped: bool) -> None:
        """A row of telemetry, if that is on."""
        if self._ring is not None:
            numbers = [[number(hyper.read(group)) for hyper in self._spec.numbers] for group in self._inputs.groups]
            with unwatched():
                write_row(self._ring, int(self._clocks[0]), skipped, numbers)
