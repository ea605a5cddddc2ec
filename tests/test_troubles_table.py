# SPDX-License-Identifier: Apache-2.0
"""Law: docs/troubles.md has the table of troubles.py, and what it names is there."""

import ast
from pathlib import Path

import pytest
from troubles import SECTIONS, Trouble, parts, rendered

HERE = Path(__file__).parent
ROWS = [row for rows in SECTIONS.values() for row in rows]


def functions(name):
    """The tests of a file."""
    tree = ast.parse((HERE / f"test_{name}.py").read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def unknown(row):
    places = [test.split("::") for test in row.tests]
    return [f"{file}::{test}" for file, test in places if f"test_{test}" not in functions(file)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_every_row_is_shown_by_tests(row):
    assert row.tests and unknown(row) == []


def test_every_trouble_is_in_the_table():
    named = {test for row in ROWS for test in row.tests}
    for path in HERE.glob("test_troubles_*.py"):
        name = path.stem.removeprefix("test_")
        tests = {f"{name}::{f.removeprefix('test_')}" for f in functions(name)}
        if name != "troubles_table":
            assert tests - named <= {"troubles_graphs::the_model_of_a_capture_is_right"}


def test_the_document_has_the_table():
    assert parts()[1] == rendered(), "run: python tests/troubles.py"


def test_a_row_about_nothing_is_noticed():
    assert unknown(Trouble("", "", "", "", ("amp::nothing_at_all",))) == ["amp::nothing_at_all"]
