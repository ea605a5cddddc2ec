# SPDX-License-Identifier: Apache-2.0
"""Properties of the tiers: together they are the whole suite, and the quick one has every value of every table."""

from itertools import combinations, product

import pytest
import tiers

pytest_plugins = ["pytester"]

TABLES = {
    "grid": [dict(zip("abc", row, strict=True)) for row in product(range(5), range(4), range(6))],
    "triangle": [{"a": a, "b": b} for a in range(12) for b in range(a)],
    "one parameter": [{"a": a} for a in range(40)],
    "repeated": [{"a": 1, "b": 2}] * 30,
}


def combinations_of(rows, strength):
    return {c for row in rows for c in combinations(sorted(row.items()), min(strength, len(row)))}


@pytest.mark.parametrize("strength", (1, 2))
@pytest.mark.parametrize("name", TABLES)
def test_every_combination_of_values_is_in_the_quick_tier(name, strength):
    rows = TABLES[name]
    kept = [rows[i] for i in tiers.covering(rows, strength)]
    assert combinations_of(kept, strength) == combinations_of(rows, strength)
    assert len(kept) <= len(combinations_of(rows, strength))


def test_the_tiers_are_the_whole_suite(pytester):
    pytester.makeconftest(
        f"import sys; sys.path.insert(0, {str(tiers.__file__.rsplit('/', 1)[0])!r})\n"
        "import pytest, tiers\n"
        "@pytest.hookimpl(tryfirst=True)\n"
        "def pytest_collection_modifyitems(config, items): tiers.split(config, items)\n"
    )
    pytester.makepyprojecttoml(
        '[tool.pytest.ini_options]\ntestpaths = ["test_rows.py"]\nmarkers = ["full: the full tier"]'
    )
    pytester.makepyfile(
        test_rows="import pytest\n"
        "@pytest.mark.parametrize('a', range(10))\n@pytest.mark.parametrize('b', range(20))\n"
        "def test_many(a, b): pass\n"
        "@pytest.mark.parametrize('a', range(3))\ndef test_few(a): pass\n"
        "@pytest.mark.full\ndef test_long(): pass\n"
    )
    quick, full = pytester.runpytest_subprocess(), pytester.runpytest_subprocess("-m", "full")
    quick.assert_outcomes(passed=29 + 3, deselected=171 + 1)
    full.assert_outcomes(passed=171 + 1, deselected=29 + 3)
    pytester.runpytest_subprocess("test_rows.py").assert_outcomes(passed=204)
