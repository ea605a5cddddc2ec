# SPDX-License-Identifier: Apache-2.0
"""Parameter groups that join late.

A group joins at the scheduler's next step. Its base rate is `initial_lr` if it brings one, else `lr`. Classes that
compute a rate from the one before continue from the group's present rate; those that compute it from the base rate
overwrite it, where the optimizer is one of this package already when the group is added.
"""

from __future__ import annotations

from typing import Any

from fusedsched.torch_originals import schedulers as torch_schedulers

from ..schedules.compositions import active_member, branch_of, is_chain, is_composite, is_sequence, leaf_schedulers
from ..schedules.torch_classes import torch_name
from .devices import tensors_kept
from .driver import groups_of, write_lr
from .member_counters import members_of
from .watched_values import copied, same

_FROM_BASE = ("LambdaLR", "CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR")
_BY_FUNCTION = ("LambdaLR", "MultiplicativeLR")


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
    if name in _BY_FUNCTION:
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


def sets_late_rate(scheduler: Any, schedulers: list[Any]) -> bool:
    """Whether a new group needs the rate of this scheduler now. `schedulers`: all of the optimizer.

    Members are their composition's business. Of several schedulers, the rates follow the one that wrote them last.
    """
    inside = {id(member) for one in schedulers if is_composite(one) for member in members_of(one)}
    if id(scheduler) in inside or not _overwrites(scheduler):
        return False
    if all(one is scheduler or id(one) in inside for one in schedulers):
        return True
    written = zip(groups_of(scheduler.optimizer), scheduler.get_last_lr(), strict=False)
    return any(same(group["lr"], lr) for group, lr in written)


def _overwrites(s: Any) -> bool:
    """Whether the last step computed rates from base rates."""
    if not hasattr(s, "_skip_guard") or branch_of(s) is not None:
        return False
    if is_sequence(s):
        return _overwrites(active_member(s, max(s.last_epoch, 0))[0])
    if is_chain(s):
        return any(map(_overwrites, s._schedulers))
    return torch_name(type(s)) in _FROM_BASE and "base_lrs" in s.__dict__ and s.last_epoch >= 0


def write_late_rate(s: Any, i: int, overwritten: bool = False) -> bool:
    """Gives group i, which has just joined, the rate that its base rate has at the present step.

    `overwritten`: an earlier member of a chain has done so; then this one does with it what its last step did with the
    others. Returns whether the group has such a rate now.
    """
    if is_sequence(s):
        overwritten = write_late_rate(active_member(s, max(s.last_epoch, 0))[0], i, overwritten)
    elif is_chain(s):
        for member in s._schedulers:
            overwritten = write_late_rate(member, i, overwritten)
    elif (overwritten and "base_lrs" in s.__dict__) or _overwrites(s):
        with tensors_kept(s.optimizer):
            write_lr(groups_of(s.optimizer)[i], _rate_of_now(s, i))
        overwritten = True
    if overwritten and hasattr(s, "_skip_guard"):
        kept = s._last_lr[:i]
        s._last_lr = [*kept, *(copied(group["lr"]) for group in groups_of(s.optimizer)[len(kept) :])]
    return overwritten


def _rate_of_now(s: Any, i: int) -> Any:
    """What torch's code, or a user's, makes of group i in the present step. Momentum is set on the way."""
    groups, name = groups_of(s.optimizer), torch_name(type(s))
    if name in _BY_FUNCTION and type(s).get_lr is getattr(torch_schedulers, name).get_lr:
        before = s.base_lrs[i] if name == "LambdaLR" else groups[i]["lr"]
        called = name == "LambdaLR" or s.last_epoch > 0
        return before * s.lr_lambdas[i](s.last_epoch) if called else before  # no function of another group is called
    others = [dict(group) for group in groups[:i]]
    with torch_schedulers._enable_get_lr_call(s):
        rate = s.get_lr()[i]
    for group, kept in zip(groups, others, strict=False):
        group.update(kept)
    return rate
