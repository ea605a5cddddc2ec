# SPDX-License-Identifier: Apache-2.0
"""Parameter groups that join late.

A group joins at the scheduler's next step. Its base rate is `initial_lr` if it brings one, else `lr`. Classes that
compute a rate from the one before continue from the group's present rate; those that compute it from the base rate
overwrite it.
"""

from __future__ import annotations

from typing import Any

from ..schedules.compositions import leaf_schedulers
from ..schedules.torch_classes import torch_name
from .driver import groups_of
from .watched_values import copied


def shared(what: str, values: list[Any], count: int, where: str) -> Any:
    """The value that all earlier groups have. Raises ValueError where they differ: a new one could be any."""
    if all(v is values[0] or v == values[0] for v in values[1:]):
        return copied(values[0])
    raise ValueError(
        f"{what} must have the same length as optimizer.param_groups. "
        f"{what} has {len(values)} values, param_groups has {count}. The groups have different ones, so {where} "
        "before the next scheduler.step()."
    )


def add_groups(scheduler: Any) -> None:
    """Takes in the groups that were added to the optimizer since, into all members of a composite."""
    count = len(groups_of(scheduler.optimizer))
    if scheduler._branch is not None:
        scheduler._branch.add_groups(scheduler)
    for leaf in leaf_schedulers(scheduler):
        if hasattr(leaf, "_skip_guard") and "base_lrs" in leaf.__dict__ and len(leaf.base_lrs) < count:
            _add(leaf)


def _add(s: Any) -> None:
    groups, first = s.optimizer.param_groups, len(s.base_lrs)
    for i in range(first, len(groups)):
        _prepare(s, i, groups[i])
    for i, group in enumerate(groups):
        group.setdefault("initial_lr", copied(group["lr"]))
        if len(s.base_lrs) == i:
            s.base_lrs = [*s.base_lrs, copied(group["initial_lr"])]
    last = s.__dict__.get("_last_lr", [])
    s.__dict__["_last_lr"] = [*last, *(copied(group["lr"]) for group in groups[len(last) :])]


def _prepare(s: Any, i: int, group: dict[str, Any]) -> None:
    """What a class has for each group beside its base rate."""
    name = torch_name(type(s))
    if name in ("LambdaLR", "MultiplicativeLR"):
        _extend(s, ("lr_lambdas",))
    elif name == "CyclicLR":
        cycled = ("base_momentums", "max_momentums") if s.cycle_momentum else ()
        _extend(s, ("base_lrs", "max_lrs", *cycled))
        if s.cycle_momentum:
            group["base_momentum"], group["max_momentum"] = s.base_momentums[i], s.max_momentums[i]
    elif name == "OneCycleLR":
        _inherit(s, i, group, ("max_lr", *(("base_momentum", "max_momentum") if s.cycle_momentum else ())))
        first = s.optimizer.param_groups[0]
        ratio = group["max_lr"] / first["max_lr"]
        group["initial_lr"], group["min_lr"] = first["initial_lr"] * ratio, first["min_lr"] * ratio
    elif name == "SWALR":
        _inherit(s, i, group, ("swa_lr",))


def _extend(s: Any, names: tuple[str, ...]) -> None:
    """One more entry in each of these lists of the scheduler, unless the user has added it already."""
    count = len(s.optimizer.param_groups)
    new = {}
    for name in names:
        values = list(getattr(s, name))
        if len(values) < count:
            add = shared(name, values, count, f"append one value for each new group to scheduler.{name}")
            new[name] = [*values, *(copied(add) for _ in range(count - len(values)))]
    s.__dict__.update(new)


def _inherit(s: Any, i: int, group: dict[str, Any], keys: tuple[str, ...]) -> None:
    """The group gets the entries that it does not bring and that all earlier groups have alike."""
    earlier = s.optimizer.param_groups[:i]
    count = len(s.optimizer.param_groups)
    missing = [key for key in keys if key not in group]
    group.update(
        {key: shared(key, [g[key] for g in earlier], count, f'set group["{key}"] in the new group') for key in missing}
    )
