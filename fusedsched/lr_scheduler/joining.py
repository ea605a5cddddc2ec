# SPDX-License-Identifier: Apache-2.0
"""Parameter groups that are added after the scheduler was built.

torch raises, or gives the new group a wrong phase. Here it joins at the scheduler's next step as if it had been there
from the start: its base rate is its own, the phase is everybody's. One that was split off goes on as the other does.
"""

from __future__ import annotations

from typing import Any

from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.swa_utils import SWALR

from .forms import form_of, swa_zero
from .rows import value
from .saving import write_lr
from .tracks import copied, same, scalar


def shared(what: str, values: list[Any], count: int, where: str) -> Any:
    """The value that all earlier groups have, or a ValueError: nobody said which one a new group gets."""
    if all(v is values[0] or v == values[0] for v in values[1:]):
        return copied(values[0])
    raise ValueError(
        f"{what} must have the same length as optimizer.param_groups. "
        f"{what} has {len(values)} values, param_groups has {count}. The groups have different ones, so {where} "
        "before the next scheduler.step()."
    )


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
    """The group gets the keys that it does not bring with it and that all earlier groups have alike."""
    earlier = s.optimizer.param_groups[:i]
    count = len(s.optimizer.param_groups)
    missing = [key for key in keys if key not in group]
    group.update(
        {key: shared(key, [g[key] for g in earlier], count, f'set group["{key}"] in the new group') for key in missing}
    )


def _one_cycle(s: Any, i: int, group: dict[str, Any]) -> None:
    """`max_lr` is the group's own or everybody's; the other two follow from it, as when the scheduler was built."""
    _inherit(s, i, group, ("max_lr", *(("base_momentum", "max_momentum") if s.cycle_momentum else ())))
    first = s.optimizer.param_groups[0]
    ratio = group["max_lr"] / first["max_lr"]
    group["initial_lr"], group["min_lr"] = first["initial_lr"] * ratio, first["min_lr"] * ratio


def _prepare(s: Any, i: int, group: dict[str, Any]) -> None:
    if isinstance(s, (torch_schedulers.LambdaLR, torch_schedulers.MultiplicativeLR)):
        _extend(s, ("lr_lambdas",))
    elif isinstance(s, torch_schedulers.CyclicLR):
        cycled = ("base_momentums", "max_momentums") if s.cycle_momentum else ()
        _extend(s, ("base_lrs", "max_lrs", *cycled))
        write_lr(group, s.base_lrs[i])
        if s.cycle_momentum:
            group["base_momentum"], group["max_momentum"] = s.base_momentums[i], s.max_momentums[i]
    elif isinstance(s, torch_schedulers.OneCycleLR):
        _one_cycle(s, i, group)
    elif isinstance(s, SWALR):
        _inherit(s, i, group, ("swa_lr",))


def _is_split_off(s: Any, i: int, group: dict[str, Any]) -> bool:
    """Whether it was made of another group: it is where that is."""
    twins = (twin for twin in s.optimizer.param_groups[:i] if "initial_lr" in group and "initial_lr" in twin)
    return any(same(twin["initial_lr"], group["initial_lr"]) and same(twin["lr"], group["lr"]) for twin in twins)


def join(s: Any, i: int, group: dict[str, Any]) -> tuple[int, float]:
    """Takes group i in, at the rate of the scheduler's present step; returns the origin of its closed form."""
    started = type(s.last_epoch) is int and s.last_epoch >= 0
    split = _is_split_off(s, i, group)
    _prepare(s, i, group)
    start = scalar(group["lr"])
    group.setdefault("initial_lr", copied(group["lr"]))
    if len(s.base_lrs) == i:
        s.base_lrs = [*s.base_lrs, copied(group["initial_lr"])]
    origin = (0, start)
    form = form_of(s)
    if split:
        origin = (s.last_epoch, start)
    elif form is not None and started:
        origin = (swa_zero(s) if isinstance(s, SWALR) else 0, form.first(s, i, start))
        rows = form.rows(s, i, *origin)
        if rows is not None:
            write_lr(group, value(rows, s.last_epoch))
    elif isinstance(s, torch_schedulers.MultiplicativeLR) and started:
        for epoch in range(1, s.last_epoch + 1):
            start *= s.lr_lambdas[i](epoch)
        write_lr(group, start)
    s._last_lr = [*s._last_lr, copied(group["lr"])]
    return origin
