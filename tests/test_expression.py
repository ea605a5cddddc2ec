# SPDX-License-Identifier: Apache-2.0
"""An expression is a frozen value, saves as plain data and comes back equal; a wrong one raises when it is made,
naming the argument, what was got and what to do."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re
import subprocess
import sys

import pytest
from cases import named
from cases_bad_schedules import BAD_SCHEDULES
from cases_schedules import SCHEDULES, SHAPES

from fusedsched import schedules as S
from fusedsched.schedules import Product, Schedule, Segment, Sequence, Shape, Shift

ROWS = named({key: case.make for key, case in SCHEDULES.items()} | {s.name: (lambda s=s: SHAPES[s]) for s in Shape})


@pytest.mark.parametrize("bad", named(BAD_SCHEDULES))
def test_wrong_schedules_raise(bad):
    with pytest.raises(bad.error, match=bad.says) as raised:
        bad.call()
    assert re.search(r"[.)]$", str(raised.value).strip()), "a message is made of sentences"


@pytest.mark.parametrize("make", ROWS)
def test_expressions_are_values(make):
    schedule, again = make(), make()
    assert schedule == again and hash(schedule) == hash(again) and schedule.fingerprint == again.fingerprint
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.unit = "token"
    assert {schedule: 1}[again] == 1


@pytest.mark.parametrize("make", ROWS)
def test_saving_and_loading_gives_the_same(make):
    schedule = make()
    schedule(0)  # what was lowered before must not be saved with it
    text = json.dumps(schedule.to_json(), allow_nan=False)
    for twin in (Schedule.from_json(text), Schedule.from_json(json.loads(text)), pickle.loads(pickle.dumps(schedule))):
        assert twin == schedule and twin.fingerprint == schedule.fingerprint
        assert twin.lower().table == schedule.lower().table
    assert copy.deepcopy(schedule) == schedule
    assert b"program" not in pickle.dumps(schedule)


@pytest.mark.parametrize("make", ROWS)
def test_a_changed_number_changes_the_fingerprint(make):
    data = make().to_json()

    def change(value):
        if isinstance(value, dict):
            key = next((k for k in ("parts", "factors", "part", "values", "start") if k in value), None)
            return value if key is None else {**value, key: change(value[key])}
        if isinstance(value, list):
            return [*value[:-1], change(value[-1])]
        return value + 0.5

    changed = change(data)
    if changed != data:
        assert Schedule.from_json(changed).fingerprint != Schedule.from_json(data).fingerprint


def test_the_fingerprint_is_the_same_in_every_process():
    code = "from fusedsched import schedules as S; print(S.warmup_cosine(3e-4, 10, 100).fingerprint)"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert there == S.warmup_cosine(3e-4, 10, 100).fingerprint


def test_schedules_do_not_import_torch():
    code = "import sys; from fusedsched import schedules as S; S.one_cycle(1, 10)(3); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_numbers_are_constants_in_every_place():
    ramp = S.linear(0, 1, 4)
    assert 2 * ramp == ramp * 2 == Product((ramp, S.constant(2)))
    assert S.join([ramp, 1], [4]) == Sequence((ramp, S.constant(1.0)), (4.0,))
    assert (ramp >> 0.5).curve(6) == [0.0, 0.25, 0.5, 0.75, 0.5, 0.5]
    assert Segment("LINEAR", span=1) == Segment(Shape.LINEAR, span=1) == Segment(1, span=1)
    assert Segment(Shape.CONSTANT, span=9, start=-0.0, stop=3) == S.constant(0)


def test_multiplying_by_something_else_is_a_type_error():
    with pytest.raises(TypeError):
        S.constant(1) * "2"
    with pytest.raises(TypeError):
        S.constant(1) >> "2"


def test_one_part_follows_another_where_it_ends():
    cosine = S.cosine(1, 0, 4)
    assert (cosine >> S.linear(0, 1, 2)).curve(7)[4:] == [0.0, 0.5, 1.0]
    assert (S.linear(1, 0, 4, end="inclusive") >> 0.5).curve(5)[3:] == [0.0, 0.5]
    assert (2 * cosine).duration == 4 and Shift(cosine, 3).duration == 7 and S.step(1, 2).duration is None
    assert (S.warmup(2) >> cosine).duration == 6


def test_the_unit_travels_and_constants_have_none():
    tokens = S.cosine(1, 0, 9, unit="token")
    assert (2 * tokens).unit == (S.warmup(3) >> tokens).unit == S.join([0.1, tokens], [3]).unit == "token"
    assert Schedule.from_json((2 * tokens).to_json()).unit == "token"
