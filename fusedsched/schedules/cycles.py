# SPDX-License-Identifier: Apache-2.0
"""Named schedules that go up and down, once or again and again. `flags.py` explains the shared keywords."""

from __future__ import annotations

from fusedsched.schedules.arguments import count, final_level, level, one_of, phases, positive, span_within

from .compose import Sequence
from .evaluate import Shape
from .expression import Schedule, Segment, finite
from .program import FAR

MOST_CYCLES = 1024
"""Cycles of growing length take a row each; more rows than this would slow every update down."""

_ANNEAL = {"cos": Shape.COSINE, "linear": Shape.LINEAR}


def cyclic(
    low: float,
    high: float,
    up: int,
    down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
    *,
    unit: str = "update",
) -> Schedule:
    """A triangle wave from `low` to `high` in `up` updates and back in `down` (default: as many), for ever.

    value(t) = low + (high - low) * height(t) * scale    with height 0 .. 1 .. 0 over each cycle, and scale

    - "triangular": 1
    - "triangular2": halved after each cycle
    - "exp_range": gamma ** t

    As `torch.optim.lr_scheduler.CyclicLR` (Smith, 2017). For the momentum that it cycles the other way, swap `low` and
    `high`.

    >>> cyclic(0.0, 1.0, up=2).curve(6)
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]
    >>> cyclic(0.0, 1.0, up=1, mode="triangular2").curve(6)
    [0.0, 1.0, 0.0, 0.5, 0.0, 0.25]
    """
    low, high, up = level("low", low), level("high", high), count("up", up)
    down = up if down is None else count("down", down)
    if up + down == 0.0:
        raise ValueError("Invalid up, down: 0, 0. A cycle needs at least one update.")
    gamma = positive("gamma", gamma)
    if gamma > 1.0:
        raise ValueError(f"Invalid gamma: {gamma}. Cycles that grow for ever leave the range of numbers; at most 1.")
    one_of("mode", mode, ("triangular", "triangular2", "exp_range"))
    shape = Shape.TRIANGLE_DECAY if mode == "exp_range" else Shape.TRIANGLE
    param = {"triangular": 1.0, "triangular2": 0.5, "exp_range": gamma}[mode]
    wave = Segment(shape, span=up, start=low, stop=high, param=param, cycle=up + down, unit=unit)
    return wave.check("cyclic")


def cosine_restarts(
    start: float,
    stop: float | None = None,
    t_0: int | None = None,
    t_mult: float = 1,
    *,
    cycles: int | None = None,
    final_ratio: float | None = None,
    end: str = "exclusive",
    unit: str = "update",
) -> Schedule:
    """Half a cosine wave from `start` to `stop`, again and again; each cycle `t_mult` times as long as the one before.

    value(t) = stop + (start - stop) * (1 + cos(pi * t_cur / t_i)) / 2,  t_i = t_0 * t_mult ** i  (SGDR, 2017)

    As `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`; here `t_mult` may also be a fraction, or less than 1.
    With `cycles`, `stop` holds after that many. `end="inclusive"`: the last update of each cycle uses `stop`.

    >>> [round(v, 4) for v in cosine_restarts(1.0, 0.0, t_0=2, t_mult=2).curve(7)]
    [1.0, 0.5, 1.0, 0.8536, 0.5, 0.1464, 1.0]
    >>> cosine_restarts(1.0, 0.0, t_0=2, cycles=2, end="inclusive").curve(6)
    [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    """
    start, length = level("start", start), count("t_0", t_0, least=1)
    stop = final_level("stop", stop, final_ratio, of=start)
    t_mult = positive("t_mult", t_mult)
    if t_mult == 1.0 and cycles is None:
        span = span_within(length, end)
        return Segment(Shape.COSINE, span=span, start=start, stop=stop, cycle=length, unit=unit).check(
            "cosine_restarts"
        )
    limit = MOST_CYCLES if cycles is None else count("cycles", cycles)
    parts: list[tuple[Segment, float]] = []
    total = 0.0
    # A cycle of less than a step has no update of its own: with t_mult < 1 the schedule ends there.
    while len(parts) < limit and total < FAR and length >= 1.0:
        parts.append((Segment(Shape.COSINE, span=span_within(length, end), start=start, stop=stop), length))
        total, length = total + length, length * t_mult
    if len(parts) >= MOST_CYCLES:
        raise ValueError(
            f"Invalid t_mult: {t_mult}. Cycles of different length take a row each, and here more than {MOST_CYCLES} "
            "would be needed. Give cycles= or another t_mult."
        )
    return phases("cosine_restarts", parts, stop, unit=unit)


def one_cycle(
    peak: float,
    total_steps: int,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
    *,
    end: str = "inclusive",
    past_end: str = "hold",
    unit: str = "update",
) -> Schedule:
    """Up from `peak / div_factor` to `peak` in a part `pct_start` of `total_steps`, then down far below the start.

    The last value is `peak / div_factor / final_div_factor`, used by the last update as in
    `torch.optim.lr_scheduler.OneCycleLR` (Smith & Topin, 2018); `end="exclusive"`: by the one after it. With
    `three_phase` the way down mirrors the way up first. Phases of no width are left out.
    `one_cycle_momentum` goes with it.

    >>> [round(v, 4) for v in one_cycle(1.0, 10).curve(11)]
    [0.04, 0.52, 1.0, 0.9505, 0.8117, 0.6113, 0.3887, 0.1883, 0.0495, 0.0, 0.0]
    """
    peak = level("peak", peak)
    first = peak / positive("div_factor", div_factor)
    last = first / positive("final_div_factor", final_div_factor)
    levels = (first, peak, first, last) if three_phase else (first, peak, last)
    return _one_cycle("one_cycle", levels, total_steps, pct_start, anneal_strategy, end, past_end, unit)


def one_cycle_momentum(
    total_steps: int,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    three_phase: bool = False,
    *,
    end: str = "inclusive",
    past_end: str = "hold",
    unit: str = "update",
) -> Schedule:
    """The momentum (or beta1) that OneCycleLR cycles against the learning rate: `max_momentum` down to `base_momentum`
    while `one_cycle` climbs, and back.

    >>> one_cycle_momentum(5, 0.5, 1.0, pct_start=0.4, anneal_strategy="linear").curve(6)
    [1.0, 0.5, 0.6666666666666666, 0.8333333333333334, 1.0, 1.0]
    """
    low, high = level("base_momentum", base_momentum), level("max_momentum", max_momentum)
    levels = (high, low, high, high) if three_phase else (high, low, high)
    return _one_cycle("one_cycle_momentum", levels, total_steps, pct_start, anneal_strategy, end, past_end, unit)


def _one_cycle(what, levels, total_steps, pct_start, anneal_strategy, end, past_end, unit) -> Schedule:
    """Through `levels`, three or four of them; the inner turning points lie where torch's phases end."""
    total, share = count("total_steps", total_steps, least=1), finite("pct_start", pct_start)
    most = 0.5 if len(levels) == 4 else 1.0
    if not 0.0 <= share <= most:
        raise ValueError(f"Invalid pct_start: {pct_start}. It must be between 0 and {most:g}: a part of total_steps.")
    shape = _ANNEAL[one_of("anneal_strategy", anneal_strategy, tuple(_ANNEAL))]
    one_of("past_end", past_end, ("hold", "cycle", "error"))
    early = total - span_within(total, end)  # torch counts to the last update, hence its "- 1"
    turns = [share * total - early, 2.0 * (share * total - early)][: len(levels) - 2]
    turns = [0.0, *(max(0.0, turn) for turn in turns), total - early]
    parts = [
        Segment(shape, span=turns[i + 1] - turns[i], start=levels[i], stop=levels[i + 1])
        for i in range(len(levels) - 1)
    ]
    whole = Sequence(
        (*parts, levels[-1]),
        tuple(turns[1:]),
        period=total if past_end == "cycle" else 0.0,
        horizon=turns[-1] if past_end == "error" else -1.0,
        unit=unit,
    )
    return whole.check(what)
