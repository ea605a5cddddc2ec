# SPDX-License-Identifier: Apache-2.0
"""docs/contributing.md: each recipe lists the files that its example is in."""

import re

import pytest
from pages import DOCS, ROOT, read

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="needs the source tree")
TEXT = read("docs/contributing.md")


def recipes(text):
    """(title, example, files) of each section that lists files."""
    found = []
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        listed = re.findall(r"^\| `([\w./-]+)` \|", section, re.M)
        example = re.search(r"Example: `(\w+)`", section)
        if listed:
            found.append((section.splitlines()[0], example and example[1], listed))
    return found


def without(example, name):
    """Whether a file says nothing of the example, in any spelling: `STAIRCASE`, `kStaircase`."""
    return example.lower().replace("_", "") not in (ROOT / name).read_text().lower().replace("_", "")


RECIPES = recipes(TEXT)
ROWS = [(example, name) for _, example, listed in RECIPES for name in listed]


def test_there_is_a_recipe_for_each_addition():
    titles = [title for title, _, _ in RECIPES]
    assert titles == [
        "Add a shape",
        "Add a named schedule",
        "Add a scheduler",
        "Add an optimizer",
        "Add an option of an optimizer",
    ]


@pytest.mark.parametrize(("example", "name"), ROWS)
def test_a_listed_file_exists_and_has_the_example(example, name):
    assert (ROOT / name).exists()
    assert not without(example, name)


def test_a_file_without_the_example_is_noticed():
    assert without("STAIRCASE", "LICENSE") and recipes("## T\n\nExample: `A`.\n\n| `a/b.py` | x |\n") == [
        ("T", "A", ["a/b.py"])
    ]
