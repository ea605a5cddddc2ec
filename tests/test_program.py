# SPDX-License-Identifier: Apache-2.0
"""Properties of lowering: rows are sorted, each boundary has one owner, nothing hidden is left, numbers are folded, and
`describe()` reads back to the same rows."""

from __future__ import annotations

import math
import random

import pytest
import torch
from cases import named
from cases_schedules import SCHEDULES, SHAPES
from test_evaluators import clocks_of

from fusedsched import schedules as S
from fusedsched.schedules import Segment, Sequence, Shape, Shift, evaluate, lower
from fusedsched.schedules.program import Program

PROGRAMS = named({key: case.make for key, case in SCHEDULES.items()} | {s.name: (lambda s=s: SHAPES[s]) for s in Shape})


@pytest.mark.parametrize("make", PROGRAMS)
def test_rows_are_sorted_and_own_their_boundaries(make):
    program = lower(make())
    keys = [(row[7], row[0]) for row in program.rows]
    assert keys == sorted(set(keys)), "two rows of one track begin together: one of them is hidden"
    tracks = [row[7] for row in program.rows]
    assert set(tracks) == set(range(int(max(tracks)) + 1))
    for track in set(tracks):
        assert min(row[0] for row in program.rows if row[7] == track) <= 0.0, "a track begins late"


@pytest.mark.parametrize("make", PROGRAMS)
def test_the_table_is_the_header_the_rows_and_the_values(make):
    program = lower(make())
    n = len(program.rows)
    assert list(program.table[:3]) == [n, program.period, program.horizon]
    assert len(program.table) == (n + 1) * evaluate.ROW_WIDTH + len(program.values)
    for i, row in enumerate(program.rows):
        assert tuple(program.table[8 * (i + 1) : 8 * (i + 2)]) == row
        if row[1] == Shape.TABLE:
            assert 0 <= row[3] and row[3] + row[2] <= len(program.values)
    assert all(map(math.isfinite, program.table))


@pytest.mark.parametrize("make", PROGRAMS)
def test_describe_reads_back(make):
    program = lower(make())
    header, *lines = program.describe().splitlines()
    assert header.split() == ["begin", "shape", "span", "start", "stop", "param", "cycle", "track"]
    for line, row in zip(lines, program.rows, strict=False):
        begin, shape, *rest = line.split()
        read = (float(begin), float(Shape[shape]), *map(float, rest))
        assert read == pytest.approx(row, rel=1e-5)
    assert len(lines) == len(program.rows) + (program.period > 0) + (program.horizon >= 0)


@pytest.mark.parametrize("make", PROGRAMS)
def test_bounds_hold_everywhere_and_are_reached(make):
    program = lower(make())
    low, high = program.bounds()
    values = [program.evaluate(c) for c in clocks_of([math.ceil(row[0]) for row in program.rows])]
    assert low <= min(values) and max(values) <= high
    if all(row[7] == 0 for row in program.rows):
        assert min(values) <= low + 0.1 * (high - low) + 1e-300


def test_on_a_device_it_is_the_same_table():
    program = S.warmup_cosine(0.1, 3, 9).lower()
    tensor = program.to("cpu")
    assert tensor.dtype == torch.float64 and tensor.tolist() == list(program.table)


def rows_of(schedule):
    return [(row[0], Shape(int(row[1])).name, int(row[7])) for row in lower(schedule).rows]


def test_parts_without_width_are_left_out():
    wave, fall = S.cosine(1, 0, 5), Segment(Shape.LINEAR, span=5, start=1.0)
    assert rows_of(Sequence((fall, 0.1, wave), (0, 0))) == [(0, "COSINE", 0), (5, "CONSTANT", 0)]
    assert rows_of(S.warmup_cosine(1, 0, 5)) == [(0, "COSINE", 0), (5, "CONSTANT", 0)]
    assert rows_of(S.warmup_stable_decay(1, 0, 0, 0)) == [(0, "CONSTANT", 0)]


def test_what_a_later_part_hides_is_left_out():
    warm = Sequence((Segment(Shape.LINEAR, span=9, stop=1.0), 1.0), (9,))
    assert rows_of(Sequence((warm, 0.5), (4,))) == [(0, "LINEAR", 0), (4, "CONSTANT", 0)]
    assert rows_of(S.linear(1, 0, 5, past_end="cycle")) == [(0, "LINEAR", 0)]
    assert rows_of(S.linear(1, 0, 5, end="inclusive", past_end="error")) == [(0, "LINEAR", 0)]
    assert rows_of(Sequence((1.0, 1.0, 2.0), (3, 6))) == [(0, "CONSTANT", 0), (6, "CONSTANT", 0)]


def test_numbers_fold_into_a_factor():
    program = lower(2 * S.linear(1, 0.5, 4) * 3)
    assert [row[7] for row in program.rows] == [0, 0] and program.rows[0][3:5] == (6.0, 3.0)
    assert lower(S.product(2, 3)).rows == lower(S.constant(6)).rows
    table = lower(2 * Segment(Shape.TABLE, values=(1, 2)))
    assert list(table.values) == [2.0, 4.0]


def test_products_inside_sequences_fill_their_tracks_with_ones():
    product = S.step(1, 2, 0.5) * S.exponential(1, 0.9)
    program = lower(S.join([0.5, product, 0.25], [4, 8]))
    assert rows_of(S.join([0.5, product, 0.25], [4, 8])) == [
        (0, "CONSTANT", 0),
        (4, "STAIRCASE", 0),
        (8, "CONSTANT", 0),
        (0, "CONSTANT", 1),
        (4, "EXPONENTIAL", 1),
        (8, "CONSTANT", 1),
    ]
    assert [row[3] for row in program.rows if row[7] == 1] == [1.0, 1.0, 1.0]


def test_product_distributes_over_sequence():
    a, b = S.linear(0, 1, 5), S.cosine(1, 0, 7)
    inside, outside = S.join([a * 0.5, b * 0.5], [5]), S.join([a, b], [5]) * 0.5
    assert lower(inside).rows == lower(outside).rows


def test_horizon_and_period_of_parts_reach_the_header():
    ending = S.linear(1, 0, 5, past_end="error")
    assert ending.lower().horizon == 5 and S.join([1, ending], [10]).lower().horizon == 15
    assert S.join([ending, 1], [5]).lower().horizon == -1, "what is past its end is never asked for"
    assert S.join([ending, 1], [9]).lower().horizon == 5
    assert (2 * ending).lower().horizon == 5 and Shift(ending, 3).lower().horizon == 8
    wave = S.warmup_cosine(1, 2, 9, past_end="cycle")
    assert wave.lower().period == (2 * wave).lower().period == (wave * wave).lower().period == 9
    assert (2 * wave).curve(20) == [2 * v for v in wave.curve(20)]


def random_schedule(rng, depth):
    """Any expression: leaves of every kind, sequences, products, shifts."""
    kind = rng.choice(["leaf", "leaf", "sequence", "product", "shift"]) if depth else "leaf"
    if kind == "sequence":
        n = rng.randint(1, 4)
        cuts = sorted(rng.randint(0, 30) for _ in range(n - 1))
        return Sequence(tuple(random_schedule(rng, depth - 1) for _ in range(n)), tuple(cuts))
    if kind == "product":
        return S.Product(tuple(random_schedule(rng, depth - 1) for _ in range(rng.randint(1, 3))))
    if kind == "shift":
        return Shift(random_schedule(rng, depth - 1), rng.randint(0, 5))
    return rng.choice(
        [SHAPES[Shape.EXPONENTIAL], S.constant(0.5), S.linear(1, 0.5, 9), S.step(1, 4), S.cosine(1, 0, 7)]
    )


def meaning(node, t):
    """The value by the words of the documentation, one node at a time, without any rows."""
    if isinstance(node, Sequence):
        i = sum(b <= t for b in node.boundaries)
        return meaning(node.parts[i], t - (0, *node.boundaries)[i])
    if isinstance(node, S.Product):
        return math.prod(meaning(factor, t) for factor in node.factors)
    if isinstance(node, Shift):
        return meaning(node.part, max(0, t - node.begin))
    return node(t)


def test_rows_mean_what_the_expression_says():
    rng = random.Random(1)
    for _ in range(150):
        schedule = random_schedule(rng, 3)
        for t in range(40):
            assert schedule(t) == pytest.approx(meaning(schedule, t), rel=1e-13), (schedule, t)


def test_the_property_of_meaning_can_fail(monkeypatch):
    monkeypatch.setattr("fusedsched.schedules.lowering._sequence_tracks", _late_by_one)
    with pytest.raises(AssertionError):
        test_rows_mean_what_the_expression_says()


_sequence_tracks = S.lowering._sequence_tracks


def _late_by_one(node, origin, lo, hi):
    moved = Sequence(node.parts, tuple(b + 1 for b in node.boundaries))
    return _sequence_tracks(moved, origin, lo, hi)


def test_a_program_is_small_and_made_once():
    schedule = S.one_cycle(1, 100)
    assert schedule.lower() is schedule.lower() and isinstance(schedule.program, Program)
    assert len(S.cosine_restarts(1, 0, 1, 2).lower().rows) <= 42
