# SPDX-License-Identifier: Apache-2.0
"""Schedules as values: what a hyperparameter is at each update.

Named ones (`warmup_cosine(...)`, `one_cycle(...)`), joined with `join`, `>>` and `*`, all of them expressions of a few
shapes. `schedule(t)` is the value that update t uses, `schedule.curve(n)` the first n of them.
"""

from .compose import Product as Product, Sequence as Sequence, Shift as Shift, Warmup as Warmup
from .cycles import (
    cosine_restarts as cosine_restarts,
    cyclic as cyclic,
    one_cycle as one_cycle,
    one_cycle_momentum as one_cycle_momentum,
)
from .decays import (
    constant as constant,
    cosine as cosine,
    exponential as exponential,
    inverse_time as inverse_time,
    linear as linear,
    multistep as multistep,
    polynomial as polynomial,
    step as step,
)
from .evaluate import Shape as Shape
from .expression import Schedule as Schedule, Segment as Segment
from .lowering import lower as lower
from .program import Program as Program
from .tabulate import from_function as from_function, from_torch as from_torch
from .warmups import (
    inverse_sqrt as inverse_sqrt,
    join as join,
    noam as noam,
    product as product,
    warmup as warmup,
    warmup_cosine as warmup_cosine,
    warmup_linear as warmup_linear,
    warmup_stable_decay as warmup_stable_decay,
)
