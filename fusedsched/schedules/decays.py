# SPDX-License-Identifier: Apache-2.0
"""Named schedules of one phase. `t` is the index of the update, 0 first; `flags.py` explains the shared keywords."""

from __future__ import annotations

from collections.abc import Iterable

from fusedsched.schedules.arguments import count, final_level, level, phases, positive, span_within

from .compose import Sequence
from .evaluate import Shape, power
from .expression import Schedule, Segment, finite


def constant(value: float) -> Schedule:
    """The same value always.

    >>> constant(0.1).curve(2)
    [0.1, 0.1]
    """
    return Segment(Shape.CONSTANT, start=level("value", value))


def _transition(shape: Shape, start, stop, steps, param, final_ratio, end, past_end, unit) -> Schedule:
    start, steps = level("start", start), count("steps", steps)
    stop = final_level("stop", stop, final_ratio, of=start)
    segment = Segment(shape, span=span_within(steps, end), start=start, stop=stop, param=param)
    return phases(shape.name.lower(), [(segment, steps)], stop, end=end, past_end=past_end, unit=unit)


def linear(
    start: float,
    stop: float | None = None,
    steps: int | None = None,
    *,
    final_ratio: float | None = None,
    end: str = "exclusive",
    past_end: str = "hold",
    unit: str = "update",
) -> Schedule:
    """A straight line from `start` to `stop` over `steps` updates, then `stop`.

    value(t) = start + (stop - start) * min(t, steps) / steps

    >>> linear(0.0, 1.0, steps=4).curve(6)
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    >>> linear(0.0, 1.0, steps=5, end="inclusive").curve(6)
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return _transition(Shape.LINEAR, start, stop, steps, 1.0, final_ratio, end, past_end, unit)


def cosine(
    start: float,
    stop: float | None = None,
    steps: int | None = None,
    *,
    final_ratio: float | None = None,
    end: str = "exclusive",
    past_end: str = "hold",
    unit: str = "update",
) -> Schedule:
    """Half a cosine wave from `start` to `stop` over `steps` updates, then `stop` (torch's climbs again).

    value(t) = stop + (start - stop) * (1 + cos(pi * min(t, steps) / steps)) / 2    (Loshchilov & Hutter, 2017)

    >>> [round(v, 4) for v in cosine(1.0, 0.0, steps=4).curve(6)]
    [1.0, 0.8536, 0.5, 0.1464, 0.0, 0.0]
    """
    return _transition(Shape.COSINE, start, stop, steps, 1.0, final_ratio, end, past_end, unit)


def polynomial(
    start: float,
    stop: float | None = None,
    steps: int | None = None,
    power: float = 1.0,
    *,
    final_ratio: float | None = None,
    end: str = "exclusive",
    past_end: str = "hold",
    unit: str = "update",
) -> Schedule:
    """From `start` to `stop` over `steps` updates along a power, then `stop`.

    value(t) = stop + (start - stop) * (1 - min(t, steps) / steps) ** power

    With power > 1 it is steep first (as `torch.optim.lr_scheduler.PolynomialLR`, which stops at 0).

    >>> polynomial(1.0, 0.0, steps=4, power=2).curve(6)
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """
    param = positive("power", power)
    return _transition(Shape.POLYNOMIAL, start, stop, steps, param, final_ratio, end, past_end, unit)


def exponential(
    start: float, gamma: float, steps: int | None = None, *, past_end: str = "hold", unit: str = "update"
) -> Schedule:
    """A constant factor per update, for ever or for `steps` updates.

    value(t) = start * gamma ** min(t, steps)

    A growing one (gamma > 1) needs `steps`: without an end it leaves the range of numbers.

    >>> exponential(8.0, 0.5).curve(4), exponential(1.0, 2.0, steps=2).curve(4)
    ([8.0, 4.0, 2.0, 1.0], [1.0, 2.0, 4.0, 4.0])
    """
    start, gamma = level("start", start), level("gamma", gamma)
    segment = Segment(Shape.EXPONENTIAL, start=start, param=gamma, unit=unit)
    if steps is not None:
        steps = count("steps", steps)
        final = finite("start * gamma ** steps", segment(steps))
        return phases("exponential", [(segment, steps)], final, past_end=past_end, unit=unit)
    if gamma > 1.0:
        raise ValueError(f"Invalid gamma: {gamma}. A growing schedule needs an end: give steps=.")
    if past_end != "hold":
        raise ValueError(f"past_end={past_end!r} needs an end: give steps=.")
    return segment


def step(start: float, step_size: int, gamma: float = 0.1, *, unit: str = "update") -> Schedule:
    """A factor every `step_size` updates: value(t) = start * gamma ** floor(t / step_size).

    As `torch.optim.lr_scheduler.StepLR`.

    >>> step(1.0, step_size=2, gamma=0.5).curve(6)
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """
    start, size = level("start", start), count("step_size", step_size, least=1)
    segment = Segment(Shape.STAIRCASE, span=size, start=start, param=_shrinking(gamma), unit=unit)
    return segment.check("step")


def multistep(start: float, milestones: Iterable[int], gamma: float = 0.1, *, unit: str = "update") -> Schedule:
    """A factor at each milestone: value(t) = start * gamma ** (number of milestones <= t).

    As `torch.optim.lr_scheduler.MultiStepLR`; a milestone that stands twice counts twice.

    >>> multistep(1.0, [2, 3], gamma=0.5).curve(5)
    [1.0, 1.0, 0.5, 0.25, 0.25]
    """
    start, gamma = level("start", start), level("gamma", gamma)
    milestones = tuple(count(f"milestones[{i}]", m) for i, m in enumerate(milestones))
    if list(milestones) != sorted(milestones):
        raise ValueError(f"Invalid milestones: {[int(m) for m in milestones]}. Put them in increasing order.")
    stairs = tuple(start * power(gamma, float(k)) for k in range(len(milestones) + 1))
    return Sequence(stairs, milestones, unit=unit).check("multistep")


def inverse_time(start: float, alpha: float, *, unit: str = "update") -> Schedule:
    """value(t) = start / (1 + alpha * t); for ever.

    >>> inverse_time(1.0, 0.5).curve(3)
    [1.0, 0.6666666666666666, 0.5]
    """
    start, alpha = level("start", start), level("alpha", alpha)
    if alpha == 0.0:
        return constant(start)
    return Segment(Shape.INVERSE_POWER, span=finite("1 / alpha", 1.0 / alpha), start=start, param=-1.0, unit=unit)


def _shrinking(gamma: float) -> float:
    """A factor of a schedule without an end."""
    gamma = level("gamma", gamma)
    if gamma > 1.0:
        raise ValueError(
            f"Invalid gamma: {gamma}. Without an end the schedule would grow past every number; at most 1."
        )
    return gamma
