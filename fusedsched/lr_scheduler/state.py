# SPDX-License-Identifier: Apache-2.0
"""State dicts that bring the rates back.

torch's `load_state_dict` of a scheduler writes no rate anywhere: loaded without the optimizer, `get_last_lr()` says one
thing and the groups another. Ours writes the rates of the last step. Where the groups had something else when the state
was taken, one more key of plain data has it.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..schedules.compositions import leaf_schedulers
from ..schedules.edit import NO_EDIT, Edit
from ..schedules.torch_classes import class_of
from .building import reattach
from .devices import tensors_kept
from .driver import groups_of, origin_of, write_lr
from .inputs import clock_of
from .member_counters import sync_counters
from .replan import Branch
from .skip_guard import set_skip_guard
from .watched_values import copied, same, scalar

KEY = "fusedsched"


def current_edits(scheduler: Any) -> list[Edit] | None:
    """The edit of each group; None: there is none. One that is over is none."""
    driver = scheduler._driver
    found = scheduler._edits if driver is None else driver.edits()
    clock = clock_of(scheduler) if found else 0
    edits = [edit if clock < edit.until else NO_EDIT for edit in map(Edit._make, found or ())]
    return None if all(edit == NO_EDIT for edit in edits) else edits


def extended(scheduler: Any, state: dict[str, Any]) -> dict[str, Any]:
    """`state`, and our key where torch's keys do not say everything: other rates or momenta in the groups than those of
    the last step, edits, a branch, a skip guard."""
    state.pop(KEY, None)
    beyond, edits = {}, current_edits(scheduler)
    if edits is not None:
        beyond["edits"] = [list(edit) for edit in edits]
    if scheduler._branch is not None:
        beyond["branch"] = scheduler._branch.saved(scheduler)
    if scheduler._skip_guard is not None:
        beyond["advance_on_skip"] = False
    present, last = _hyperparameters(scheduler), list(map(scalar, state.get("_last_lr", ())))
    if beyond or present != {**present, "lr": last, **_momenta_of(scheduler)}:
        state[KEY] = {"checksum": _checksum(state), **present, **beyond}
    return state


def _hyperparameters(scheduler: Any) -> dict[str, list[Any]]:
    """What a scheduler writes, as the groups have it."""
    groups = scheduler.optimizer.param_groups
    found: dict[str, list[Any]] = {"lr": [scalar(group["lr"]) for group in groups]}
    if getattr(scheduler, "cycle_momentum", False):
        key = "betas" if scheduler.use_beta1 else "momentum"
        found[key] = [list(map(scalar, g[key])) if key == "betas" else scalar(g[key]) for g in groups]
    return found


def _momenta_of(scheduler: Any) -> dict[str, list[Any]]:
    """The momentum or betas of each group at the present step; empty where a scheduler leaves them alone."""
    entry, clock = class_of(type(scheduler)), scheduler.__dict__.get("last_epoch", -1)
    groups = groups_of(scheduler.optimizer)
    if entry is None or entry.momentum is None or not scheduler.cycle_momentum or clock < 0:
        return {}
    schedules = [entry.momentum(scheduler, i) for i in range(len(groups))]
    if None in schedules:
        return {}
    momenta = [schedule(clock) for schedule in schedules]
    if not scheduler.use_beta1:
        return {"momentum": momenta}
    return {"betas": [[beta, *map(scalar, g["betas"][1:])] for beta, g in zip(momenta, groups, strict=True)]}


def _checksum(state: dict[str, Any]) -> list[Any]:
    """Tells our key from one that torch's class has kept while it continued to step."""
    return [state.get("last_epoch"), state.get("_step_count"), [scalar(lr) for lr in state.get("_last_lr", ())]]


_SLOTS = ("_edits", "_branch", "_built_on", "_skip_guard")  # what a load sets beside the attributes


def undo(scheduler: Any) -> Callable[[], None]:
    """What puts back this scheduler, its members and the numbers of the groups as they are now."""
    sync_counters(scheduler)
    every = list({id(s): s for s in (scheduler, *leaf_schedulers(scheduler))}.values())
    edits = current_edits(scheduler) if hasattr(scheduler, "_driver") else None
    attributes = [{k: copy.copy(v) if isinstance(v, (list, dict)) else v for k, v in s.__dict__.items()} for s in every]
    slots = [{name: getattr(s, name) for name in _SLOTS if hasattr(s, name)} for s in every]
    groups = groups_of(scheduler.optimizer)
    numbers = [{k: v for k, v in group.items() if k != "params"} for group in groups]
    values = [(v, v.clone()) for group in numbers for v in group.values() if isinstance(v, Tensor)]

    def put_back() -> None:
        scheduler._detach()
        for one, kept, beside in zip(every, attributes, slots, strict=True):
            one.__dict__.clear()
            one.__dict__.update(kept)
            for name, value in beside.items():
                setattr(one, name, value)
        scheduler._edits = edits
        for group, kept in zip(groups, numbers, strict=True):
            group.update(kept)
        with torch.no_grad():
            for tensor, value in values:
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
        reattach(scheduler)

    return put_back


def load(scheduler: Any, state: dict[str, Any], torch_load: Callable[[dict[str, Any]], None]) -> None:
    """Loads a state of ours or of torch's into `scheduler` and its optimizer's groups; `state` stays as it is."""
    state, groups = dict(state), scheduler.optimizer.param_groups
    ours = state.pop(KEY, None)
    if ours is not None and ours["checksum"] != _checksum(state):
        ours = None
    _check_branch(ours, len(groups))
    scheduler._detach()
    origin = origin_of(scheduler.optimizer)
    loaded = scheduler._built_on is not None and scheduler._built_on[:2] != origin[:2]
    last = getattr(scheduler, "_last_lr", [])
    # Rates that this scheduler did not write belong to another one.
    owned = len(last) == len(groups) and all(same(g["lr"], lr) for g, lr in zip(groups, last, strict=True))
    torch_load({key: _own_copy(value) for key, value in state.items()})
    if not loaded and ours is not None:  # else the optimizer's own state, which was loaded before, knows better
        _write_hyperparameters(scheduler, ours["lr"], ours)
    elif not loaded:
        _write_hyperparameters(
            scheduler, scheduler.__dict__.get("_last_lr", ()) if owned else (), _momenta_of(scheduler)
        )
    ours = ours or {}
    if ours or scheduler._skip_guard is not None:
        set_skip_guard(scheduler, ours.get("advance_on_skip", scheduler._skip_guard is None))
    scheduler._edits = [Edit(*edit) for edit in ours["edits"]] if "edits" in ours else None
    scheduler._branch = Branch.loaded(ours["branch"]) if "branch" in ours else None
    scheduler._built_on = origin
    reattach(scheduler)


def _check_branch(ours: dict[str, Any] | None, count: int) -> None:
    saved = (ours or {}).get("branch")
    if saved is not None and len(saved["start"]) > count:
        raise ValueError(
            f"The state is in a branch of {len(saved['start'])} param_groups, the optimizer has {count}. "
            "Build the optimizer with all of them before you load the scheduler."
        )


def _write_hyperparameters(scheduler: Any, rates: Any, momenta: dict[str, Any]) -> None:
    groups = scheduler.optimizer.param_groups
    for group, rate in zip(groups, rates, strict=False):
        if not same(group["lr"], rate):
            write_lr(group, rate)
    with tensors_kept(scheduler.optimizer):
        for key in ("betas", "momentum"):
            for group, saved in zip(groups, momenta.get(key, ()), strict=False):
                group[key] = tuple(saved) if key == "betas" else saved


def _own_copy(value: Any) -> Any:
    """A list of its own for each scheduler: torch's state dict hands out the live one."""
    if type(value) is list:
        return [copied(item) for item in value]
    return value.copy() if isinstance(value, Counter) else copied(value)
