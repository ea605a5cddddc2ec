# SPDX-License-Identifier: Apache-2.0
"""Rows of the torch schedulers that compute from their own numbers: restarts, triangles, one cycle.

They overwrite whatever a group's rate was, so `x` is ignored.
"""

from __future__ import annotations

from typing import Any

from torch.optim.lr_scheduler import CyclicLR

from ..schedules.evaluate import Shape
from .rows import Row, plain, row, value, whole

FAR = 2**40
"""Clocks beyond this are not promised; restarts that grow are written down as far as here."""


def cosine_restarts(s: Any, i: int, t: int, x: float) -> list[Row] | None:
    """A wave from the base rate to `eta_min` that starts again after `T_i` steps; each longer by `T_mult`.

    `T_cur` may be fractional after `step(epoch)`: torch then keeps the fraction through every restart with roundings of
    its own, so those are left to it.
    """
    growth = whole(s.T_mult, 1)
    if growth is None or not plain(s.eta_min, s.T_cur, s.T_i) or s.T_cur != int(s.T_cur) or s.T_i != int(s.T_i):
        return None
    if s.T_cur >= s.T_i:
        return None  # set by hand
    base, begin, span = float(s.base_lrs[i]), s.last_epoch - int(s.T_cur), int(s.T_i)
    if growth == 1:
        return [row(begin, Shape.COSINE, base, span=span, stop=s.eta_min, cycle=span)]
    rows = []
    while begin < FAR:
        rows.append(row(begin, Shape.COSINE, base, span=span, stop=s.eta_min))
        begin, span = begin + span, span * growth
    return rows


def _triangle(s: Any, start: Any, stop: Any) -> list[Row] | None:
    # torch bound the function, and gamma, when it was built: a `mode` or `gamma` that is set later changes nothing.
    scale, shape = getattr(s, "_scale_fn_ref", None), Shape.TRIANGLE
    if s._scale_fn_custom is not None or not plain(s.total_size, s.step_ratio):
        return None
    if scale is CyclicLR._triangular_scale_fn and s.scale_mode == "cycle":
        param = 1.0
    elif scale is CyclicLR._triangular2_scale_fn and s.scale_mode == "cycle":
        param = 0.5
    elif getattr(scale, "func", None) is CyclicLR._exp_range_scale_fn and s.scale_mode == "iterations":
        shape, param = Shape.TRIANGLE_DECAY, scale.args[0]
    else:
        return None
    if not plain(param):
        return None
    up = s.total_size * s.step_ratio
    up = round(up) if abs(up - round(up)) < 1e-9 * s.total_size else up  # the ratio is all that torch keeps of it
    return [row(0, shape, float(start), span=up, stop=float(stop), param=param, cycle=s.total_size)]


def cyclic(s: Any, i: int, t: int, x: float) -> list[Row] | None:
    """A triangle from `base_lrs` to `max_lrs` and back."""
    return _triangle(s, s.base_lrs[i], s.max_lrs[i])


def cyclic_momentum(s: Any, i: int) -> list[Row] | None:
    """The same triangle upside down: from `max_momentums` to `base_momentums` and back."""
    return _triangle(s, s.max_momentums[i], s.base_momentums[i])


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


def _one_cycle(s: Any, i: int, start: str, stop: str) -> list[Row] | None:
    group = s.optimizer.param_groups[i]
    shape = {"cos": Shape.COSINE, "linear": Shape.LINEAR}.get(getattr(s, "_anneal_func_type", None))
    if shape is None:
        return None
    rows = []
    for first, begin, end, phase in one_cycle_phases(s):
        low, high = float(group[phase[start]]), float(group[phase[stop]])
        if end == begin:
            rows.append(row(first, Shape.CONSTANT, high))
        else:
            rows.append(row(begin, shape, low, span=end - begin, stop=high))
    return rows


def one_cycle_first(s: Any, i: int, x: float) -> float:
    """The rate at step 0."""
    rows = one_cycle(s, i, 0, x)
    return x if rows is None else value(rows, 0)


def one_cycle(s: Any, i: int, t: int, x: float) -> list[Row] | None:
    """Two or three cosine or linear phases between the group's `initial_lr`, `max_lr` and `min_lr`."""
    return _one_cycle(s, i, "start_lr", "end_lr")


def one_cycle_momentum(s: Any, i: int) -> list[Row] | None:
    """The same phases between the group's `max_momentum` and `base_momentum`."""
    return _one_cycle(s, i, "start_momentum", "end_momentum")
