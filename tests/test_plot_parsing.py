# SPDX-License-Identifier: Apache-2.0
"""Expressions on the command line are read, not run: they name schedules and nothing else."""

import builtins

import pytest

from fusedsched import schedules as S
from fusedsched.plotting import parse, parsing

GOOD = {
    "warmup_cosine(peak=3e-4, warmup_steps=2000, total_steps=100000)": S.warmup_cosine(3e-4, 2000, 100_000),
    "S.cosine(1, 0.0, steps=10) * 0.5": S.cosine(1, 0.0, steps=10) * 0.5,
    "2 * schedules.step(1, 3, gamma=.5)": 2 * S.step(1, 3, gamma=0.5),
    "warmup(5) >> 0.1": S.warmup(5) >> 0.1,
    "warmup(5) >> exponential(1, 0.9, steps=4) >> 0.1": S.warmup(5) >> S.exponential(1, 0.9, steps=4) >> 0.1,
    "join([0.1, linear(1, 0, 4)], boundaries=[3])": S.join([0.1, S.linear(1, 0, 4)], boundaries=[3]),
    "multistep(1.0, (2, 3), gamma=0.5)": S.multistep(1.0, (2, 3), gamma=0.5),
    "cyclic(0.1, +1, up=3, down=None, mode='triangular2')": S.cyclic(0.1, 1, up=3, mode="triangular2"),
    "one_cycle(1, 10, three_phase=True)": S.one_cycle(1, 10, three_phase=True),
    " product(constant(2), 3) ": S.product(S.constant(2), 3),
    "0.1": S.constant(0.1),
    "2 * 0.5": S.constant(1.0),
}

# What is wrong -> words of the error. `HIT` would be called if any of them were run.
BAD = {
    "HIT()": "no schedule 'HIT'",
    "__import__('os').system('true')": "cannot be called here",
    "constant(HIT())": "no schedule 'HIT'",
    "constant(0.1).__class__": "is not allowed",
    "constant.__globals__['HIT']()": "cannot be called here",
    "S.lower.__globals__": "is not allowed",
    "constant(0.1)(HIT())": "cannot be called here",
    "(lambda: HIT())()": "cannot be called here",
    "[HIT() for i in [1]]": "is not allowed",
    "constant(value=f'{HIT()}')": "is not allowed",
    "HIT() if 1 else 0": "is not allowed",
    "(x := HIT())": "is not allowed",
    "constant(*[0.1])": "write the arguments out",
    "constant(**{'value': 0.1})": "write the arguments out",
    "{'a': 1}": "is not allowed",
    "linear(0.1, 0, 10) + 1": "is not allowed",
    "2 ** 99999999": "is not allowed",
    "'a' * 3": "is not allowed",
    "[1] * 99999999": "is not allowed",
    "1 << 5": "is not allowed",
    "-'a'": "is not allowed",
    "b'1'": "is not allowed",
    "1j": "is not allowed",
    "...": "is not allowed",
    "'a'": "is a str, not a schedule",
    "[1, 2]": "is a list, not a schedule",
    "True": "is a bool, not a schedule",
    "": "is not an expression",
    "linear(": "is not an expression",
    "linear(1, 0, 5); HIT()": "is not an expression",
    "import os": "is not an expression",
    "constant(0.1)\x00": "is not an expression|nested",
    "(" * 500 + ")" * 500: "is not an expression|nested too deeply",
    "-" * 9000 + "1": "nested too deeply|is not an expression",
    "1*" * 4999 + "1": "nested too deeply",
    "1" * 10_001: "at most 10000",
    "1" * 5000: "is not an expression|finite number",
    "constant(1e999)": "constant: Invalid value: inf. It must be a finite number",
    "linear": r"linear needs its arguments. Write linear\(start, stop=None, steps=None",
    "warmup_cosin(1, 2, 3)": "Near names: warmup_cosine",
    "Cosine(1, 0, 5)": "Near names: .*cosine",
    "wsd(1)": "There are: constant, cosine",
    "from_function(constant, 5)": "Give the schedule that it returns as module:object",
    "Program(1)": "no schedule 'Program'",
    "warmup_cosine(1, 10, 100, peek=3)": "unexpected keyword argument 'peek'.*It is warmup_cosine",
    "linear(1, 0)": "steps is missing",
    "warmup_cosine(1, 10, 5)": "warmup_cosine: Invalid warmup_steps: 10, more than total_steps=5",
    "linear('a', 0, 5)": "start must be a number, got 'a'",
    "exponential(1, 0.9) >> 0.1": "never ends, so nothing can follow",
    "0.1 >> 0.2": "never ends",
}


@pytest.mark.parametrize("text", GOOD)
def test_an_expression_is_the_schedule_that_it_names(text):
    assert parse(text) == GOOD[text]


def faults(text, words):
    """How `parse` falls short of refusing a text with these words, without running any of it."""
    hits = []
    builtins.HIT = lambda: hits.append(1) or 0.1
    try:
        with pytest.raises(ValueError, match=f"(?s){words}") as caught:
            parse(text).lower()
        return hits + [line for line in [str(caught.value)] if len(line) > 2 * len(text) + 900]
    finally:
        del builtins.HIT


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:40].replace("\x00", "0"))
def test_anything_else_is_refused_with_a_reason(text):
    assert faults(text, BAD[text]) == []


@pytest.mark.parametrize("text", ["constant(HIT())", "(lambda: HIT())()", "[HIT() for i in [1]]"])
def test_the_property_above_finds_a_parser_that_evaluates(text, monkeypatch):
    monkeypatch.setattr(parsing, "_value", lambda node: eval(parsing.ast.unparse(node), {**vars(S)}))
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        assert faults(text, BAD[text]) == []


def test_every_named_schedule_can_be_written():
    missing = {name for name in vars(S) if callable(getattr(S, name)) and name[0].islower()} - set(parsing.names())
    assert missing == {"from_function", "from_torch", "lower"}
