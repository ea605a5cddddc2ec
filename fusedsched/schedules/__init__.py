# SPDX-License-Identifier: Apache-2.0
"""Schedules as values: what a hyperparameter is at each update.

Named ones (`warmup_cosine(...)`, `one_cycle(...)`), joined with `join`, `>>` and `*`, all of them expressions of a few
shapes. `schedule(t)` is the value that update t uses, `schedule.curve(n)` the first n of them.
"""

from .compose import Product as Product
from .compose import Sequence as Sequence
from .compose import Shift as Shift
from .compose import Warmup as Warmup
from .convert import from_function as from_function
from .convert import from_torch as from_torch
from .cycles import cosine_restarts as cosine_restarts
from .cycles import cyclic as cyclic
from .cycles import one_cycle as one_cycle
from .cycles import one_cycle_momentum as one_cycle_momentum
from .decays import constant as constant
from .decays import cosine as cosine
from .decays import exponential as exponential
from .decays import inverse_time as inverse_time
from .decays import linear as linear
from .decays import multistep as multistep
from .decays import polynomial as polynomial
from .decays import step as step
from .evaluate import Shape as Shape
from .expression import Schedule as Schedule
from .expression import Segment as Segment
from .program import Program as Program
from .program import lower as lower
from .warmups import inverse_sqrt as inverse_sqrt
from .warmups import join as join
from .warmups import noam as noam
from .warmups import product as product
from .warmups import warmup as warmup
from .warmups import warmup_cosine as warmup_cosine
from .warmups import warmup_linear as warmup_linear
from .warmups import warmup_stable_decay as warmup_stable_decay
