# SPDX-License-Identifier: Apache-2.0
"""`module:object` on a command line, and the schedules of that object."""

from __future__ import annotations

import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from ..schedules.expression import Schedule, as_schedule
from .parsing import parse

Curves = dict[str, list[tuple[str, Schedule]]]  # by hyperparameter: (label, schedule)

_MODULE_AND_OBJECT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_FILE_AND_OBJECT = re.compile(r"([\w./\\-]+)\.py:([A-Za-z_][\w.]*)")


def is_reference(text: str) -> bool:
    """Whether a text has the form `module:object`. No expression has a colon.

    >>> is_reference("train:scheduler"), is_reference("linear(1.0, 0.0, steps=4)")
    (True, False)
    """
    return bool(_MODULE_AND_OBJECT.fullmatch(text.strip()))


def check_no_file(text: str) -> None:
    """Raises ValueError for `file.py:object`, with the text to write instead.

    >>> check_no_file("jobs/train.py:scheduler")
    Traceback (most recent call last):
    ValueError: 'jobs/train.py:scheduler' names a file. Name the module, without .py: jobs.train:scheduler
    """
    found = _FILE_AND_OBJECT.fullmatch(text.strip())
    if found:
        module = re.sub(r"[/\\]+", ".", re.sub(r"^(\.[/\\])+", "", found[1]))
        raise ValueError(f"{text!r} names a file. Name the module, without .py: {module}:{found[2]}")


def load(text: str) -> Any:
    """The object that `module:object` names. The working directory is searched for the module too.

    Raises ValueError if there is no such module or object. Errors of the module itself come through.
    """
    check_no_file(text)
    module_name, _, path = text.strip().partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:  # `python -m` searches it, the installed command does not
        sys.path.insert(0, here)
    try:
        value = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise  # the module exists and imports a missing one
        raise ValueError(f"There is no module {module_name!r}, neither installed nor in {here!r}.") from None
    for name in path.split("."):
        if not hasattr(value, name):
            raise ValueError(f"Module {module_name!r} has no {path!r}.")
        value = getattr(value, name)
    return value


def made(text: str) -> Any:
    """The object that `module:object` names; what it returns if it is a function without arguments or a class.

    Other objects that can be called, such as a model, are returned as they are. Raises ValueError as `load` does, and
    for a function that needs arguments.
    """
    value = load(text)
    if not (inspect.isroutine(value) or inspect.isclass(value) or isinstance(value, partial)):
        return value
    try:
        inspect.signature(value).bind()
    except TypeError as error:
        raise ValueError(f"{text} cannot be called without arguments: {error}.") from None
    except ValueError:  # compiled functions may have no signature
        pass
    return value()


def schedules_of(text: str, steps: int | None = None) -> Curves:
    """The schedules to draw for one argument: an expression, or `module:object`.

    The object is a schedule, a scheduler (torch's or ours), an optimizer with native schedules, or a function without
    arguments that returns one of these. `steps`: updates to tabulate if a scheduler has no closed form.
    Raises ValueError, TypeError.
    """
    check_no_file(text)
    if not is_reference(text):
        return {"lr": [(text.strip(), parse(text))]}
    value = made(text)
    if isinstance(value, (Schedule, int, float)):
        return {"lr": [(text, as_schedule(value))]}
    if hasattr(value, "optimizer") and callable(getattr(value, "step", None)):
        return _of_scheduler(value, text, steps)
    if hasattr(value, "param_groups"):
        return _of_optimizer(value, text)
    raise TypeError(
        f"{text} is a {type(value).__name__}. Give a schedule, a scheduler, an optimizer with native schedules, or a "
        "function without arguments that returns one."
    )


def _per_group(text: str, schedules: list[Schedule | None]) -> list[tuple[str, Schedule]]:
    """One curve if all groups agree, else one per group."""
    found = [(i, schedule) for i, schedule in enumerate(schedules) if schedule is not None]
    if len({schedule for _, schedule in found}) == 1:
        return [(text, found[0][1])]
    return [(f"{text}, group {i}", schedule) for i, schedule in found]


def _of_scheduler(scheduler: Any, text: str, steps: int | None) -> Curves:
    from ..schedules import from_torch

    groups = range(len(scheduler.optimizer.param_groups))
    try:
        curves = {"lr": _per_group(text, [from_torch(scheduler, steps, group=g, past_end="hold") for g in groups])}
    except ValueError as error:
        hint = " On the command line: --steps." if "steps is missing" in str(error) else ""
        raise ValueError(f"{error}{hint}") from None
    momentum = _momentum(scheduler)
    if momentum is not None:
        curves["momentum"] = _per_group(text, [momentum(g) for g in groups])
    return curves


def _momentum(scheduler: Any) -> Callable[[int], Schedule] | None:
    """The momentum (or beta1) that a scheduler cycles, by group; None if it does not cycle it."""
    from fusedsched.torch_originals import schedulers as torch_schedulers

    from .. import schedules

    if not getattr(scheduler, "cycle_momentum", False):
        return None
    if isinstance(scheduler, torch_schedulers.OneCycleLR):
        groups, phases = scheduler.optimizer.param_groups, scheduler._schedule_phases

        def one_cycle(g: int) -> Schedule:
            return schedules.one_cycle_momentum(
                scheduler.total_steps,
                groups[g]["base_momentum"],
                groups[g]["max_momentum"],
                pct_start=(phases[0]["end_step"] + 1) / scheduler.total_steps,
                anneal_strategy=scheduler._anneal_func_type,
                three_phase=len(phases) == 3,
            )

        return one_cycle
    if isinstance(scheduler, torch_schedulers.CyclicLR) and scheduler._scale_fn_custom is None:
        total, up = round(scheduler.total_size), round(scheduler.total_size * scheduler.step_ratio)
        if (total, up / total) != (scheduler.total_size, scheduler.step_ratio):
            return None  # a fractional number of steps

        def cyclic(g: int) -> Schedule:
            return schedules.cyclic(
                scheduler.max_momentums[g],
                scheduler.base_momentums[g],
                up,
                total - up,
                mode=scheduler.mode,
                gamma=scheduler.gamma,
            )

        return cyclic
    return None


def _of_optimizer(optimizer: Any, text: str) -> Curves:
    native = [group.get("schedules", {}) for group in optimizer.param_groups]
    names = list(dict.fromkeys(name for schedules in native for name in schedules))
    if not names:
        raise ValueError(f"{text} is an optimizer without native schedules. Give its scheduler.")
    order = sorted(names, key=lambda name: (name != "lr", name == "weight_decay"))
    return {name: _per_group(text, [schedules.get(name) for schedules in native]) for name in order}


def from_user_code(error: BaseException) -> bool:
    """Whether an error was raised outside this package, by the user's module or function."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    package = Path(__file__).resolve().parents[1]
    return trace is not None and package not in Path(trace.tb_frame.f_code.co_filename).resolve().parents


def answer(error: Exception) -> int:
    """Prints an error and returns the exit code: 1 with a traceback for an error in the user's code, 2 with a sentence
    for an error of this package. Call it while the error is handled."""
    if isinstance(error, (OSError, RuntimeError, TypeError, ValueError)) and not from_user_code(error):
        print(f"error: {error}", file=sys.stderr)
        return 2
    traceback.print_exc()
    return 1
