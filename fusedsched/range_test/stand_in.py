# SPDX-License-Identifier: Apache-2.0
"""The optimizer of a trial: on the user's parameters, with separate state and hyperparameters."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from fusedsched import optim, torch_originals
from fusedsched.schedules import Schedule, Shift, from_function, linear

_OURS = {getattr(torch_originals, name): getattr(optim, name) for name in ("AdamW", "Adam", "SGD")}


def ramp(start: float, stop: float, steps: int, mode: str) -> Schedule:
    """The rates of a range test, from `start` at the first update to `stop` at the last, then `stop`.

    exponential: start * (stop / start) ** (u / (steps - 1))        linear: start + (stop - start) * u / (steps - 1)

    >>> [round(lr, 6) for lr in ramp(0.001, 1.0, 4, "exponential").curve(5)]
    [0.001, 0.01, 0.1, 1.0, 1.0]
    """
    last = steps - 1
    if mode == "linear":
        return linear(start, stop, steps=last)
    # A table: an exponential schedule would raise the rounding error of its factor to the power of the step.
    return from_function(lambda u: start * (stop / start) ** (u / last), steps, past_end="hold")


def parameters_of(optimizer: Any) -> list[Tensor]:
    """All parameters of an optimizer, in its order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def stand_in(optimizer: Any, params: Iterable[Tensor]) -> torch.optim.Optimizer:
    """The optimizer that takes the steps instead of `optimizer`, which is not changed.

    None: AdamW with its defaults. An optimizer of torch or fusedsched: a copy with its state on the same parameters;
    torch's AdamW, Adam and SGD become ours. A function or class: its result for `params`.
    Raises TypeError for an optimizer that cannot be copied.
    """
    if optimizer is None:
        return optim.AdamW(list(params))
    if isinstance(optimizer, torch.optim.Optimizer):
        return _copy(optimizer)
    if not callable(optimizer):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}. Give an optimizer, or a function that makes one of parameters."
        )
    made = optimizer(list(params))
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(f"optimizer(params) returned a {type(made).__name__}. It must return an optimizer.")
    return made


def _copy(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    kind = type(optimizer)
    if not kind.__module__.startswith(("torch.optim.", "fusedsched.")) or kind is torch.optim.LBFGS:
        raise TypeError(
            f"A {kind.__name__} cannot be copied safely. Give a function that makes a new one instead: "
            f"optimizer=lambda params: {kind.__name__}(params, ...)"
            + (" (LBFGS cannot be used: it evaluates the loss repeatedly)." if kind is torch.optim.LBFGS else ".")
        )
    # The copy shares the parameters and has its own state.
    twin = copy.deepcopy(optimizer, {id(p): p for p in parameters_of(optimizer)})
    ours = _OURS.get(kind)
    if ours is None or twin.defaults.get("differentiable"):
        return twin
    made = ours([{"params": group["params"]} for group in twin.param_groups])
    made.load_state_dict(twin.state_dict())
    return made


def ratios(optimizer: torch.optim.Optimizer) -> list[float]:
    """The rate of each group divided by the first group's, so that layer-wise rates keep their ratios.

    A group's rate is the base rate of its scheduler, or the highest value of its native schedule.
    """
    rates = []
    for group in optimizer.param_groups:
        schedule = group.get("schedules", {}).get("lr")
        rate = group.get("initial_lr", group["lr"]) if schedule is None else schedule.program.bounds()[1]
        rates.append(float(rate))
    usable = all(math.isfinite(rate) for rate in rates) and rates[0] > 0.0
    return [rate / rates[0] for rate in rates] if usable else [1.0] * len(rates)


def drive(optimizer: torch.optim.Optimizer, rates: Schedule) -> Callable[[int], None]:
    """Replaces the learning rate by the ramp. Returns a function to call before step i.

    Our optimizers evaluate the ramp themselves; for others, each step's rate is written to the groups.
    """
    shares = ratios(optimizer)
    if isinstance(optimizer, optim.AdamW | optim.Adam | optim.SGD):
        optimizer.set_schedule("lr", rates)
        begin = optimizer.state_dict()["param_groups"][0]["fusedsched"]["clocks"][0]  # a copy continues the clock
        for index, share in enumerate(shares):
            own = rates if share == 1.0 else share * rates
            optimizer.set_schedule("lr", Shift(own, begin) if begin else own, group=index)
        return lambda i: None

    def write(i: int) -> None:
        for group, share in zip(optimizer.param_groups, shares, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(share * rates(i))
            else:
                group["lr"] = share * rates(i)

    return write
