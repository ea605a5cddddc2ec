# SPDX-License-Identifier: Apache-2.0
"""Bad arguments, found before anything is changed.

torch finds some of them after it has written to the groups, some after thousands of steps, and some never: the rate
becomes nan. Where torch has a message, ours begins with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

RESUME = (
    "param 'initial_lr' is not specified in param_groups[{i}] when resuming scheduler with last_epoch >= 0.\n"
    "Load the optimizer's state before you build the scheduler, or leave last_epoch at -1."
)


def check_optimizer(optimizer: Any, last_epoch: Any = -1, *, resumes: bool = True) -> None:
    """The optimizer is one, and can be resumed at `last_epoch`."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"{type(optimizer).__name__} is not an Optimizer. "
            "Give the torch.optim.Optimizer whose learning rates are to change."
        )
    if type(last_epoch) is not int or last_epoch < -1:
        raise ValueError(f"Invalid last_epoch: {last_epoch!r}. It must be an integer, -1 or more.")
    for i, group in enumerate(optimizer.param_groups):
        if "lr" in group.get("schedules", {}):
            raise ValueError(
                f"The lr of param_groups[{i}] follows a native schedule, which advances by itself. "
                "Give the optimizer a number as lr, or leave out the scheduler."
            )
    for i, group in enumerate(optimizer.param_groups if resumes and last_epoch >= 0 else ()):
        if "initial_lr" not in group:
            raise KeyError(RESUME.format(i=i))


def number(
    cls: Any, *, finite: bool = False, nonzero: bool = False, least: float = -math.inf, **arguments: Any
) -> None:
    """All arguments, numbers or lists of numbers, are numbers and not nan; infinite ones often make sense (never)."""
    must = " and ".join(
        ["be a finite number" if finite else "be a number"]
        + ["not be 0"] * nonzero
        + [f"be {least:g} or more"] * (least > -math.inf)
    )
    for name, argument in arguments.items():
        listed = isinstance(argument, (list, tuple))
        for i, entry in enumerate(argument if listed else (argument,)):
            where = f"{name}[{i}]" if listed else name
            try:
                value = float(entry) if not isinstance(entry, str) else None
            except (TypeError, ValueError, RuntimeError):
                value = None
            if value is None:
                raise TypeError(f"{cls.__name__}: {where} must be a number, got {entry!r}.")
            if math.isnan(value) or (finite and math.isinf(value)) or (nonzero and value == 0.0) or value < least:
                raise ValueError(f"{cls.__name__}: invalid {where}: {entry}. It must {must}.")


def positive(cls: Any, **arguments: Any) -> None:
    """All arguments are numbers above zero."""
    number(cls, least=0.0, nonzero=True, **arguments)


def between(cls: Any, sentence: str, low: float, high: float, *, open_low: bool = False, **arguments: Any) -> None:
    """All arguments lie between low and high; `sentence` is torch's."""
    for name, entry in arguments.items():
        if isinstance(entry, str) or entry is None:
            number(cls, **{name: entry})
        if not low <= entry <= high or (open_low and entry == low):
            raise ValueError(f"{sentence} {cls.__name__} got {name}={entry!r}.")


def one_of(sentence: str, value: Any, *choices: str) -> None:
    """The value is one of the choices; `sentence` is torch's."""
    if value not in choices:
        raise ValueError(f"{sentence} It must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def per_group(optimizer: torch.optim.Optimizer, **arguments: Any) -> None:
    """A list has one entry for each group."""
    count = len(optimizer.param_groups)
    for name, argument in arguments.items():
        if isinstance(argument, (list, tuple)) and len(argument) != count:
            raise ValueError(
                f"{name} must have the same length as optimizer.param_groups. "
                f"{name} has {len(argument)} values, param_groups has {count}."
            )


def callables(optimizer: torch.optim.Optimizer, functions: Any) -> None:
    """One function, or a list with one for each group."""
    listed = isinstance(functions, (list, tuple))
    if listed and len(functions) != len(optimizer.param_groups):
        raise ValueError(
            f"Expected {len(optimizer.param_groups)} lr_lambdas, but got {len(functions)}. "
            "Give one function for all groups, or a list with one for each."
        )
    for function in functions if listed else (functions,):
        if not callable(function):
            raise TypeError(
                f"lr_lambda should be a function, but got {type(function).__name__}. "
                "It takes the step and returns a factor."
            )


def cycles_momentum(optimizer: torch.optim.Optimizer, cycle_momentum: Any) -> None:
    """There is a momentum to cycle."""
    if cycle_momentum and not {"momentum", "betas"} & optimizer.defaults.keys():
        raise ValueError(
            "optimizer must support momentum or beta1 with `cycle_momentum` option enabled. "
            f"{type(optimizer).__name__} has neither: pass cycle_momentum=False."
        )


def milestones(cls: Any, numbers: Any) -> None:
    """A list of numbers."""
    if not isinstance(numbers, Iterable) or isinstance(numbers, str):
        raise TypeError(f"{cls.__name__}: milestones must be a list of steps, got {numbers!r}.")
    number(cls, milestones=list(numbers))


def metric(scheduler: Any, value: Any) -> Any:
    """Whatever float() takes, or a tensor with one real number, which comes back without its graph."""
    name = f"{type(scheduler).__name__}.step()"
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise _SCALAR_ERROR(
                f"a Tensor with {value.numel()} elements cannot be converted to Scalar. {name} got a metric of shape "
                f"{tuple(value.shape)}: give it one number, such as its mean()."
            )
        if value.is_complex():
            raise TypeError(f"{name} got a metric of dtype {value.dtype}. It must be real.")
        return value.detach()
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} takes the metric as a number or a tensor with one element, got {value!r}.") from None
    return value


def _error_of_many() -> type[Exception]:
    try:
        float(torch.ones(2))
    except (RuntimeError, ValueError) as error:
        return type(error)
    return ValueError


_SCALAR_ERROR = _error_of_many()  # torch has changed its mind


def decider(cls: Any, factor: Any, mode: Any, threshold_mode: Any) -> None:
    """What ReduceLROnPlateau and GreedyLR have in common."""
    if isinstance(factor, (int, float)) and factor >= 1.0:
        raise ValueError(f"Factor should be < 1.0. {cls.__name__} got factor={factor}.")
    number(cls, finite=True, factor=factor)
    one_of(f"mode {mode} is unknown!", mode, "min", "max")
    one_of(f"threshold mode {threshold_mode} is unknown!", threshold_mode, "rel", "abs")


def bounds(optimizer: torch.optim.Optimizer, **arguments: Any) -> None:
    """A list of bounds has one for each group."""
    count = len(optimizer.param_groups)
    for name, bound in arguments.items():
        if isinstance(bound, (list, tuple)) and len(bound) != count:
            raise ValueError(f"expected {count} {name}, got {len(bound)}. Give one for all groups, or one for each.")
