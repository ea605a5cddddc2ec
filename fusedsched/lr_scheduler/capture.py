# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: whether one is captured where an optimizer works, and what a scheduler refuses then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from fusedsched.runtime import hyperparameters
from fusedsched.runtime.hyperparameters import runtime_of

from .driver import groups_of


def capture_probe(optimizer: Any) -> Callable[[], bool] | None:
    """A function that returns whether a graph is being captured on the optimizer's device; None: there never is one."""
    runtime, groups = runtime_of(optimizer), groups_of(optimizer)
    plan = None if runtime is None else runtime.plan
    foreign = runtime is None or (plan is not None and "triton" in plan.name)
    if foreign or (groups and isinstance(groups[0]["lr"], Tensor)):
        return hyperparameters.capture_probe(optimizer, groups)
    there_is_one = "cuda" in (runtime.backends() if plan is None else plan.name)
    return runtime.capturing if there_is_one else None


def is_capturing(optimizer: Any) -> bool:
    """Whether a graph is captured on the optimizer's device."""
    probe = capture_probe(optimizer)
    return probe is not None and probe()


def has_subscribers(optimizer: Any) -> bool:
    """Whether a scheduler of the optimizer already steps on devices."""
    runtime = runtime_of(optimizer)
    return runtime is not None and bool(runtime.subscribers)


def refuse_capture(scheduler: Any, what: str) -> None:
    """Raises RuntimeError while a graph is captured: `what` would be the same in every replay."""
    if is_capturing(scheduler.optimizer):
        raise RuntimeError(
            f"{type(scheduler).__name__}.{what} cannot be captured: a graph would repeat the decision of now for ever. "
            "Call it outside of the graph."
        )


class WithoutScheduleError(RuntimeError):
    """Only torch's code can step a scheduler, where a device should."""


def refuse_without_schedule(scheduler: Any, tensors: bool) -> None:
    """Raises WithoutScheduleError for a scheduler that only torch's code can step, while a graph is captured."""
    if not tensors:
        refuse_mixed(scheduler)
    known = " that a kernel knows" if tensors else ""
    raise WithoutScheduleError(
        f"{type(scheduler).__name__}.step() cannot be captured: its rates have no closed form{known}, and a graph "
        "would repeat the one of now for ever. Give the optimizer a native schedule (fusedsched.schedules."
        "from_function, from_torch), or step it outside of the graph."
    )


def refuse_mixed(scheduler: Any) -> None:
    """Raises RuntimeError for rates of which some are tensors that no kernel here writes."""
    optimizer, kind = scheduler.optimizer, type(scheduler).__name__
    tensors = [isinstance(group["lr"], Tensor) for group in groups_of(optimizer)]
    if any(tensors):
        what = "is a tensor, of another a number" if not all(tensors) else "is a tensor that no kernel here can write"
        raise RuntimeError(
            f"{kind}.step() cannot be captured: the lr of a param group {what}. Give every group a tensor of its own "
            "with one floating point element, all on one GPU with a CUDA or Triton backend."
        )
    if runtime_of(optimizer) is None:
        raise RuntimeError(
            f"{kind}.step() cannot be captured: the lr of {type(optimizer).__name__} is a number, which a graph keeps. "
            "Give it a tensor on the device; or take the optimizer of fusedsched, whose numbers move in a graph too."
        )
    if not optimizer._runtime.backends() <= {"cuda"}:
        raise RuntimeError(
            f"{kind}.step() cannot be captured: not every parameter is updated by the CUDA backend, and others read "
            "numbers from the host. Give every group a tensor on the device as lr."
        )


def refuse_yet(scheduler: Any) -> None:
    """Raises RuntimeError for a step that cannot be captured as its tables are not written."""
    raise RuntimeError(
        f"{type(scheduler).__name__}.step() cannot be captured yet: the tables that its kernel reads have to be "
        "written before. Call step() once outside of the graph, after the last change of the scheduler or of "
        "param_groups, and capture then."
    )


def refuse_edited(scheduler: Any) -> None:
    """Raises RuntimeError for an edit that has not been copied to the device before a capture."""
    raise RuntimeError(
        f"The lr of a param group, or an option of {type(scheduler).__name__}, was written to after the last step. "
        "Call optimizer.sync_hparams() or scheduler.state_dict() before the capture, so that the graph starts from it."
    )


def refuse_second(scheduler: Any, what: str, tensors: bool) -> None:
    """Raises RuntimeError for a second scheduler in graphs, or on devices. `tensors`: what the rates are."""
    otherwise = "" if tensors else ", or give lr as a tensor on the device"
    raise RuntimeError(
        f"{type(scheduler).__name__}.step() cannot be {what}, and the rates can follow one. Put them into a "
        f"SequentialLR or ChainedScheduler{otherwise}."
    )
