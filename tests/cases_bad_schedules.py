# SPDX-License-Identifier: Apache-2.0
"""Wrong schedules: what is called, the error's type, and what its message must say. A new row gets its test."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from fusedsched import schedules as S
from fusedsched.schedules import Schedule, Segment, Sequence, Shape, Shift, Warmup


class Bad(NamedTuple):
    call: Callable[[], Any]
    error: type[Exception]
    says: str  # a regex


def _optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1)], lr=0.1)


BAD_SCHEDULES: dict[str, Bad] = {
    "negative-constant": Bad(lambda: S.constant(-0.1), ValueError, r"Invalid value: -0\.1.*0 or more"),
    "nan": Bad(lambda: S.constant(math.nan), ValueError, r"Invalid value: nan.*finite"),
    "infinite": Bad(lambda: S.linear(0.1, math.inf, 10), ValueError, r"Invalid stop: inf.*finite"),
    "not-a-number": Bad(lambda: S.constant("fast"), TypeError, r"value must be a number, got 'fast'"),
    "negative-stop": Bad(lambda: S.cosine(0.1, -1e-9, 10), ValueError, r"Invalid stop: -1e-09"),
    "negative-steps": Bad(lambda: S.linear(0.1, 0, -5), ValueError, r"Invalid steps: -5.*whole number"),
    "fractional-steps": Bad(lambda: S.linear(0.1, 0, 2.5), ValueError, r"Invalid steps: 2\.5.*whole number"),
    "no-steps": Bad(lambda: S.linear(0.1, 0), ValueError, r"steps is missing"),
    "no-stop": Bad(lambda: S.cosine(0.1, steps=9), ValueError, r"stop is missing.*final_ratio"),
    "stop-and-ratio": Bad(lambda: S.cosine(0.1, 0.0, 9, final_ratio=0.1), ValueError,
        r"both stop=0\.0 and final_ratio"),
    "end": Bad(lambda: S.linear(1, 0, 9, end="last"), ValueError, r"Invalid end: 'last'.*'exclusive', 'inclusive'"),
    "past-end": Bad(lambda: S.linear(1, 0, 9, past_end="stop"), ValueError, r"Invalid past_end: 'stop'.*'hold'"),
    "cycle-of-nothing": Bad(lambda: S.linear(1, 0, 0, past_end="cycle"), ValueError, r"no steps.*nothing to repeat"),
    "unit": Bad(lambda: S.linear(1, 0, 9, unit="epoch"), ValueError, r"Invalid unit: 'epoch'.*'token'"),
    "mixed-units": Bad(lambda: S.linear(1, 0, 9, unit="token") * S.linear(1, 0, 9, unit="sample"), ValueError,
        r"different units"),
    "power": Bad(lambda: S.polynomial(1, 0, 9, power=0), ValueError, r"Invalid power: 0.*more than 0"),
    "growth": Bad(lambda: S.exponential(1.0, 1.1), ValueError, r"growing schedule needs an end: give steps="),
    "overflow": Bad(lambda: S.exponential(1.0, 10.0, steps=400), ValueError, r"gamma \*\* steps: inf.*finite"),
    "step-size": Bad(lambda: S.step(1.0, 0), ValueError, r"Invalid step_size: 0.*1 or more"),
    "growing-stairs": Bad(lambda: S.step(1.0, 5, gamma=2.0), ValueError, r"Invalid gamma: 2\.0"),
    "milestones": Bad(lambda: S.multistep(1.0, [5, 3]), ValueError, r"Invalid milestones: \[5, 3\].*increasing"),
    "mode": Bad(lambda: S.cyclic(0, 1, 5, mode="square"), ValueError, r"Invalid mode: 'square'"),
    "empty-cycle": Bad(lambda: S.cyclic(0, 1, 0), ValueError, r"at least one update"),
    "pct": Bad(lambda: S.one_cycle(1, 10, pct_start=30), ValueError, r"Invalid pct_start: 30.*between 0 and 1"),
    "pct-three": Bad(lambda: S.one_cycle(1, 9, 0.6, three_phase=True), ValueError, r"pct_start: 0\.6.*0 and 0\.5"),
    "anneal": Bad(lambda: S.one_cycle(1, 9, anneal_strategy="exp"), ValueError, r"anneal_strategy: 'exp'.*'cos'"),
    "too-many-cycles": Bad(lambda: S.cosine_restarts(1, 0, 1, 1.0001), ValueError, r"t_mult.*Give cycles="),
    "warmup-too-long": Bad(lambda: S.warmup_cosine(1, 11, 10), ValueError, r"warmup_steps: 11.*after_warmup"),
    "anchor": Bad(lambda: S.warmup_linear(1, 1, 9, decay_anchor="end"), ValueError, r"decay_anchor: 'end'"),
    "decay": Bad(lambda: S.warmup_stable_decay(1, 1, 1, 1, decay="sqrt"), ValueError, r"decay: 'sqrt'.*'1-sqrt'"),
    "boundaries-order": Bad(lambda: S.join([1, 2, 3], [5, 4]), ValueError, r"boundaries\[1\] is 4\.0, less than 5\.0"),
    "boundaries-count": Bad(lambda: S.join([1, 2, 3], [5]), ValueError, r"3 parts and 1 boundaries"),
    "boundary-negative": Bad(lambda: Sequence((1, 2), (-1,)), ValueError, r"boundaries\[0\] is -1\.0"),
    "join-no-end": Bad(lambda: S.join([1, S.step(1, 2)], [5], past_end="cycle"), ValueError, r"needs an end"),
    "follow-endless": Bad(lambda: S.step(1, 2) >> S.constant(1), ValueError, r"never ends.*join"),
    "cycle-inside": Bad(lambda: S.join([1, S.warmup_linear(1, 2, 9, past_end="cycle")], [5]), ValueError,
        r"only stand outermost"),
    "empty-product": Bad(lambda: S.product(), ValueError, r"no factors"),
    "negative-product": Bad(lambda: S.product(S.constant(1), -1), ValueError, r"falls to -1.*at or above 0"),
    "product-part": Bad(lambda: S.product("x"), TypeError, r"factors\[0\] must be a number"),
    "endless-line": Bad(lambda: Segment(Shape.LINEAR, span=9, start=1.0).check("momentum"), ValueError,
        r"Invalid momentum.*falls to"),
    "segment-nan": Bad(lambda: Segment(Shape.LINEAR, span=9, start=math.nan), ValueError, r"start of LINEAR: nan"),
    "segment-span": Bad(lambda: Segment(Shape.COSINE, span=-1), ValueError, r"COSINE got span=-1\.0"),
    "segment-stair": Bad(lambda: Segment(Shape.STAIRCASE), ValueError, r"STAIRCASE got span=0"),
    "segment-triangle": Bad(lambda: Segment(Shape.TRIANGLE, span=2, cycle=1), ValueError, r"0 <= span <= cycle"),
    "segment-power": Bad(lambda: Segment(Shape.POWER, span=2, param=0), ValueError, r"power must be positive"),
    "table-empty": Bad(lambda: Segment(Shape.TABLE), ValueError, r"TABLE got 0 values"),
    "table-elsewhere": Bad(lambda: Segment(Shape.LINEAR, values=(1,)), ValueError, r"LINEAR got 1 values"),
    "warmup-steps": Bad(lambda: Warmup(-1), ValueError, r"Invalid steps: -1\.0"),
    "shift-in-the-middle": Bad(lambda: S.join([1, Shift(S.cosine(1, 0, 9), -3)], [5]), ValueError,
        r"negative begin can only stand first"),
    "clock-negative": Bad(lambda: S.constant(1)(-1), ValueError, r"Invalid clock: -1"),
    "past-the-end": Bad(lambda: S.linear(1, 0, 9, past_end="error")(10), ValueError, r"t = 0 \.\. 9 .*got t = 10"),
    "function-nan": Bad(lambda: S.from_function(lambda t: math.nan if t == 3 else 1.0, 9), ValueError,
        r"value of f at t = 3: nan"),
    "function-negative": Bad(lambda: S.from_function(lambda t: 1 - t, 9), ValueError, r"Invalid f.*falls to -7"),
    "function-steps": Bad(lambda: S.from_function(abs, 0), ValueError, r"Invalid steps: 0.*1 or more"),
    "function-type": Bad(lambda: S.from_function(0.1, 9), TypeError, r"needs a function of t, got 0\.1"),
    "torch-type": Bad(lambda: S.from_torch(0.1), TypeError, r"needs a torch scheduler object, got float"),
    "torch-steps": Bad(lambda: S.from_torch(torch.optim.lr_scheduler.LambdaLR(_optimizer(), lambda t: 1.0)), ValueError,
        r"steps is missing: LambdaLR"),
    "torch-group": Bad(lambda: S.from_torch(torch.optim.lr_scheduler.StepLR(_optimizer(), 3), group=1), ValueError,
        r"Invalid group: 1"),
    "torch-plateau": Bad(lambda: S.from_torch(torch.optim.lr_scheduler.ReduceLROnPlateau(_optimizer()), steps=9),
        ValueError, r"follows a metric"),
    "saved-unknown": Bad(lambda: Schedule.from_json({"schedule": "Spline"}), ValueError,
        r"not a saved schedule.*Spline"),
    "saved-field": Bad(lambda: Schedule.from_json({"schedule": "Segment", "shape": "LINEAR", "slope": 1}), ValueError,
        r"slope"),
    "saved-shape": Bad(lambda: Schedule.from_json({"schedule": "Segment", "shape": "FOO"}), ValueError,
        r"shape: 'FOO'.*LINEAR, COSINE"),
    "saved-shape-number": Bad(lambda: Schedule.from_json({"schedule": "Segment", "shape": 99}), ValueError,
        r"shape: 99.*LINEAR, COSINE"),
    "saved-without-shape": Bad(lambda: Schedule.from_json({"schedule": "Segment", "start": 1.0}), ValueError,
        r"Segment.*lacks \['shape'\]"),
    "saved-without-parts": Bad(lambda: Schedule.from_json({"schedule": "Sequence"}), ValueError,
        r"Sequence.*lacks \['parts', 'boundaries'\]"),
    "saved-list": Bad(lambda: Schedule.from_json([]), ValueError, r"not a saved schedule.*Known kinds.*Segment"),
    "saved-empty": Bad(lambda: Schedule.from_json({}), ValueError, r"not a saved schedule.*Known kinds.*Segment"),
    "saved-kind-list": Bad(lambda: Schedule.from_json({"schedule": ["Segment"]}), ValueError,
        r"kind is \['Segment'\].*Known kinds"),
    "saved-text-for-a-number": Bad(
        lambda: Schedule.from_json({"schedule": "Segment", "shape": "LINEAR", "span": "long"}), ValueError, r"'long'"
    ),
    "saved-number-for-parts": Bad(lambda: Schedule.from_json({"schedule": "Sequence", "parts": 5, "boundaries": []}),
        ValueError, r"Sequence got a wrong type.*parts: int"),
    "saved-number-for-a-part": Bad(lambda: Schedule.from_json({"schedule": "Shift", "part": "LINEAR", "begin": 1}),
        ValueError, r"'LINEAR'"),
    "saved-number": Bad(lambda: Schedule.from_json("0.1"), ValueError, r"not a saved schedule"),
    "lower-number": Bad(lambda: S.lower(0.1), TypeError, r"takes a schedule, got float"),
}  # fmt: skip
