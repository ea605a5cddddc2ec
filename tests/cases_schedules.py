# SPDX-License-Identifier: Apache-2.0
"""Tables of the properties of schedules. A new row of SCHEDULES gets all of them; its formula is in `formulas.py` or
here, and is independent of what it judges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from formulas import climb, line, mirrored, restart_share, share, triangle, wave
from mpmath import mpf, sqrt

from fusedsched import schedules as S
from fusedsched.schedules import Schedule, Segment, Sequence, Shape, Shift


class Case(NamedTuple):
    """`make()` builds it; `formula(u)` is the value that update u must use; `edges`: updates to look at closely;
    `factors`: how many factors are multiplied; `scale`: where the formula subtracts, errors are of this size."""

    make: Callable[[], Schedule]
    formula: Callable[[int], Any]
    edges: tuple[int, ...] = ()
    factors: int = 1
    scale: float = 0.0


T, W = 1000, 100
SCHEDULES: dict[str, Case] = {
    "constant": Case(lambda: S.constant(0.3), lambda u: mpf(0.3)),
    "constant-zero": Case(lambda: S.constant(0), lambda u: mpf(0)),
    "linear": Case(lambda: S.linear(0.1, 0.7, steps=T), lambda u: line(0.1, 0.7, share(u, 0, T)), (T,)),
    "linear-inclusive": Case(lambda: S.linear(0.7, 0.1, steps=T, end="inclusive"),
        lambda u: line(0.7, 0.1, share(u, 0, T - 1)), (T,)),
    "linear-ratio": Case(lambda: S.linear(0.8, steps=T, final_ratio=0.25), lambda u: line(0.8, 0.2, share(u, 0, T)),
        (T,)),
    "linear-cycle": Case(lambda: S.linear(1, 0, steps=7, past_end="cycle"), lambda u: line(1, 0, mpf(u % 7) / 7),
        (7, 14)),
    "linear-no-steps": Case(lambda: S.linear(1, 0.5, steps=0), lambda u: mpf(0.5), (1,)),
    "cosine": Case(lambda: S.cosine(0.3, 0.01, steps=T), lambda u: wave(0.3, 0.01, share(u, 0, T)), (T,)),
    "cosine-up": Case(lambda: S.cosine(0.0, 0.5, steps=T), lambda u: wave(0, 0.5, share(u, 0, T)), (T,)),
    "cosine-long": Case(lambda: S.cosine(0.3, 0.0, steps=10**9), lambda u: wave(0.3, 0, share(u, 0, 10**9)),
        (10**9, 5 * 10**8)),
    "cosine-inclusive": Case(lambda: S.cosine(0.3, steps=T, final_ratio=0.5, end="inclusive"),
        lambda u: wave(0.3, 0.15, share(u, 0, T - 1)), (T,)),
    "cosine-cycle": Case(lambda: S.cosine(1, 0, steps=50, end="inclusive", past_end="cycle"),
        lambda u: wave(1, 0, mpf(u % 50) / 49), (50, 100)),
    "polynomial": Case(lambda: S.polynomial(0.9, 0.1, T, 2.5),
        lambda u: mpf(0.1) + (mpf(0.9) - 0.1) * (1 - share(u, 0, T)) ** 2.5, (T,)),
    "polynomial-up": Case(lambda: S.polynomial(0.0, 1.0, 10**9, 2), lambda u: 1 - (1 - share(u, 0, 10**9)) ** 2,
        (10**9,)),
    "polynomial-root": Case(lambda: S.polynomial(1.0, 0.0, T, 0.5), lambda u: sqrt(1 - share(u, 0, T)), (T,)),
    "exponential": Case(lambda: S.exponential(0.5, 0.999), lambda u: mpf(0.5) * mpf(0.999) ** u),
    "exponential-grows": Case(lambda: S.exponential(1e-6, 1.01, steps=T), lambda u: mpf(1e-6) * mpf(1.01) ** min(u, T),
        (T,)),
    "exponential-zero": Case(lambda: S.exponential(0.5, 0.0), lambda u: mpf(0.5 if u == 0 else 0), (1,)),
    "step": Case(lambda: S.step(0.5, 30, 0.1), lambda u: mpf(0.5) * mpf(0.1) ** (u // 30), (30, 60, 30 * 10**7)),
    "step-long": Case(lambda: S.step(0.5, 10**7, 0.9), lambda u: mpf(0.5) * mpf(0.9) ** (u // 10**7),
        (10**7, 3 * 10**9)),
    "multistep": Case(lambda: S.multistep(0.5, [10, 10, 40], 0.3),
        lambda u: mpf(0.5) * mpf(0.3) ** (2 * (u >= 10) + (u >= 40)), (10, 40)),
    "multistep-at-0": Case(lambda: S.multistep(0.5, [0], 0.5), lambda u: mpf(0.25)),
    "inverse_time": Case(lambda: S.inverse_time(0.5, 0.003), lambda u: mpf(0.5) / (1 + mpf(0.003) * u)),
    "inverse_time-0": Case(lambda: S.inverse_time(0.5, 0.0), lambda u: mpf(0.5)),
    "inverse_sqrt": Case(lambda: S.inverse_sqrt(0.7, W),
        lambda u: climb(u, 0.7, W, lambda u: mpf(0.7) * sqrt(mpf(W) / u)), (W,)),
    "inverse_sqrt-no-warmup": Case(lambda: S.inverse_sqrt(0.7, 0), lambda u: mpf(0.7) / sqrt(1 + mpf(u) / 10_000),
        (10_000,)),
    "noam": Case(lambda: S.noam(512, 4000, 2),
        lambda u: 2 / sqrt(mpf(512)) * min(1 / sqrt(mpf(u + 1)), (u + 1) / mpf(4000) ** mpf(1.5)), (4000, 3999)),
    "noam-no-warmup": Case(lambda: S.noam(512, 0), lambda u: 1 / sqrt(mpf(512) * (u + 1))),
    "cyclic": Case(lambda: S.cyclic(0.1, 0.9, 20), lambda u: line(0.1, 0.9, triangle(u, 20, 20)), (20, 40), scale=0.9),
    "cyclic-down": Case(lambda: S.cyclic(0.9, 0.1, 5, 15), lambda u: line(0.9, 0.1, triangle(u, 5, 15)), (5, 20),
        scale=0.9),
    "cyclic-saw": Case(lambda: S.cyclic(0.1, 0.9, 0, 8), lambda u: line(0.1, 0.9, triangle(u, 0, 8)), (8,), scale=0.9),
    "cyclic-triangular2": Case(lambda: S.cyclic(0.1, 0.9, 7, 9, mode="triangular2"),
        lambda u: line(0.1, 0.9, triangle(u, 7, 9) / mpf(2) ** (u // 16)), (7, 16, 32), scale=0.9),
    "cyclic-exp_range": Case(lambda: S.cyclic(0.1, 0.9, 7, mode="exp_range", gamma=0.99),
        lambda u: line(0.1, 0.9, triangle(u, 7, 7) * mpf(0.99) ** u), (7, 14), scale=0.9),
    "one_cycle": Case(lambda: S.one_cycle(0.5, T), lambda u: mirrored(u, 0.5 / 25, 0.5, 0.5 / 25 / 1e4, 299, 999),
        (299, 999)),
    "one_cycle-fraction": Case(lambda: S.one_cycle(0.5, 11, pct_start=0.25),
        lambda u: mirrored(u, 0.02, 0.5, 2e-6, 1.75, 10), (2, 10)),
    "one_cycle-three-phase": Case(lambda: S.one_cycle(0.5, T, div_factor=10, final_div_factor=100, three_phase=True),
        lambda u: mirrored(u, 0.05, 0.5, 0.0005, 299, 598, 999), (299, 598, 999)),
    "one_cycle-no-climb": Case(lambda: S.one_cycle(0.5, 10, pct_start=0.1), lambda u: wave(0.5, 2e-6, share(u, 0, 9)),
        (9,)),
    "one_cycle-no-fall": Case(lambda: S.one_cycle(0.5, 10, pct_start=1.0),
        lambda u: wave(0.02, 0.5, mpf(u) / 9) if u < 9 else mpf(2e-6), (9,)),
    "one_cycle-exclusive": Case(lambda: S.one_cycle(0.5, T, end="exclusive"),
        lambda u: mirrored(u, 0.02, 0.5, 2e-6, 300, 1000), (300, 1000)),
    "one_cycle_momentum": Case(lambda: S.one_cycle_momentum(T), lambda u: mirrored(u, 0.95, 0.85, 0.95, 299, 999),
        (299, 999)),
    "cosine_restarts": Case(lambda: S.cosine_restarts(0.5, 0.01, 30), lambda u: wave(0.5, 0.01, mpf(u % 30) / 30),
        (30, 60)),
    "cosine_restarts-mult": Case(lambda: S.cosine_restarts(0.5, 0.01, 10, 2),
        lambda u: wave(0.5, 0.01, restart_share(u, 10, 2)), (10, 30, 70)),
    "cosine_restarts-cycles": Case(lambda: S.cosine_restarts(0.5, 0, 10, 3, cycles=2),
        lambda u: wave(0.5, 0, restart_share(u, 10, 3)) if u < 40 else mpf(0), (10, 40)),
    "warmup_cosine": Case(lambda: S.warmup_cosine(0.3, W, T, 0.03),
        lambda u: climb(u, 0.3, W, lambda u: wave(0.3, 0.03, share(u, W, T))), (W, T)),
    "warmup_cosine-flags": Case(
        lambda: S.warmup_cosine(
            0.25, W, T, final_ratio=0.5, warmup_from=0.0, end="inclusive", decay_anchor="after_warmup", unit="token"
        ),
        lambda u: mpf(0.25) * u / W if u < W else wave(0.25, 0.125, share(u, W, W + T - 1)),
        (W, W + T),
    ),
    "warmup_cosine-no-warmup": Case(lambda: S.warmup_cosine(0.3, 0, T), lambda u: wave(0.3, 0, share(u, 0, T)), (T,)),
    "warmup_cosine-no-decay": Case(lambda: S.warmup_cosine(0.3, W, W, 0.1),
        lambda u: climb(u, 0.3, W, lambda u: mpf(0.1)), (W,)),
    "warmup_cosine-cycle": Case(lambda: S.warmup_cosine(0.3, 4, 24, past_end="cycle"),
        lambda u: climb(u % 24, 0.3, 4, lambda v: wave(0.3, 0, share(v, 4, 24))), (4, 24, 28, 48)),
    "warmup_linear": Case(lambda: S.warmup_linear(0.3, 1, T),
        lambda u: climb(u, 0.3, 1, lambda u: line(0.3, 0, share(u, 1, T))), (1, T)),
    "warmup_linear-from": Case(lambda: S.warmup_linear(0.3, W, T, 0.1, warmup_from=0.05),
        lambda u: line(0.05, 0.3, mpf(u) / W) if u < W else line(0.3, 0.1, share(u, W, T)), (W, T)),
    "warmup_stable_decay": Case(lambda: S.warmup_stable_decay(0.3, W, T, 200, 0.03),
        lambda u: climb(u, 0.3, W, lambda u: line(0.3, 0.03, share(u, W + T, W + T + 200))), (W, W + T, W + T + 200)),
    "warmup_stable_decay-cosine": Case(lambda: S.warmup_stable_decay(0.3, W, T, 200, decay="cosine"),
        lambda u: climb(u, 0.3, W, lambda u: wave(0.3, 0, share(u, W + T, W + T + 200))), (W, W + T, W + T + 200)),
    "warmup_stable_decay-sqrt": Case(lambda: S.warmup_stable_decay(0.3, W, 0, 10**8, decay="1-sqrt"),
        lambda u: climb(u, 0.3, W, lambda u: mpf(0.3) * (1 - sqrt(share(u, W, W + 10**8)))), (W, W + 10**8)),
    "join": Case(lambda: S.join([S.linear(0, 1, 9), 0.3], [5]), lambda u: mpf(u) / 9 if u < 5 else mpf(0.3), (5,)),
    "join-nested": Case(
        lambda: S.join([0.1, S.join([S.linear(0, 1, 4), S.cosine(1, 0, 8)], [4]), S.step(1, 3, 0.5)], [3, 11]),
        lambda u: (
            mpf(0.1)
            if u < 3
            else line(0, 1, mpf(u - 3) / 4)
            if u < 7
            else wave(1, 0, mpf(u - 7) / 8)
            if u < 11
            else mpf(0.5) ** ((u - 11) // 3)
        ),
        (3, 7, 11, 14),
    ),
    "join-cycle": Case(lambda: S.join([0.1, S.linear(1, 0, 4)], [2], past_end="cycle"),
        lambda u: mpf(0.1) if u % 6 < 2 else line(1, 0, mpf(u % 6 - 2) / 4), (2, 6, 8)),
    "join-part-cycles": Case(lambda: S.join([0.1, S.linear(1, 0, 4, past_end="cycle")], [3]),
        lambda u: mpf(0.1) if u < 3 else line(1, 0, mpf((u - 3) % 4) / 4), (3, 7)),
    "warmup>>": Case(lambda: S.warmup(W) >> S.exponential(0.4, 0.99),
        lambda u: climb(u, 0.4, W, lambda u: mpf(0.4) * mpf(0.99) ** (u - W)), (W,)),
    "warmup*": Case(lambda: S.warmup(W) * S.exponential(0.4, 0.99),
        lambda u: min(mpf(u + 1) / W, 1) * mpf(0.4) * mpf(0.99) ** u, (W,), 2),
    "product": Case(lambda: S.product(S.cosine(1, 0, T), S.step(0.5, 100, 0.7), 3),
        lambda u: wave(1, 0, share(u, 0, T)) * 3 * mpf(0.5) * mpf(0.7) ** (u // 100), (100, T), 3),
    "product-in-join": Case(lambda: S.join([S.linear(0, 1, 10), S.cosine(1, 0, T) * S.step(0.5, 100, 0.7)], [10]) * 2,
        lambda u: 2 * mpf(u) / 10 if u < 10 else wave(1, 0, share(u - 10, 0, T)) * mpf(0.7) ** ((u - 10) // 100),
        (10, 110, T + 10), 3),
    "shift": Case(lambda: Shift(Segment(Shape.STAIRCASE, span=10, start=4, param=0.5), -7.5),
        lambda u: mpf(4) * mpf(0.5) ** math.floor((u + 7.5) / 10), (2, 3, 12, 13)),
    "shift-late": Case(lambda: S.join([0.2, Shift(S.linear(1, 0, 8), 5)], [10]),
        lambda u: mpf(0.2) if u < 10 else line(1, 0, share(u, 15, 23)), (10, 15, 23)),
    "from_function": Case(lambda: S.from_function(lambda t: 1 / (1 + t), 20, past_end="hold"),
        lambda u: 1 / mpf(1 + min(u, 19)), (19,)),
    "from_function-cycle": Case(lambda: 2 * S.from_function(lambda t: t, 5, past_end="cycle"),
        lambda u: mpf(2 * (u % 5)), (5,)),
}  # fmt: skip

# One segment of every shape, for the property that evaluators agree: numbers with no symmetry to hide behind.
SHAPES: dict[Shape, Schedule] = {
    Shape.CONSTANT: Segment(Shape.CONSTANT, start=0.3),
    Shape.LINEAR: Segment(Shape.LINEAR, span=7e5, start=0.9, stop=0.1),
    Shape.COSINE: Segment(Shape.COSINE, span=777, start=0.9, stop=0.1, cycle=1554),
    Shape.POLYNOMIAL: Sequence((Segment(Shape.POLYNOMIAL, span=7e5, start=0.9, stop=0.1, param=1.7), 0.1), (7e5,)),
    Shape.POWER: Sequence((Segment(Shape.POWER, span=7e5, start=0.9, stop=0.1, param=0.37), 0.1), (7e5,)),
    Shape.EXPONENTIAL: Segment(Shape.EXPONENTIAL, start=0.9, param=0.999),
    Shape.STAIRCASE: Segment(Shape.STAIRCASE, span=77, start=0.9, param=0.93),
    Shape.TRIANGLE: Segment(Shape.TRIANGLE, span=55, start=0.1, stop=0.9, param=0.83, cycle=77),
    Shape.TRIANGLE_DECAY: Segment(Shape.TRIANGLE_DECAY, span=55, start=0.1, stop=0.9, param=0.997, cycle=77),
    Shape.INVERSE_POWER: Segment(Shape.INVERSE_POWER, span=77, start=0.9, param=-0.37),
    Shape.TABLE: Segment(Shape.TABLE, values=tuple(1 / (3 + i) for i in range(99))),
}
