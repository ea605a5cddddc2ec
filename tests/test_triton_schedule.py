# SPDX-License-Identifier: Apache-2.0
"""The Triton evaluator agrees with the Python one to 4 ulp per factor, for every shape, up to clocks of 2**40."""

import math
import random
import re
from pathlib import Path

import core_rules
import numpy
import pytest
import test_spec
import torch
from cases import named
from cases_schedules import SCHEDULES, SHAPES
from interpreted import evaluated, interpreter as interpreter, jit, maths, rules, schedule
from mpmath import mp, mpf
from test_evaluators import MOST_ULP, clocks_of
from triton import language as tl

from fusedsched.schedules import Shape, evaluate

CSRC = Path(__file__).parents[1] / "csrc"
WITHOUT_POWER = (Shape.CONSTANT, Shape.LINEAR, Shape.COSINE, Shape.TABLE)


def worst_ulp(table, clocks, factors=1):
    """The largest difference from the Python evaluator, in units of the last place, per factor."""
    worst = 0.0
    for got, clock in zip(evaluated(table, clocks), clocks, strict=True):
        right = evaluate.evaluate(table, clock)
        if got != right and not (math.isnan(got) and math.isnan(right)):
            worst = max(worst, abs(got - right) / math.ulp(right) / factors)
    return worst


@pytest.mark.parametrize("case", named(SCHEDULES))
def test_triton_evaluator_agrees_with_the_python_one(case):
    assert worst_ulp(case.make().lower().table, clocks_of(case.edges), case.factors) <= MOST_ULP


@pytest.mark.parametrize("shape", list(Shape), ids=lambda s: s.name)
def test_evaluators_agree_on_every_shape(shape):
    """Bit by bit, but for shapes with a power, which Triton forms in its own way."""
    table, bound = SHAPES[shape].lower().table, 0.0 if shape in WITHOUT_POWER else MOST_ULP
    assert worst_ulp(table, clocks_of((55, 77, 777, 1554, 700_000))) <= bound
    assert worst_ulp(table, [c + 0.5 for c in range(0, 2000, 7)]) <= bound


def test_an_unknown_shape_shows_as_nan():
    table = list(SHAPES[Shape.CONSTANT].lower().table)
    table[evaluate.ROW_WIDTH + 1] = 99.0
    assert math.isnan(evaluated(table, [0])[0])


# Functions, against 50 digits. `call` has the constants that a kernel cannot take from outside.


@jit
def _pow_kernel(x, y, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, maths.pow(tl.load(x + i), tl.load(y + i)))


@jit
def _bias_kernel(x, y, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, maths.bias_correction(tl.load(x + i), tl.load(y + i)))


@jit
def _fmod_kernel(x, y, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, maths.fmod(tl.load(x + i), tl.load(y + i)))


def called(kernel, pairs):
    n = 1 << (len(pairs) - 1).bit_length()
    x, y = torch.tensor(pairs + pairs[:1] * (n - len(pairs)), dtype=torch.float64).t().contiguous()
    out = torch.empty(n, dtype=torch.float64)
    with numpy.errstate(all="ignore"):
        kernel[(1,)](x, y, out, N=n)
    return out.tolist()[: len(pairs)]


def _ulps(got, exact):
    return float(abs(mpf(got) - exact)) / math.ulp(float(exact))


def test_pow_is_within_one_ulp():
    draw = random.Random(0)
    pairs = [(draw.uniform(0.0, 2.0), draw.uniform(-300, 300)) for _ in range(300)]
    pairs += [(1.0 - 10 ** draw.uniform(-12, -1), 2.0 ** draw.uniform(0, 40)) for _ in range(300)]
    pairs += [(10 ** draw.uniform(-300, 300), draw.uniform(-1, 1)) for _ in range(300)]
    with mp.workdps(50):
        for (x, y), got in zip(pairs, called(_pow_kernel, pairs), strict=True):
            exact = mpf(x) ** mpf(y)
            if 1e-307 < exact < 1e308:
                assert _ulps(got, exact) <= 1.0, (x, y)


EDGES = (0.0, 0.5, 1.0, 2.0, 3.0, 7.5, 1e300, 5e-324, 1e-310, math.inf)


def test_pow_has_the_edges_of_c():
    pairs = [(s * x, t * y) for x in EDGES for y in EDGES[:-1] for s in (1, -1) for t in (1, -1)]
    pairs = [
        (x, y) for x, y in pairs if not (x == 0.0 and math.copysign(1.0, x) < 0.0)
    ]  # bases of schedules are not -0
    for (x, y), got in zip(pairs, called(_pow_kernel, pairs), strict=True):
        right = evaluate.power(x, y)
        same = got == right or (math.isnan(got) and math.isnan(right))
        assert same or abs(got - right) <= math.ulp(right), (x, y, got, right)


def test_bias_correction_keeps_its_digits():
    draw = random.Random(1)
    pairs = [(1.0 - 10 ** draw.uniform(-9, -0.1), float(int(2.0 ** draw.uniform(0, 40)))) for _ in range(500)]
    pairs += [(0.0, 1.0), (0.999, 1.0), (1.0 - 2.0**-53, 1.0)]
    with mp.workdps(50):
        for (beta, n), got in zip(pairs, called(_bias_kernel, pairs), strict=True):
            assert _ulps(got, 1 - mpf(beta) ** n) <= 1.5, (beta, n)


def test_fmod_is_exact():
    draw = random.Random(2)
    pairs = [
        (float(draw.randrange(2**40)), draw.choice((7.0, 50.0, 1e9, 0.1, 33.3, 2.0**20 + 0.5))) for _ in range(800)
    ]
    pairs += [(n * 0.1, 0.1) for n in range(100)]
    assert called(_fmod_kernel, pairs) == [math.fmod(x, y) for x, y in pairs]


# The numbers of the headers, a second time.


def test_numbers_are_those_of_the_headers():
    header = (CSRC / "core" / "schedule.h").read_text()
    for name, number in re.findall(r"\bk(\w+) = (\d+),", header):
        ours = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()
        assert getattr(schedule, ours).value == int(number)


def test_rules_are_those_of_the_specs():
    """In the order of the headers; with as many states as groups have that choose them."""
    assert list(rules.STATES) == [rule.name for rule in core_rules.rules()]
    for spec in test_spec.SPECS.values():
        for nonzero in test_spec.settings(spec):
            needed = [state for state in spec.states if state.needed(nonzero)]
            assert rules.STATES[spec.choose(nonzero)] == len(needed), nonzero


# The property can fail.


@jit
def _naive_pow(x, y):
    return tl.exp(y * tl.log(x))


@jit
def _careless_difference(x, rest, y):
    return 1.0 - maths.pow(x, y + x * 0.0)


@jit
def _naive_fmod(x, y):
    return x - y * tl.floor(x / y) * 1.0000000001


@jit
def _whole_wave(part, whole):
    return (1.0 - tl.cos((part / whole) * 3.141592653589793)) / 2.0


@jit
def _forgets_the_low_part(a, b):
    return a * b, a * 0.0


MUTANTS = {
    "pow": (schedule, "pow", _naive_pow, "exponential"),
    "1 - pow": (schedule, "one_minus_power", _careless_difference, "polynomial-up"),
    "fmod": (schedule, "fmod", _naive_fmod, "cosine-cycle"),
    "wave": (schedule, "half_wave", _whole_wave, "cosine-up"),
    "error term": (maths, "two_product", _forgets_the_low_part, "exponential"),
}


@pytest.mark.parametrize("module, name, mutant, schedule_name", MUTANTS.values(), ids=list(MUTANTS))
def test_a_wrong_evaluator_is_noticed(module, name, mutant, schedule_name, monkeypatch):
    monkeypatch.setattr(module, name, mutant)
    case = SCHEDULES[schedule_name]
    assert worst_ulp(case.make().lower().table, clocks_of(case.edges), case.factors) > MOST_ULP
