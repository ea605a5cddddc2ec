# SPDX-License-Identifier: Apache-2.0
"""The closed forms of torch's schedulers: what their recursions come to, as rows of a schedule program.

torch computes most learning rates from the previous one. `rows(scheduler, i, t, x)` is where that recursion leads: if
group i has the rate x at `last_epoch == t` and nobody touches it, the program of these rows has the rate of every later
clock. An edit of the rate, by hand or by another scheduler, is then only another (t, x).

Everything here reads attributes only and works on a scheduler of torch's as well as on ours. Where an attribute is so
odd that there is no closed form (a fractional `step_size`, a tensor `gamma`), the answer is None and torch's own code
runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.swa_utils import SWALR

from ..schedules.evaluate import Shape, half_wave, power
from .cycles import cosine_restarts, cyclic, cyclic_momentum, one_cycle, one_cycle_first, one_cycle_momentum
from .rows import Row, plain, row, value, whole

Scheduler = torch_schedulers.LRScheduler


class Form(NamedTuple):
    """What is known of one torch class.

    `rows(scheduler, i, t, x)`: see above; x is ignored by classes that compute from their own numbers.
    `first(scheduler, i, x)`: the rate that torch's first step, at last_epoch 0, makes of x.
    `momentum(scheduler, i)`: the rows of momentum or beta1, for classes that cycle it.
    `attributes`, `lists`, `keys`: what the rows were made from, in the scheduler, in its lists, in the groups.
    """

    rows: Callable[[Any, int, int, float], list[Row] | None]
    first: Callable[[Any, int, float], float]
    attributes: tuple[str, ...]
    lists: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    momentum: Callable[[Any, int], list[Row] | None] | None = None


def _same(scheduler: Scheduler, i: int, x: float) -> float:
    return x


def _step(s: Any, i: int, t: int, x: float) -> list[Row] | None:
    size = whole(s.step_size, 1)
    if size is None or not plain(s.gamma):
        return None
    return [row(t // size * size, Shape.STAIRCASE, x, span=size, param=s.gamma)]


def _multi_step(s: Any, i: int, t: int, x: float) -> list[Row] | None:
    if not plain(s.gamma, *s.milestones, *s.milestones.values()):
        return None
    rows, count = [row(t, Shape.CONSTANT, x)], 0
    for milestone in sorted(m for m in s.milestones if m > t and m == int(m)):
        count += s.milestones[milestone]
        rows.append(row(milestone, Shape.CONSTANT, x * power(s.gamma, count)))
    return rows


def _multi_step_first(s: Any, i: int, x: float) -> float:
    return x * power(s.gamma, s.milestones[0]) if 0 in s.milestones else x


def _constant(s: Any, i: int, t: int, x: float) -> list[Row] | None:
    if not plain(s.factor, s.total_iters):
        return None
    rows = [row(t, Shape.CONSTANT, x)]
    if s.total_iters > t and s.total_iters == int(s.total_iters):
        # Nothing can be had back from a rate that was multiplied by zero but the base rate (torch divides by zero).
        after = x * (1.0 / s.factor) if s.factor else float(s.base_lrs[i])
        rows.append(row(s.total_iters, Shape.CONSTANT, after))
    return rows


def _linear(s: Any, i: int, t: int, x: float) -> list[Row] | None:
    if not plain(s.start_factor, s.end_factor, s.total_iters):
        return None
    end = math.floor(s.total_iters)
    if t >= end:
        return [row(t, Shape.CONSTANT, x)]
    now = (s.start_factor * (s.total_iters - t) + s.end_factor * t) / s.total_iters
    if now == 0.0:
        return None
    ramp = row(t, Shape.LINEAR, x, span=s.total_iters - t, stop=x * s.end_factor / now)
    return [ramp, row(end, Shape.CONSTANT, value([ramp], end))]


def _exponential(s: Any, i: int, t: int, x: float) -> list[Row] | None:
    return [row(t, Shape.EXPONENTIAL, x, param=s.gamma)] if plain(s.gamma) else None


def _polynomial(s: Any, i: int, t: int, x: float) -> list[Row] | None:
    if not plain(s.total_iters, s.power) or s.power < 0:
        return None
    end = math.floor(s.total_iters)
    if t >= end or s.power == 0:
        return [row(t, Shape.CONSTANT, x)]
    fall = row(t, Shape.POLYNOMIAL, x, span=s.total_iters - t, param=s.power)
    return [fall, row(end, Shape.CONSTANT, value([fall], end))]


def _cosine(s: Any, i: int, t: int, x: float) -> list[Row] | None:
    """The wave stands on `eta_min`; at each low point torch starts a new one as high as the base rate.

    Between low points the recursion keeps the height of the wave, so that an edit changes it until the next one.
    """
    half = whole(s.T_max, 1)
    if half is None or not plain(s.eta_min):
        return None
    low, base, turn = s.eta_min, float(s.base_lrs[i]), 2 * half
    lowest = t - (t - half) % turn  # the low point at or before t
    passed = t - lowest
    if passed == 0:
        height = (base - low) + (x - low) / half_wave(1.0, half)  # what an edit at the low point adds to the new wave
    else:
        height = (x - low) / half_wave(passed, half)
    top = x if passed == half else low + height
    if passed >= half:
        rows = [row(lowest + half, Shape.COSINE, top, span=half, stop=low, cycle=turn)]
    else:
        rows = [row(lowest, Shape.COSINE, low, span=half, stop=top, cycle=turn)]
    return [*rows, row(lowest + turn, Shape.COSINE, low, span=half, stop=base, cycle=turn)]


def _swa(s: Any, i: int, t: int, x: float) -> list[Row] | None:
    target = s.optimizer.param_groups[i]["swa_lr"]
    span = whole(s.anneal_epochs, 0)
    if span is None or not plain(target) or s._anneal_strategy not in ("cos", "linear"):
        return None
    if "anneal_func" in s.__dict__ and s.anneal_func not in (SWALR._cosine_anneal, SWALR._linear_anneal):
        return None
    begin = swa_zero(s)
    at = t - begin
    if at >= span:
        return [row(t, Shape.CONSTANT, target)]
    cosine = s._anneal_strategy == "cos"
    done = half_wave(at, span) if cosine else at / span
    start = (x - done * target) / (1.0 - done)
    way = row(begin, Shape.COSINE if cosine else Shape.LINEAR, start, span=span, stop=target)
    return [way, row(begin + span, Shape.CONSTANT, target)]


def swa_zero(s: Any) -> int:
    """The clock at which SWALR begins: it counts its own steps in `_step_count`, whatever `last_epoch` says."""
    return s.last_epoch - (s._step_count - 1)


def _swa_first(s: Any, i: int, x: float) -> float:
    return float(s.optimizer.param_groups[i]["swa_lr"]) if s.anneal_epochs == 0 else x


def form_of(scheduler: Scheduler) -> Form | None:
    """The closed form that this object moves along: that of its branch if it is in one, else that of its class."""
    branch = getattr(scheduler, "_branch", None)
    return form_of_class(scheduler) if branch is None else branch.form


def form_of_class(scheduler: Scheduler) -> Form | None:
    """The closed form of this object's class; None if it has none, or if a subclass changed how rates are computed.

    >>> form_of_class(object()) is None
    True
    """
    return FORMS.get(_key(type(scheduler)))


@cache
def _key(kind: type) -> type | None:
    found = next((cls for cls in kind.__mro__ if cls in FORMS), None)
    if found is None:
        return None
    names = _METHODS.union(FORMS[found].attributes, FORMS[found].lists)
    for cls in kind.__mro__[: kind.__mro__.index(found)]:
        if not cls.__module__.startswith(("torch.optim.", "fusedsched.")) and names & cls.__dict__.keys():
            return None
    return found


_METHODS = {"get_lr", "_get_closed_form_lr", "step", "_update_lr", "scale_fn", "_anneal_func"}


def rows_from_base(scheduler: Scheduler, i: int) -> list[Row] | None:
    """The rows of group i as if the scheduler had started at t = 0 from the group's base rate and met no edit."""
    form = form_of(scheduler)
    if form is None:
        return None
    base = float(scheduler.base_lrs[i])
    zero = swa_zero(scheduler) if isinstance(scheduler, SWALR) else 0
    return form.rows(scheduler, i, zero, form.first(scheduler, i, base))


FORMS: dict[type, Form] = {
    torch_schedulers.StepLR: Form(_step, _same, ("step_size", "gamma")),
    torch_schedulers.MultiStepLR: Form(_multi_step, _multi_step_first, ("gamma",), ("milestones",)),
    torch_schedulers.ConstantLR: Form(
        _constant, lambda s, i, x: x * s.factor, ("factor", "total_iters"), ("base_lrs",)
    ),
    torch_schedulers.LinearLR: Form(
        _linear, lambda s, i, x: x * s.start_factor, ("start_factor", "end_factor", "total_iters")
    ),
    torch_schedulers.ExponentialLR: Form(_exponential, _same, ("gamma",)),
    torch_schedulers.PolynomialLR: Form(_polynomial, _same, ("total_iters", "power")),
    torch_schedulers.CosineAnnealingLR: Form(_cosine, _same, ("T_max", "eta_min"), ("base_lrs",)),
    SWALR: Form(_swa, _swa_first, ("anneal_epochs", "_anneal_strategy", "anneal_func"), (), ("swa_lr",)),
    torch_schedulers.CosineAnnealingWarmRestarts: Form(
        cosine_restarts, _same, ("T_0", "T_mult", "eta_min"), ("base_lrs",)
    ),
    torch_schedulers.CyclicLR: Form(
        cyclic,
        lambda s, i, x: float(s.base_lrs[i]),
        ("total_size", "step_ratio", "scale_mode", "_scale_fn_ref", "_scale_fn_custom", "cycle_momentum"),
        ("base_lrs", "max_lrs", "base_momentums", "max_momentums"),
        momentum=cyclic_momentum,
    ),
    torch_schedulers.OneCycleLR: Form(
        one_cycle,
        one_cycle_first,
        ("total_steps", "_schedule_phases", "_anneal_func_type", "cycle_momentum"),
        (),
        ("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"),
        momentum=one_cycle_momentum,
    ),
}
