# SPDX-License-Identifier: Apache-2.0
"""Every evaluator gives the value of the formula, and on one machine the C++ one and the Python one are equal to
the last bit, at 0, at boundaries and beside them, at random clocks, at 2**31 and at 2**40."""

from __future__ import annotations

import ctypes
import math
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cases import named
from cases_schedules import SCHEDULES, SHAPES
from mpmath import mp, mpf

from fusedsched.schedules import Shape, evaluate
from fusedsched.schedules.expression import READS

CORE = Path(__file__).parents[1] / "csrc" / "core"
MOST_ULP = 4.0  # per factor: one for each rounding of the fixed forms, and one for the C library's pow and sin

PROBE = """
#include "schedule.h"
extern "C" void probe(const double* program, const double* clocks, double* values, long n) {
  for (long i = 0; i < n; ++i) values[i] = fs::evaluate(program, clocks[i]);
}
"""


@pytest.fixture(autouse=True)
def precision():
    with mp.workdps(60):
        yield


def clocks_of(edges=()):
    """Where to look: the start, the edges and beside them, anywhere, and far out."""
    rng = random.Random(0)
    near = {edge + d for edge in edges for d in (-1, 0, 1)}
    anywhere = {rng.randrange(2**bits) for bits in range(1, 41) for _ in range(3)}
    return sorted(c for c in {0, 1, 2, 3, 2**31 - 1, 2**31, 2**40} | near | anywhere if c >= 0)


def worst_ulp(case, values, clocks):
    """The largest error against the formula, in units of the last place, per factor."""
    worst = 0.0
    for value, clock in zip(values, clocks, strict=True):
        exact = case.formula(clock)
        unit = math.ulp(max(abs(float(exact)), case.scale))
        error = float(abs(mpf(value) - exact) / unit) if math.isfinite(value) else math.inf
        worst = max(worst, error / case.factors)
    return worst


def build(folder: Path, header: str | None = None):
    """The C++ evaluator as a function of (table, clocks), from the header as it is or from another text."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    (folder / "probe.cpp").write_text(PROBE)
    for name in ("platform.h", "sine.h"):
        (folder / name).write_text((CORE / name).read_text())
    (folder / "schedule.h").write_text((CORE / "schedule.h").read_text() if header is None else header)
    command = [compiler, "-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "probe.cpp", "-o", "probe.so"], cwd=folder, check=True)
    probe = ctypes.CDLL(str(folder / "probe.so")).probe

    def run(table, clocks):
        n = len(clocks)
        values = (ctypes.c_double * n)()
        probe((ctypes.c_double * len(table))(*table), (ctypes.c_double * n)(*clocks), values, ctypes.c_long(n))
        return list(values)

    return run


@pytest.fixture(scope="session")
def cpp(tmp_path_factory):
    return build(tmp_path_factory.mktemp("probe"))


@pytest.mark.parametrize("case", named(SCHEDULES))
def test_python_evaluator_gives_the_formula(case):
    clocks = clocks_of(case.edges)
    assert worst_ulp(case, [case.make()(c) for c in clocks], clocks) <= MOST_ULP


@pytest.mark.parametrize("case", named(SCHEDULES))
def test_cpp_evaluator_equals_the_python_one(case, cpp):
    program, clocks = case.make().lower(), clocks_of(case.edges)
    assert cpp(program.table, clocks) == [program.evaluate(c) for c in clocks]
    assert cpp(program.table, clocks) == [evaluate.evaluate(program.table, c) for c in clocks]


@pytest.mark.parametrize("shape", list(Shape), ids=lambda s: s.name)
def test_evaluators_agree_on_every_shape(shape, cpp):
    program = SHAPES[shape].lower()
    clocks = clocks_of((55, 77, 777, 1554, 700_000))
    assert any(row[1] == shape for row in program.rows)
    assert cpp(program.table, clocks) == [program.evaluate(c) for c in clocks]
    halves = [c + 0.5 for c in range(0, 2000, 7)]
    assert cpp(program.table, halves) == [program.evaluate(c) for c in halves]


def test_shape_numbers_are_those_of_the_header():
    header = (CORE / "schedule.h").read_text()
    numbers = {name: int(number) for name, number in re.findall(r"\bk(\w+) = (\d+),", header)}
    assert numbers == {shape.name.title().replace("_", ""): shape.value for shape in Shape}
    assert f"kShapes = {len(Shape)};" in header and f"kRowWidth = {evaluate.ROW_WIDTH};" in header


def test_cuda_compiler_accepts_the_header(tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc")
    (tmp_path / "probe.cu").write_text(
        '#include "schedule.h"\n'
        "__global__ void probe(const double* program, const long long* clock, double* value) {\n"
        "  *value = fs::evaluate(program, static_cast<double>(*clock));\n}\n"
    )
    command = [nvcc, "-std=c++17", "--fmad=false", "-I", str(CORE), "-ptx", "probe.cu", "-o", "probe.ptx"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert "probe" in (tmp_path / "probe.ptx").read_text()


# The properties can fail.

MUTANT_HEADERS = {
    "linear": ("r.stop * t) / r.span", "r.stop * (t + 1.0)) / r.span"),
    "last-bit": ("sin_quarter(part / whole)", "sin_quarter(part * (1.0 / whole))"),
    "boundary": ("rows[i + 1].begin > clock", "rows[i + 1].begin >= clock"),
    "tracks": ("product *= row_value", "product = row_value"),
    "period": ("fmod(clock, header.period)", "fmod(clock, header.period + 1.0)"),
}


@pytest.mark.parametrize("change", named(MUTANT_HEADERS))
def test_a_wrong_cpp_evaluator_is_noticed(change, tmp_path):
    header = (CORE / "schedule.h").read_text()
    assert change[0] in header
    wrong = build(tmp_path, header.replace(*change))
    caught = 0
    for case in SCHEDULES.values():
        program, clocks = case.make().lower(), clocks_of(case.edges)
        caught += wrong(program.table, clocks) != [program.evaluate(c) for c in clocks]
    assert caught


def _float32_wave(part, whole):
    return float((1.0 - math.cos(3.1415927 * part / whole)) / 2.0)


WRONG_PYTHON = {
    "half_wave": _float32_wave,
    "power": lambda x, y: math.exp(y * math.log(x)) if x > 0.0 else 0.0,
    "one_minus_power": lambda x, rest, y: 1.0 - x**y,
    "triangle": lambda row, t, scale: row[3] + (row[4] - row[3]) * scale,
}


@pytest.mark.parametrize("name", WRONG_PYTHON)
def test_a_wrong_python_evaluator_is_noticed(name, monkeypatch):
    monkeypatch.setattr(evaluate, name, WRONG_PYTHON[name])
    clocks = {key: clocks_of(case.edges) for key, case in SCHEDULES.items()}
    caught = [
        key
        for key, case in SCHEDULES.items()
        if worst_ulp(case, [case.make()(c) for c in clocks[key]], clocks[key]) > MOST_ULP
    ]
    assert caught


@pytest.mark.parametrize("case", named(SCHEDULES))
def test_every_number_of_every_row_is_seen(case):
    """A row with any of its numbers changed breaks the property: no number is idle, no row is hidden."""
    program = case.make().lower()
    clocks = clocks_of((*case.edges, *(math.ceil(row[0]) for row in program.rows)))
    right = [program.evaluate(c) for c in clocks]
    columns = ("begin", "shape", "span", "start", "stop", "param", "cycle", "track")
    for i, row in enumerate(program.rows):
        shape = Shape(int(row[1]))
        for name in ("start", *READS[shape]):
            if shape == Shape.TABLE or (name == "param" and shape in (Shape.TRIANGLE, Shape.STAIRCASE)):
                continue  # the values of a table are its numbers; one turn may be all that is looked at
            table = list(program.table)
            table[(i + 1) * evaluate.ROW_WIDTH + columns.index(name)] += 0.125
            assert [evaluate.evaluate(table, c) for c in clocks] != right, (i, name)
