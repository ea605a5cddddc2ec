# SPDX-License-Identifier: Apache-2.0
"""Where an optimizer's rates are, if a kernel can write them; whether a CUDA graph is captured there, and what a
scheduler refuses then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from fusedsched.runtime import hyperparameters
from fusedsched.runtime.hyperparameters import Placement, runtime_of

from .driver import groups_of
from .watched_values import copied, scalar


def placement_of(optimizer: Any) -> Placement | None:
    """Where the rates of all groups are, if a kernel can write them."""
    return hyperparameters.placement_of(optimizer, groups_of(optimizer))


def number_of(group: dict[str, Any], name: str) -> Any:
    """A hyperparameter that schedulers write: "lr", "momentum" or "beta1"."""
    return group["betas"][0] if name == "beta1" else group[name]


def write_number(group: dict[str, Any], name: str, value: Any) -> None:
    """Puts another object in its place."""
    if name == "beta1":
        group["betas"] = (value, *group["betas"][1:])
    else:
        group[name] = value


def momentum_tensor(group: dict[str, Any], slot: str, place: Placement) -> Tensor | None:
    """The momentum or beta1 of a group, if a kernel can write it."""
    now = number_of(group, slot)
    return now if hyperparameters.writable(now, place.device) else None


@contextmanager
def tensors_kept(optimizer: Any) -> Iterator[None]:
    """torch replaces a momentum that is a tensor by a number; here the tensor gets the number."""
    place = placement_of(optimizer) if isinstance(optimizer, Optimizer) else None
    before = [_momenta(group, place) for group in groups_of(optimizer)] if place is not None else []
    yield
    for group, tensors in zip(groups_of(optimizer) if before else (), before, strict=False):
        for slot, tensor in tensors.items():
            now = number_of(group, slot)
            if now is not tensor:
                tensor.fill_(float(now))
                write_number(group, slot, tensor)


@contextmanager
def kinds_kept(scheduler: Any) -> Iterator[None]:
    """The same, and where a base rate is a tensor torch writes tensors; here a rate that is a number stays one."""
    numbers = [group for group in groups_of(scheduler.optimizer) if not isinstance(group["lr"], Tensor)]
    with tensors_kept(scheduler.optimizer):
        yield
    replaced = [group for group in numbers if isinstance(group["lr"], Tensor)]
    for group in replaced:
        group["lr"] = scalar(group["lr"])
    if replaced:
        scheduler.__dict__["_last_lr"] = [copied(group["lr"]) for group in groups_of(scheduler.optimizer)]


def _momenta(group: dict[str, Any], place: Placement) -> dict[str, Tensor]:
    present = [slot for slot, key in (("beta1", "betas"), ("momentum", "momentum")) if key in group]
    found = {slot: momentum_tensor(group, slot, place) for slot in present}
    return {slot: tensor for slot, tensor in found.items() if tensor is not None}


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
