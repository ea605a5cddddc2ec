# SPDX-License-Identifier: Apache-2.0
"""Which driver a scheduler gets, and where a scheduler starts that is built in the middle of a run."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch

from ..schedules.compositions import edit_rules_of, is_chain, is_composite, leaf_schedulers, schedule_of
from ..schedules.edit import NO_EDIT, Edit, EditKind, rule_at
from ..schedules.evaluate import evaluate
from ..schedules.torch_classes import class_of
from .device_driver import DeviceDriver
from .devices import capture_probe, placement_of, refuse_without_schedule, refuse_yet
from .driver import Inputs, edits_of, groups_of, host_driver, underflows, write_lr
from .inputs import clock_of, inputs_of
from .member_counters import MemberMirror
from .tensor_driver import LaunchedDriver
from .torch_driver import torch_driver
from .watched_values import scalar

# Optimizer -> the rates that schedulers built with last_epoch= wrote last, and their classes. One of another class
# multiplies, as it would have done in the run that is resumed; one of the same class is a second try.
_RESUMED: WeakKeyDictionary[torch.optim.Optimizer, tuple[list[float], list[type]]] = WeakKeyDictionary()


def attach(scheduler: Any) -> Any:
    """Gives a scheduler its driver, at its present step and from the rates that the groups have; None: there is none
    but torch's code."""
    mirror = scheduler._mirror
    if isinstance(mirror, DeviceDriver):  # graphs may advance its counter
        mirror.restart()
        scheduler._driver = None if mirror.decides() else mirror
        if is_composite(scheduler) and scheduler._branch is None:
            MemberMirror(scheduler, mirror).install()
        return scheduler._driver
    optimizer, clock, guard = scheduler.optimizer, clock_of(scheduler), scheduler._skip_guard
    placement, probe = placement_of(optimizer), capture_probe(optimizer)
    counted = placement is not None or probe is not None or (guard is not None and guard.on_device)
    counts = is_chain(scheduler) or "last_epoch" in scheduler.__dict__  # not a property of a subclass
    inputs = inputs_of(scheduler, counted) if counts and type(clock) is int and clock >= 0 else None
    if inputs is None:
        if probe is not None and probe():
            refuse_without_schedule(scheduler, placement is not None)
        scheduler._driver = None if counted or guard is not None or not counts else torch_driver(scheduler)
        return scheduler._driver
    if placement is not None and probe is not None and probe():
        refuse_yet(scheduler)
    groups = groups_of(optimizer)
    rates, scales = [group["lr"] for group in groups], [scalar(group.get("initial_lr", 0.0)) for group in groups]
    edits = edits_of(inputs, clock, rates, scales, scheduler._edits)
    if not counted and _is_lost(scheduler, inputs, clock, edits):
        return None
    if placement is not None:
        driver = LaunchedDriver.make(scheduler, inputs, clock, placement, edits)
    else:
        driver = host_driver(scheduler, inputs, clock, edits)
        driver = DeviceDriver(scheduler, driver) if counted else driver
    scheduler._driver = driver
    if driver is not None and is_composite(scheduler) and scheduler._branch is None:
        MemberMirror(scheduler, driver).install()
    return driver


def _is_lost(scheduler: Any, inputs: Inputs, clock: int, edits: list[Edit]) -> bool:
    """Whether an edited rate should decay where the schedule of it has decayed below the smallest number."""
    if scheduler._branch is not None or edits.count(NO_EDIT) == len(edits):
        return False
    if not any(hasattr(leaf, "gamma") for leaf in leaf_schedulers(scheduler)):
        return False
    return any(
        edit != NO_EDIT and underflows(rule_at(rules, clock), evaluate(inputs.programs[index], clock))
        for rules, index, edit in zip(inputs.rules, inputs.rates, edits, strict=True)
    )


def reattach(scheduler: Any) -> None:
    """After a change that captured graphs have to follow."""
    if isinstance(scheduler._mirror, DeviceDriver) or scheduler._device_schedule is not None:
        attach(scheduler)


def resume(scheduler: Any, before: list[Any]) -> None:
    """Brings the rates of a scheduler built with `last_epoch=`, which were `before`, to where a run that never stopped
    would have them. Rates that were restored with an edit in them stay."""
    if class_of(type(scheduler)) is None:
        return
    optimizer, now = scheduler.optimizer, scheduler.last_epoch
    written, classes = _RESUMED.pop(optimizer, ([], []))
    ours = written == list(map(scalar, before))
    onto = ours and type(scheduler) not in classes
    rates, from_base = [], False
    for i, lr in enumerate(before):
        base, rules = scalar(scheduler.base_lrs[i]), edit_rules_of(scheduler, i)
        schedule = schedule_of(scheduler, i, scalar(lr) if onto else base)
        if schedule is None or rules is None:
            return
        starts = ours or _close(lr, base)
        from_base = from_base or starts
        # torch has restored the rate of now; where the last step was not made, the one before.
        kept = not starts and rules[0].kind != EditKind.DISCARD
        kept = kept and not any(_close(lr, schedule(max(clock, 0))) for clock in (now, now - 1))
        rates.append(lr if kept else schedule(now))
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        write_lr(group, rate)
    driver = attach(scheduler)
    if driver is not None:
        driver.write(scheduler.__dict__)
        scheduler._detach()  # the first step warns about the order of calls, which a driver does not
    if from_base:
        last = [scalar(lr) for lr in scheduler._last_lr]
        _RESUMED[optimizer] = last, [*classes, type(scheduler)] if onto else [type(scheduler)]


def _close(lr: Any, value: float) -> bool:
    """Whether a restored rate, which torch's recursion may have made, is this number."""
    coarse = isinstance(lr, torch.Tensor) and lr.is_floating_point()
    bound = max(1e-9, 2.0 * torch.finfo(lr.dtype).eps if coarse else 0.0)
    return abs(scalar(lr) - value) <= bound * abs(value)
