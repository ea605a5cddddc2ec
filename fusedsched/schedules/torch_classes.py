# SPDX-License-Identifier: Apache-2.0
"""What the schedulers of torch do, as schedules: one row for each class, made from a scheduler's attributes alone.

torch computes most rates from the one before. A row says where that leads from the group's base rate if nobody writes
to the rate; `edit.py` says what a write changes. The functions work on schedulers of torch and of this package. Where
an attribute is too odd for a schedule (a fractional `step_size`, a tensor `gamma`), or a user's subclass computes rates
itself, the answer is None. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from .arguments import as_integer, is_number
from .compose import Sequence, Shift
from .edit import EditKind, EditRule
from .evaluate import Shape, half_wave, power
from .expression import Schedule, Segment
from .program import FAR

_MODULES = ("torch.optim.lr_scheduler", "torch.optim.swa_utils")
METHODS = ("get_lr", "_get_closed_form_lr", "_update_lr", "scale_fn", "_anneal_func")  # what computes the rates


class TorchClass(NamedTuple):
    """What is known of one class; `s` is a scheduler, `i` the index of a group, `base` its base rate.

    `schedule(s, i, base)`: the rate from step 0 on. `edit_rule(s, i, base)`: how edits are continued; None: only
    torch's own code knows. `attributes`, `lists`, `keys`: what both are made from: attributes of the scheduler, lists
    of the scheduler, entries of the groups. `end`: the attribute that says how many steps it takes. `momentum(s, i)`:
    the momentum or beta1 of classes that cycle it. `multiplies`: the schedule is the base rate times a factor.
    """

    schedule: Callable[[Any, int, float], Schedule | None]
    edit_rule: Callable[[Any, int, float], EditRule | None]
    attributes: tuple[str, ...]
    lists: tuple[str, ...] = ("base_lrs",)
    keys: tuple[str, ...] = ()
    end: str | None = None
    momentum: Callable[[Any, int], Schedule | None] | None = None
    multiplies: bool = False


def _then(way: Segment, end: float, after: float | None = None) -> Schedule:
    """`way`, and from step `end` on the value that it has there."""
    return Sequence((way, way(end) if after is None else after), (end,))


def _step(s: Any, i: int, base: float) -> Schedule | None:
    size = as_integer(s.step_size, 1)
    if size is None or not is_number(s.gamma):
        return None
    return Segment(Shape.STAIRCASE, start=base, span=size, param=s.gamma)


def _multi_step(s: Any, i: int, base: float) -> Schedule | None:
    if not is_number(s.gamma, *s.milestones, *s.milestones.values()):
        return None
    begins = sorted(int(m) for m in s.milestones if m >= 0 and m == int(m))
    counts, total = [0], 0
    for begin in begins:
        total += s.milestones[begin]
        counts.append(total)
    return Sequence(tuple(base * power(s.gamma, count) for count in counts), tuple(begins))


def _constant(s: Any, i: int, base: float) -> Schedule | None:
    if not is_number(s.factor, s.total_iters):
        return None
    first = base * s.factor
    if s.total_iters <= 0 or s.total_iters != int(s.total_iters):
        return Segment(Shape.CONSTANT, start=first)
    # Nothing can be recovered from a rate that was multiplied by zero but the base rate (torch divides by zero).
    return Sequence((first, first * (1.0 / s.factor) if s.factor else base), (s.total_iters,))


def _linear(s: Any, i: int, base: float) -> Schedule | None:
    if not is_number(s.start_factor, s.end_factor, s.total_iters) or s.start_factor == 0.0:
        return None
    first, end = base * s.start_factor, math.floor(s.total_iters)
    if end <= 0:
        return Segment(Shape.CONSTANT, start=first)
    return _then(Segment(Shape.LINEAR, start=first, span=s.total_iters, stop=base * s.end_factor), end)


def _exponential(s: Any, i: int, base: float) -> Schedule | None:
    return Segment(Shape.EXPONENTIAL, start=base, param=s.gamma) if is_number(s.gamma) else None


def _polynomial(s: Any, i: int, base: float) -> Schedule | None:
    if not is_number(s.total_iters, s.power) or s.power < 0:
        return None
    end = math.floor(s.total_iters)
    if end <= 0 or s.power == 0:
        return Segment(Shape.CONSTANT, start=base)
    return _then(Segment(Shape.POLYNOMIAL, start=base, span=s.total_iters, param=s.power), end)


def _cosine(s: Any, i: int, base: float) -> Schedule | None:
    half = as_integer(s.T_max, 1)
    if half is None or not is_number(s.eta_min):
        return None
    return Segment(Shape.COSINE, start=base, span=half, stop=s.eta_min, cycle=2 * half)


def swa_begin(s: Any) -> int:
    """The step at which SWALR begins: it counts its own steps in `_step_count`, whatever `last_epoch` says."""
    return s.last_epoch - (s._step_count - 1)


def _swa(s: Any, i: int, base: float) -> Schedule | None:
    target, span = s.optimizer.param_groups[i]["swa_lr"], as_integer(s.anneal_epochs, 0)
    if span is None or not is_number(target) or s._anneal_strategy not in ("cos", "linear"):
        return None
    anneal = s.__dict__.get("anneal_func")
    if anneal is not None and getattr(anneal, "__qualname__", "") not in _SWA_FUNCTIONS:
        return None
    begin = swa_begin(s)
    if span == 0 or begin + span <= 0:
        return Segment(Shape.CONSTANT, start=target)
    shape = Shape.COSINE if s._anneal_strategy == "cos" else Shape.LINEAR
    way = Segment(shape, start=base, span=span, stop=target)
    return Sequence((Shift(way, begin) if begin else way, target), (begin + span,))


_SWA_FUNCTIONS = ("SWALR._cosine_anneal", "SWALR._linear_anneal")


def _restarts(s: Any, i: int, base: float) -> Schedule | None:
    # After step(epoch) with a fraction torch keeps the fraction through every restart, with roundings of its own.
    growth, current, length = as_integer(s.T_mult, 1), s.T_cur, s.T_i
    if growth is None or not is_number(s.eta_min, current, length) or current != int(current) or length != int(length):
        return None
    if current >= length:
        return None  # was set by hand
    begin = s.last_epoch - int(current)
    first = Segment(Shape.COSINE, start=base, span=length, stop=s.eta_min, cycle=length if growth == 1 else 0)
    parts, begins, at = [Shift(first, begin) if begin else first], [], begin + length
    while growth > 1 and at < FAR:
        length *= growth
        parts.append(Segment(Shape.COSINE, start=base, span=length, stop=s.eta_min))
        begins.append(at)
        at += length
    return Sequence(tuple(parts), tuple(begins))


def _triangle(s: Any, start: Any, stop: Any) -> Schedule | None:
    # torch binds the function, and gamma, when it is built: a `mode` or `gamma` that is set later changes nothing.
    scale, shape = getattr(s, "_scale_fn_ref", None), Shape.TRIANGLE
    if s._scale_fn_custom is not None or not is_number(s.total_size, s.step_ratio):
        return None
    name = getattr(getattr(scale, "func", scale), "__qualname__", "")
    if name == "CyclicLR._triangular_scale_fn" and s.scale_mode == "cycle":
        param = 1.0
    elif name == "CyclicLR._triangular2_scale_fn" and s.scale_mode == "cycle":
        param = 0.5
    elif name == "CyclicLR._exp_range_scale_fn" and s.scale_mode == "iterations":
        shape, param = Shape.TRIANGLE_DECAY, scale.args[0]
    else:
        return None
    if not is_number(param):
        return None
    up = s.total_size * s.step_ratio
    up = round(up) if abs(up - round(up)) < 1e-9 * s.total_size else up  # the ratio is all that torch keeps of it
    return Segment(shape, start=float(start), span=up, stop=float(stop), param=param, cycle=s.total_size)


def one_cycle_phases(s: Any) -> list[tuple[float, float, float, dict[str, Any]]]:
    """The phases that some step falls into: (first step, begin, end, torch's phase).

    A phase goes from its predecessor's end to its own; a step belongs to the first phase whose end it does not exceed,
    or else to the last. A phase of no width is dropped (torch divides by zero there); if that is the last one, the step
    past it has its final value.
    """
    phases, begin, taken = [], 0.0, -1.0
    for k, phase in enumerate(s._schedule_phases):
        end = phase["end_step"]
        last = k == len(s._schedule_phases) - 1
        first = float(int(taken) + 1)
        if last or (end >= first and end != begin):
            phases.append((first, begin, end, phase))
            taken = float(int(end))
        begin = end
    return phases


def _phases(s: Any, i: int, start: str, stop: str) -> Schedule | None:
    group = s.optimizer.param_groups[i]
    shape = {"cos": Shape.COSINE, "linear": Shape.LINEAR}.get(getattr(s, "_anneal_func_type", None))
    if shape is None:
        return None
    parts: list[Schedule] = []
    begins = []
    for first, begin, end, phase in one_cycle_phases(s):
        if first > s.total_steps:
            break  # no step comes to it
        low, high = float(group[phase[start]]), float(group[phase[stop]])
        empty = end == begin
        begins.append(first if empty else begin)
        way = Segment(Shape.CONSTANT, start=high) if empty else Segment(shape, start=low, span=end - begin, stop=high)
        parts.append(Shift(way, begins[0]) if not parts and begins[0] else way)
    return Sequence(tuple(parts), tuple(begins[1:]), horizon=float(s.total_steps))


def _discard(s: Any, i: int, base: float) -> EditRule:
    return EditRule(EditKind.DISCARD)


def _scale(s: Any, i: int, base: float) -> EditRule | None:
    # A factor of zero leaves nothing to be scaled: what follows an edit then depends on the step.
    factors = [getattr(s, name, 1.0) for name in ("gamma", "factor")]
    return EditRule(EditKind.SCALE_OR_KEEP) if all(factors) else None


def _scale_to_swa(s: Any, i: int, base: float) -> EditRule:
    return EditRule(EditKind.SCALE_OR_DROP, float(s.optimizer.param_groups[i]["swa_lr"]))


def _wave(s: Any, i: int, base: float) -> EditRule | None:
    half = as_integer(s.T_max, 1)
    if half is None or not is_number(s.eta_min) or base == s.eta_min:
        return None
    height, half = base - s.eta_min, float(half)
    per_unit = 1.0 / (half_wave(1.0, half) * height)
    return EditRule(EditKind.WAVE, float(s.eta_min), math.inf, -half, 2.0 * half, per_unit)


CLASSES: dict[str, TorchClass] = {
    "StepLR": TorchClass(_step, _scale, ("step_size", "gamma"), multiplies=True),
    "MultiStepLR": TorchClass(_multi_step, _scale, ("gamma",), ("base_lrs", "milestones"), multiplies=True),
    "ConstantLR": TorchClass(_constant, _scale, ("factor", "total_iters"), end="total_iters", multiplies=True),
    "LinearLR": TorchClass(
        _linear, _scale, ("start_factor", "end_factor", "total_iters"), end="total_iters", multiplies=True
    ),
    "ExponentialLR": TorchClass(_exponential, _scale, ("gamma",), multiplies=True),
    "PolynomialLR": TorchClass(_polynomial, _scale, ("total_iters", "power"), end="total_iters", multiplies=True),
    "CosineAnnealingLR": TorchClass(_cosine, _wave, ("T_max", "eta_min"), end="T_max"),
    "SWALR": TorchClass(
        _swa, _scale_to_swa, ("anneal_epochs", "_anneal_strategy", "anneal_func"), keys=("swa_lr",), end="anneal_epochs"
    ),
    "CosineAnnealingWarmRestarts": TorchClass(_restarts, _discard, ("T_0", "T_mult", "eta_min")),
    "CyclicLR": TorchClass(
        lambda s, i, base: _triangle(s, s.base_lrs[i], s.max_lrs[i]),
        _discard,
        ("total_size", "step_ratio", "scale_mode", "_scale_fn_ref", "_scale_fn_custom", "cycle_momentum"),
        ("base_lrs", "max_lrs", "base_momentums", "max_momentums"),
        momentum=lambda s, i: _triangle(s, s.max_momentums[i], s.base_momentums[i]),
    ),
    "OneCycleLR": TorchClass(
        lambda s, i, base: _phases(s, i, "start_lr", "end_lr"),
        _discard,
        ("total_steps", "_schedule_phases", "_anneal_func_type", "cycle_momentum"),
        (),
        ("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum"),
        end="total_steps",
        momentum=lambda s, i: _phases(s, i, "start_momentum", "end_momentum"),
    ),
}


@cache
def torch_name(kind: type) -> str | None:
    """The name of the torch scheduler that a class is or extends; None for another base, or torch's plain one."""
    found = (c.__name__ for c in kind.__mro__ if c.__module__ in _MODULES and c.__name__ not in _BASES)
    return next(found, None)


_BASES = ("LRScheduler", "_LRScheduler")


def class_of(kind: type) -> TorchClass | None:
    """The row of a class; None if it has none, or if a user's subclass changed how rates are computed.

    >>> class_of(object) is None
    True
    """
    name = _known_name(kind) if kind.__module__.startswith(_HERE) else _name_now(kind)  # users may change theirs
    return CLASSES.get(name)


_HERE = ("torch.optim.", "fusedsched.")


def _name_now(kind: type) -> str:
    name = torch_name(kind) or ""
    entry = CLASSES.get(name)
    names = {"step", *METHODS, *(() if entry is None else (*entry.attributes, *entry.lists))}
    for cls in kind.__mro__:
        if cls.__module__ in _MODULES:
            return name
        if not cls.__module__.startswith(_HERE) and names & cls.__dict__.keys():
            return ""
    return name


_known_name = cache(_name_now)
