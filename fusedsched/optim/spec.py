# SPDX-License-Identifier: Apache-2.0
"""What an optimizer is: its numbers, its state, its rules.

Each optimizer's module has one `OptimizerSpec`. Plans, checkpoints, compiled steps and the reference read it. The
rules themselves are in `csrc/core`, in `triton_kernels/rules.py` and in `fusedsched.reference`; a test compares their
numbers, states and choices with the spec.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor


class NonZero(Protocol):
    """`nonzero[name]`: whether that number of a group is other than zero. A tensor counts as such."""

    def __getitem__(self, name: str, /) -> bool: ...


def not_negative(what: str) -> Callable[[Any], None]:
    """A check with torch's sentence, `Invalid {what}: {value}`."""

    def check(value: Any) -> None:
        if not 0.0 <= value:
            raise ValueError(f"Invalid {what}: {value}. It must be zero or more.")

    return check


def not_nan(what: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if value != value:
            raise ValueError(f"Invalid {what}: {value}. It must be a number.")

    return check


def one_of_unit_interval(what: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if not 0.0 <= value < 1.0:
            raise ValueError(f"Invalid {what}: {value}. It must be in [0, 1).")

    return check


def _anything(value: Any) -> None:
    pass


class Hyperparameter(NamedTuple):
    """One number of a group: `group[key]`, or `group[key][item]`."""

    name: str
    key: str
    item: int | None = None
    check: Callable[[Any], None] = _anything
    schedulable: bool = True
    flag: bool = False
    """True or false, as Python takes the value: neither checked nor scheduled."""
    below: float = inf
    """What the values of a schedule stay below."""

    def read(self, group: dict[str, Any]) -> Any:
        try:
            value = group[self.key]
        except KeyError:
            raise KeyError(f"A group has no '{self.key}': it was removed or never loaded.") from None
        try:
            return value if self.item is None else value[self.item]
        except (IndexError, TypeError):
            raise ValueError(f"A group has '{self.key}' = {value!r:.80}, which is no pair.") from None

    def write(self, group: dict[str, Any], value: Any) -> None:
        if self.item is not None:
            if self.key not in group:
                raise KeyError(f"A group has no '{self.key}': it was removed or never loaded.")
            value = tuple(value if i == self.item else x for i, x in enumerate(group[self.key]))
        group[self.key] = value

    def verify(self, group: dict[str, Any]) -> None:
        """Raises ValueError if the group's value is not allowed. A value on a device is not read: that waits.
        None is to be filled in before the first step, which asks for numbers."""
        if group[self.key] is None:
            return
        value = self.read(group)
        if isinstance(value, Tensor) and (value.device.type != "cpu" or value.numel() != 1):
            return
        self.check(value)


def flag(name: str) -> Hyperparameter:
    """A hyperparameter that is true or false."""
    return Hyperparameter(name, name, schedulable=False, flag=True)


def _always(nonzero: NonZero) -> bool:
    return True


class StateArray(NamedTuple):
    """An array of a parameter's state, of the parameter's shape and strides."""

    name: str
    needed: Callable[[NonZero], bool] = _always
    """Whether groups with these numbers have it. Rules use the first of a spec's arrays, so this holds for those before
    it, too."""
    init: Literal["zeros", "gradient"] = "zeros"
    """What the first update finds. "gradient": the first gradient. Kernels find zeros then, and know the first update
    by a count of 0; the reference rule makes the array itself."""
    dtype: torch.dtype | None = None
    """None: that of the parameter."""


class OptimizerSpec(NamedTuple):
    """One optimizer."""

    name: str
    """The class that errors and profiles name."""
    family: str
    """Whose rules it chooses from: `kFamily` of a header of csrc/core."""
    hyperparameters: tuple[Hyperparameter, ...]
    """In the order of the header's `Hyper`. Flags come last."""
    states: tuple[StateArray, ...]
    """In the order in which rules take them."""
    counts_steps: bool
    """Whether `state["step"]` has the number of updates of a parameter."""
    choose: Callable[[NonZero], str]
    """The name of the rule for groups with these numbers: `choose` of the header."""
    reference: Callable[[dict[str, Any], Tensor, Tensor, dict[str, Any], int], None]
    """(group, parameter, gradient, state, step): one update in torch's operations."""
    sparse_error: str
    """The first sentence about a sparse gradient."""
    torch_class: type[torch.optim.Optimizer] | None
    """torch's class whose arguments, checks and differentiable step it has; None if torch has none."""

    @property
    def numbers(self) -> tuple[Hyperparameter, ...]:
        """The hyperparameters that are no flags."""
        return tuple(h for h in self.hyperparameters if not h.flag)

    @property
    def number_keys(self) -> tuple[str, ...]:
        """Where groups have them."""
        return tuple(dict.fromkeys(h.key for h in self.numbers))

    @property
    def state_names(self) -> tuple[str, ...]:
        return tuple(state.name for state in self.states)

    def needed_states(self, group: dict[str, Any]) -> tuple[StateArray, ...]:
        """The arrays that parameters of this group have once they were updated."""
        nonzero = _OfGroup(self, group)
        return tuple(state for state in self.states if state.needed(nonzero))

    def needed_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The keys of their state, the count of steps among them."""
        names = tuple(state.name for state in self.needed_states(group))
        return (*names, "step") if self.counts_steps else names


class _OfGroup:
    """`NonZero` of a group as it is now."""

    def __init__(self, spec: OptimizerSpec, group: dict[str, Any]) -> None:
        self._spec, self._group = spec, group

    def __getitem__(self, name: str, /) -> bool:
        value = next(h for h in self._spec.hyperparameters if h.name == name).read(self._group)
        return isinstance(value, Tensor) or bool(value)
