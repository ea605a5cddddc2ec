# SPDX-License-Identifier: Apache-2.0
"""Rates and momenta that are tensors on a device, which a kernel can write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from fusedsched.runtime import hyperparameters
from fusedsched.runtime.hyperparameters import Placement

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
