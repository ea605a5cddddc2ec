# SPDX-License-Identifier: Apache-2.0
"""Named schedules that warm up first, and the words to put schedules together. `flags.py` explains the keywords."""

from __future__ import annotations

from collections.abc import Iterable, Sequence as List

from fusedsched.schedules.arguments import count, final_level, level, one_of, phases, positive, span_within

from .compose import Product, Sequence, Warmup, ramp
from .evaluate import Shape
from .expression import Schedule, Segment, as_schedule


def _start_of_warmup(warmup_from: float | None) -> float | None:
    return None if warmup_from is None else level("warmup_from", warmup_from)


def warmup(steps: int, *, warmup_from: float | None = None, unit: str = "update") -> Warmup:
    """A linear climb of `steps` updates: `warmup(n) >> schedule` climbs to the schedule's first value, then runs it
    on its own local time. `warmup(n) * schedule` damps the first updates of a schedule that runs from 0.

    Update u uses the part (u + 1) / steps; see `warmup_from` in `flags.py` for the other convention.

    >>> (warmup(4) >> 2.0).curve(5)
    [0.5, 1.0, 1.5, 2.0, 2.0]
    """
    return Warmup(count("steps", steps), _start_of_warmup(warmup_from), unit=unit)


def _warmup_then(
    what, shape, peak, warmup_steps, total_steps, final, final_ratio, warmup_from, end, past_end, decay_anchor, unit
) -> Schedule:
    peak, width = level("peak", peak), count("warmup_steps", warmup_steps)
    total = count("total_steps", total_steps)
    final = final_level("final", final, final_ratio, of=peak, default=0.0)
    if one_of("decay_anchor", decay_anchor, ("absolute", "after_warmup")) == "absolute":
        if width > total:
            raise ValueError(
                f"Invalid warmup_steps: {warmup_steps}, more than total_steps={total_steps}, which include the warmup. "
                "Give more total_steps, or decay_anchor='after_warmup' if they count the decay alone."
            )
        total -= width
    climb = ramp(peak, width, _start_of_warmup(warmup_from))
    decay = Segment(shape, span=span_within(total, end), start=peak, stop=final)
    return phases(what, [(climb, width), (decay, total)], final, end=end, past_end=past_end, unit=unit)


def warmup_cosine(
    peak: float,
    warmup_steps: int,
    total_steps: int,
    final: float | None = None,
    *,
    final_ratio: float | None = None,
    warmup_from: float | None = None,
    end: str = "exclusive",
    past_end: str = "hold",
    decay_anchor: str = "absolute",
    unit: str = "update",
) -> Schedule:
    """A linear climb to `peak`, then half a cosine wave to `final` (default 0), then `final`.

    With W = warmup_steps, T = total_steps, p = (u - W) / (T - W):

        u <  W: peak * (u + 1) / W
        u >= W: final + (peak - final) * (1 + cos(pi * min(p, 1))) / 2

    >>> [round(v, 4) for v in warmup_cosine(1.0, warmup_steps=2, total_steps=6).curve(8)]
    [0.5, 1.0, 1.0, 0.8536, 0.5, 0.1464, 0.0, 0.0]
    >>> warmup_cosine(1.0, 2, 4, final_ratio=0.5, warmup_from=0.0, end="inclusive").curve(5)
    [0.0, 0.5, 1.0, 0.5, 0.5]
    """
    return _warmup_then(
        "warmup_cosine", Shape.COSINE, peak, warmup_steps, total_steps, final, final_ratio, warmup_from, end,
        past_end, decay_anchor, unit,
    )  # fmt: skip


def warmup_linear(
    peak: float,
    warmup_steps: int,
    total_steps: int,
    final: float | None = None,
    *,
    final_ratio: float | None = None,
    warmup_from: float | None = None,
    end: str = "exclusive",
    past_end: str = "hold",
    decay_anchor: str = "absolute",
    unit: str = "update",
) -> Schedule:
    """A linear climb to `peak`, then a straight line to `final` (default 0), then `final`.

    With W = warmup_steps, T = total_steps, p = (u - W) / (T - W):

        u <  W: peak * (u + 1) / W
        u >= W: peak + (final - peak) * min(p, 1)

    >>> warmup_linear(1.0, warmup_steps=2, total_steps=4).curve(6)
    [0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    >>> warmup_linear(1.0, 2, 2, decay_anchor="after_warmup").curve(6)
    [0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    """
    return _warmup_then(
        "warmup_linear", Shape.LINEAR, peak, warmup_steps, total_steps, final, final_ratio, warmup_from, end,
        past_end, decay_anchor, unit,
    )  # fmt: skip


DECAYS = {"linear": (Shape.LINEAR, 1.0), "cosine": (Shape.COSINE, 1.0), "1-sqrt": (Shape.POWER, 0.5)}
"""How a decay falls, by name: the shape of a row from the first value to the final one, and its exponent."""


def warmup_stable_decay(
    peak: float,
    warmup_steps: int,
    stable_steps: int,
    decay_steps: int,
    final: float | None = None,
    decay: str = "linear",
    *,
    final_ratio: float | None = None,
    warmup_from: float | None = None,
    end: str = "exclusive",
    past_end: str = "hold",
    unit: str = "update",
) -> Schedule:
    """A linear climb to `peak`, `peak` for `stable_steps`, then down to `final` (default 0) in `decay_steps`.

    With q = (u - warmup_steps - stable_steps) / decay_steps, the decay is final + (peak - final) * d(q):

        "linear": 1 - q     "cosine": (1 + cos(pi q)) / 2     "1-sqrt": 1 - sqrt(q)    (Haegele et al., 2024)

    >>> warmup_stable_decay(1.0, 2, 2, 4, decay="1-sqrt").curve(9)
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.2928932188134525, 0.13397459621556135, 0.0]
    """
    peak, climb_width = level("peak", peak), count("warmup_steps", warmup_steps)
    stable_width, decay_width = count("stable_steps", stable_steps), count("decay_steps", decay_steps)
    final = final_level("final", final, final_ratio, of=peak, default=0.0)
    shape, param = DECAYS[one_of("decay", decay, tuple(DECAYS))]
    parts = [
        (ramp(peak, climb_width, _start_of_warmup(warmup_from)), climb_width),
        (Segment(Shape.CONSTANT, start=peak), stable_width),
        (Segment(shape, span=span_within(decay_width, end), start=peak, stop=final, param=param), decay_width),
    ]
    return phases("warmup_stable_decay", parts, final, end=end, past_end=past_end, unit=unit)


def inverse_sqrt(
    peak: float,
    warmup_steps: int,
    *,
    timescale: float | None = None,
    warmup_from: float | None = None,
    unit: str = "update",
) -> Schedule:
    """A linear climb to `peak`, then a slow decay for ever: peak / sqrt(1 + (u - warmup_steps) / timescale).

    `timescale`: by default warmup_steps (then the decay is peak * sqrt(warmup_steps / u)), or 10,000 without a warmup,
    as Hugging Face has it.

    >>> inverse_sqrt(1.0, warmup_steps=1).curve(5)
    [1.0, 1.0, 0.7071067811865476, 0.5773502691896257, 0.5]
    """
    peak, width = level("peak", peak), count("warmup_steps", warmup_steps)
    scale = positive("timescale", (width or 10_000.0) if timescale is None else timescale)
    decay = Segment(Shape.INVERSE_POWER, span=scale, start=peak, param=-0.5)
    climb = ramp(peak, width, _start_of_warmup(warmup_from))
    return Sequence((climb, decay), (width,), unit=unit).check("inverse_sqrt")


def noam(d_model: float, warmup_steps: int, factor: float = 1.0, *, unit: str = "update") -> Schedule:
    """The schedule of the Transformer paper (Vaswani et al., 2017), with s = u + 1 for the paper's step number:

    value(u) = factor * d_model ** -0.5 * min(s ** -0.5, s * warmup_steps ** -1.5)

    >>> noam(d_model=1, warmup_steps=4).curve(4)
    [0.125, 0.25, 0.375, 0.5]
    """
    d_model, width, factor = positive("d_model", d_model), count("warmup_steps", warmup_steps), level("factor", factor)
    scale = max(1.0, width)  # without a warmup the decay starts at s = 1
    peak = factor * (d_model * scale) ** -0.5
    decay = Segment(Shape.INVERSE_POWER, span=scale, start=peak, param=-0.5)
    # Both halves give the peak at s = W, that is u = W - 1; the decay owns it, so its (1 + t / W) is s / W.
    return Sequence((ramp(peak, width, None), decay), (scale - 1.0,), unit=unit).check("noam")


def join(parts: Iterable[Schedule | float], boundaries: List[int], *, past_end: str = "hold") -> Schedule:
    """Schedules or numbers one after the other; part i starts at `boundaries[i - 1]`, at its own local time 0.

    `past_end="cycle"` and `"error"` need a last part that ends.

    >>> join([0.5, 0.25], [2]).curve(4)
    [0.5, 0.5, 0.25, 0.25]
    """
    whole = Sequence(tuple(parts), tuple(count(f"boundaries[{i}]", b) for i, b in enumerate(boundaries)))
    if one_of("past_end", past_end, ("hold", "cycle", "error")) != "hold":
        length = whole.duration
        if not length:
            raise ValueError(f"past_end={past_end!r} needs an end, and the last part of this join() has none.")
        period, horizon = (length, -1.0) if past_end == "cycle" else (0.0, length)
        whole = Sequence(whole.parts, whole.boundaries, period=period, horizon=horizon, unit=whole.unit)
    return whole.check("join")


def product(*factors: Schedule | float) -> Schedule:
    """The product of schedules and numbers; the same as `a * b`.

    >>> product(join([1.0, 0.5], [1]), 4).curve(2)
    [4.0, 2.0]
    """
    return Product(tuple(as_schedule(f, f"factors[{i}]") for i, f in enumerate(factors))).check("product")
