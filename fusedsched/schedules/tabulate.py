# SPDX-License-Identifier: Apache-2.0
"""Schedules from what somebody already has: a Python function, or a torch scheduler object."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

from fusedsched.schedules.arguments import count, one_of

from .compositions import leaf_schedulers, schedule_of, takes_metric
from .evaluate import Shape
from .expression import Schedule, Segment, finite


def _table(values: list[float], past_end: str, unit: str) -> Segment:
    one_of("past_end", past_end, ("hold", "cycle", "error"))
    return Segment(
        Shape.TABLE,
        values=tuple(values),
        period=float(len(values)) if past_end == "cycle" else 0.0,
        horizon=len(values) - 1.0 if past_end == "error" else -1.0,
        unit=unit,
    )


def from_function(f: Callable[[int], float], steps: int, *, past_end: str = "error", unit: str = "update") -> Schedule:
    """Any Python function of t, tabulated: `f` is called once for each t = 0 .. steps - 1, here and never again.

    Asking for t >= steps is an error unless `past_end` is "hold" (the last value stays) or "cycle".

    >>> from_function(lambda t: 1.0 / (1 + t), steps=4, past_end="hold").curve(5)
    [1.0, 0.5, 0.3333333333333333, 0.25, 0.25]
    """
    if not callable(f):
        raise TypeError(f"from_function() needs a function of t, got {f!r}. A number is a schedule by constant().")
    n = int(count("steps", steps, least=1))
    values = [finite(f"value of f at t = {t}", f(t)) for t in range(n)]
    return _table(values, past_end, unit).check("f")


def from_torch(scheduler: Any, steps: int | None = None, group: int = 0, *, past_end: str = "error") -> Schedule:
    """What a torch scheduler does to the learning rate of one parameter group, as a schedule.

    Clock t is the scheduler's `last_epoch`: the schedule starts where the scheduler started, from the group's
    `initial_lr`, whatever has been stepped since. Nothing of the scheduler or its optimizer is changed.

    The classes of `torch.optim.lr_scheduler` (and ours) become closed forms, with torch's values past their end too.
    Anything else (a subclass, LambdaLR, an odd composition) is run for `steps` on a stand-in optimizer that has none of
    your parameters, and becomes a table; `past_end` says what holds after it, as in `from_function`.

    Args:
        scheduler: a scheduler object.
        steps: how many values to tabulate; not needed for a closed form.
        group: index of the parameter group.

    >>> import torch
    >>> opt = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    >>> from_torch(torch.optim.lr_scheduler.StepLR(opt, step_size=2, gamma=0.5)).curve(5)
    [1.0, 1.0, 0.5, 0.5, 0.25]
    >>> from_torch(torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 1 / (1 + t)), steps=3).curve(3)
    [1.0, 0.5, 0.3333333333333333]
    """
    kind = type(scheduler).__name__
    if not (hasattr(scheduler, "optimizer") and callable(getattr(scheduler, "step", None))):
        raise TypeError(f"from_torch() needs a torch scheduler object, got {kind}.")
    n_groups = len(scheduler.optimizer.param_groups)
    if not 0 <= group < n_groups:
        raise ValueError(f"Invalid group: {group}. The scheduler's optimizer has {n_groups} parameter groups, from 0.")
    closed = None if _follows_metric(scheduler) else schedule_of(scheduler, group)
    if closed is not None:
        return closed
    branch = getattr(scheduler, "_branch", None)
    if branch is not None:  # the table is needed up to there
        table = _table(_tabulate(scheduler, max(1, branch.first_begin()), group), "hold", "update")
        return branch.after(table, group)
    if steps is None:
        raise ValueError(
            f"steps is missing: {kind} has no closed form here and must be tabulated. Give steps=, the number of "
            "updates of the whole run."
        )
    return _table(_tabulate(scheduler, int(count("steps", steps, least=1)), group), past_end, "update")


def _tabulate(scheduler: Any, n: int, group: int) -> list[float]:
    """The values of a copy of `scheduler`, run from its start on a stub optimizer."""

    kind = type(scheduler).__name__
    if _follows_metric(scheduler):
        raise ValueError(f"{kind} follows a metric, so it is no function of time and has no table. Step it yourself.")
    optimizer = scheduler.optimizer
    stub = _stub_optimizer(optimizer)
    memo: dict[int, Any] = {id(optimizer): stub}
    _share_models(scheduler, memo, set())
    twin = copy.deepcopy(scheduler, memo)
    if _steps_taken(scheduler) > 0:
        _rewind(twin, stub)
    values = [stub.param_groups[group]["lr"]]
    while len(values) < n:
        twin.step()
        values.append(stub.param_groups[group]["lr"])
    return [finite(f"lr of {kind} at step {t}", value) for t, value in enumerate(values)]


def _follows_metric(scheduler: Any) -> bool:
    return any(map(takes_metric, leaf_schedulers(scheduler)))


def _stub_optimizer(optimizer: Any) -> Any:
    """An optimizer with the same hyperparameters, as Python floats, and one empty parameter per group."""
    import torch

    class Stub(torch.optim.Optimizer):
        def step(self, closure: Any = None) -> None:
            pass

        # The scheduler looks for these marks to warn about the order of calls; a stub has no order.
        step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
        _opt_called = True

    groups = []
    for group in optimizer.param_groups:
        plain = {k: v.item() if torch.is_tensor(v) and v.numel() == 1 else copy.copy(v) for k, v in group.items()}
        groups.append({**plain, "params": [torch.zeros(0)]})
    return Stub(groups, dict(optimizer.defaults))


def _share_models(value: Any, memo: dict[int, Any], seen: set[int]) -> None:
    """Marks what a deep copy must not copy: the user's modules and tensors stay the user's."""
    import torch

    if id(value) in seen or id(value) in memo:
        return
    seen.add(id(value))
    if isinstance(value, (torch.nn.Module, torch.Tensor)):
        memo[id(value)] = value
    elif isinstance(value, MethodType):
        _share_models(value.__self__, memo, seen)
    elif isinstance(value, dict):
        for item in value.values():
            _share_models(item, memo, seen)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            _share_models(item, memo, seen)
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        _share_models(vars(value), memo, seen)


def _steps_taken(scheduler: Any) -> int:
    """A chain does not count its steps; its members do."""
    return max(
        (_steps_taken(child) for child in getattr(scheduler, "_schedulers", ())),
        default=getattr(scheduler, "last_epoch", 0),
    )


def _rewind(twin: Any, stub: Any) -> None:
    """Puts a stepped scheduler back to its start."""
    if hasattr(twin, "_schedulers") or not hasattr(twin, "_initial_step"):
        raise ValueError(
            f"This {type(twin).__name__} has been stepped {_steps_taken(twin)} times and cannot be put back. "
            "Call from_torch() before its first step, or build a new one."
        )
    for group in stub.param_groups:
        group["lr"] = group["initial_lr"]
    twin.last_epoch = -1
    twin._initial_step()
