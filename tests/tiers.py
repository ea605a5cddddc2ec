# SPDX-License-Identifier: Apache-2.0
"""The two tiers of the suite. `pytest` alone runs the quick one, `pytest -m full` the rest; together they are all rows.

A property over a large table keeps the rows in the quick tier that show every value of every parameter, or every pair
of values where the table is small enough. A module with QUICK_ROWS keeps as many rows of a test as that says, one of
those that it does not name. The choice follows from the rows alone, so a run can be repeated. A command
that names files or uses -k or -m runs what it says.
"""

from __future__ import annotations

from itertools import combinations

import pytest

WHOLE = 24  # properties with at most so many rows are quick as they are
PAIRS = 96  # those with more rows than this keep every value, not every pair


def full(*values, **options):
    """Values of a parameter that only the full tier has."""
    return pytest.param(*values, marks=pytest.mark.full, **options)


def covering(rows, strength):
    """Indices of rows that have every combination of `strength` values that any row has.

    `rows`: mappings from parameter to value.

    >>> covering([{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": 2, "b": 2}], 1)
    [0, 1, 2]
    """
    seen, kept = set(), []
    for i, row in enumerate(rows):
        values = sorted((name, repr(value)) for name, value in row.items())
        found = set(combinations(values, min(strength, len(values))))
        if not found <= seen:
            seen |= found
            kept.append(i)
    return kept


def full_rows(items):
    """The items of the full tier: rows beyond the covering ones, and tests that are marked so."""
    tables = {}
    for item in items:
        tables.setdefault(item.nodeid.split("[")[0], []).append(item)
    full = []
    for table in tables.values():
        kept = set(range(len(table)))
        if len(table) > WHOLE and all(hasattr(item, "callspec") for item in table):
            kept = set(covering([item.callspec.params for item in table], 2 if len(table) <= PAIRS else 1))
        if hasattr(getattr(table[0], "module", None), "QUICK_ROWS"):
            kept = set(range(table[0].module.QUICK_ROWS.get(table[0].originalname, 1)))
        full += [item for i, item in enumerate(table) if i not in kept or item.get_closest_marker("full")]
    return full


def split(config, items):
    """Marks the full tier; leaves it out of a run of the whole suite that asks for nothing else."""
    full = full_rows(items)
    for item in full:
        item.add_marker("full")
    option = config.option
    if option.markexpr or option.keyword or config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    config.hook.pytest_deselected(items=full)
    left_out = set(full)
    items[:] = [item for item in items if item not in left_out]
