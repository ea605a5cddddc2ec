# SPDX-License-Identifier: Apache-2.0
"""The ratios that have to be reached: `pytest benchmarks -m perf`. Needs a machine that is left alone."""

from functools import cache

import pytest

from .cases import CASES
from .measure import FEWEST_ROUNDS, QUICK
from .races import GATES, run_case


@cache
def rows_of(name):
    return {(row["what"], row["against"]): row for row in run_case(CASES[name], QUICK)["rows"]}


@pytest.mark.perf
@pytest.mark.parametrize(("name", "what", "against"), GATES)
def test_gate(name, what, against):
    row = rows_of(name)[what, against]
    if row["verdict"] == "disturbed":
        pytest.skip(f"{row['clean']} of {row['rounds']} rounds were clean; a verdict needs {FEWEST_ROUNDS}")
    assert row["ratio"] >= row["gate"], f"{row['ratio']:.3f}, quartiles {row['quartiles']}"
