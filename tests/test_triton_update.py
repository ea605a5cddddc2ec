# SPDX-License-Identifier: Apache-2.0
"""A Triton update is as close to the same computation in a wider type as torch's. Under the interpreter."""

import pytest
from interpreted import interpreter as interpreter, jit, make, rules
from tiers import full
from triton import language as tl

from fusedsched.verify.table import DTYPES, OPTIMIZERS, Case
from fusedsched.verify.updates import run, unjudged

STEPS = 8  # the interpreter takes a tenth of a second for one

# Every row of the table once, the types taking turns; rows that another type is known to trouble have it beside.
TYPES = ("float32", "bfloat16", "float16", "float64", "complex64")
COVER = [
    Case(name, next(t for t in TYPES[i % 5 :] + TYPES if t in row.dtypes), "fixed")
    for i, (name, row) in enumerate(OPTIMIZERS.items())
]
COVER += [Case("AdamW-long-memory", "float32", "fixed"), Case("AdamW", "float32", "all")]
COVER += [Case("SGD-momentum", "bfloat16", "all"), Case("Adam", "bfloat16", "fixed")]


# In the quick tier each type, the rules with the longest updates, and a schedule.
QUICK = ("AdamW-maximize", "AdamW-amsgrad-maximize", "Adam-amsgrad", "SGD-all", "AdamW-no-decay")
COVERED = [case for case in COVER if unjudged(case) is None]


@pytest.mark.parametrize("case", [(pytest.param if case.row in QUICK else full)(case, id=case.id) for case in COVERED])
def test_update_within_the_bound(case):
    verdict = run(make, case, STEPS)
    assert verdict.passed, str(verdict)


def test_every_row_and_every_type_is_covered():
    assert {case.row for case in COVER} == set(OPTIMIZERS) and {case.dtype for case in COVER} == set(DTYPES)


# The property can fail.

_adam_update, _adam_scalars = rules.adam_update, rules.adam_scalars
_sgd_update, _sgd_scalars = rules.sgd_update, rules.sgd_scalars


@jit
def _late_decay(a, keep, c, d, e, f, h, i, j, k, g, p, m, v, vmax, COUPLED: tl.constexpr, AMSGRAD: tl.constexpr):
    p, m, v, vmax = _adam_update(a, 1.0, c, d, e, f, h, i, j, k, g, p, m, v, vmax, COUPLED, AMSGRAD)
    return p * keep, m, v, vmax


@jit
def _maximum_forgotten(a, b, c, d, e, f, h, i, j, k, g, p, m, v, vmax, COUPLED: tl.constexpr, AMSGRAD: tl.constexpr):
    p, m, v, vmax = _adam_update(a, b, c, d, e, f, h, i, j, k, g, p, m, v, vmax, COUPLED, False)
    return p, m, v, vmax


@jit
def _rounded_constants(hyper, gain, step):
    a, b, c, d, e, f, g, h, i, j = _adam_scalars(hyper, gain, step)
    return a, b, c, d, e, f, g, h, (1.0 - h.to(tl.float32)).to(tl.float64), j


@jit
def _no_bias_correction(hyper, gain, step):
    return _adam_scalars(hyper, gain, step * 0.0 + 1e6)


@jit
def _first_forgotten(hyper, gain, step):
    return _sgd_scalars(hyper, gain, step + 1.0)


@jit
def _plain_momentum(
    a, b, c, d, e, f, g, p, buffer, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, DECAY: tl.constexpr
):
    return _sgd_update(a, b, c, d, e, f, g, p, buffer, MOMENTUM, False, DECAY)


@jit
def _gain_without_sign(hyper, gain, step):
    a, b, c, d, e, f = _sgd_scalars(hyper, gain, step)
    return gain, b, c, d, e, f


MUTANTS = {
    "decay after the update": ("adam_update", _late_decay, "AdamW/float32/fixed"),
    "maximum of amsgrad forgotten": ("adam_update", _maximum_forgotten, "AdamW-amsgrad/float32/fixed"),
    "1 - beta2 in float32": ("adam_scalars", _rounded_constants, "AdamW-long-memory/float32/fixed"),
    "no bias correction": ("adam_scalars", _no_bias_correction, "Adam/float32/fixed"),
    "first buffer dampened": ("sgd_scalars", _first_forgotten, "SGD-dampening/float32/fixed"),
    "nesterov ignored": ("sgd_update", _plain_momentum, "SGD-nesterov/bfloat16/fixed"),
    "maximize ignored": ("sgd_scalars", _gain_without_sign, "SGD-maximize/float16/fixed"),
}


ROWS = [(full if i % 3 else pytest.param)(*row, id=name) for i, (name, row) in enumerate(MUTANTS.items())]


@pytest.mark.parametrize("name, mutant, case", ROWS)
def test_a_wrong_rule_fails(name, mutant, case, monkeypatch):
    monkeypatch.setattr(rules, name, mutant)
    assert not run(make, Case.parse(case), STEPS).passed
