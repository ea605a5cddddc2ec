# SPDX-License-Identifier: Apache-2.0
"""The documents show what the commands make: every named schedule, every picture, every expression of the guide."""

import html
import importlib.util
import re
from pathlib import Path

import pytest

from fusedsched.plotting import figure, objects, parse, parsing

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
pytestmark = pytest.mark.skipif(not (DOCS / "make.py").exists(), reason="needs the source tree")
LARGEST = 30_000  # bytes of a picture


def document(name):
    return (DOCS / name).read_text() if DOCS.exists() else ""


def script():
    spec = importlib.util.spec_from_file_location("make", DOCS / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_named_schedule_is_in_the_gallery():
    make, text = script(), (DOCS / "schedules.md").read_text()
    assert sorted(make.GALLERY) == sorted(parsing.names())
    assert re.findall(r"^### `(\w+)`$", text, re.M) == list(make.GALLERY)
    assert all(f"{name}(" in " ".join(make.GALLERY[name]) for name in make.GALLERY)
    assert {path.name for path in (DOCS / "gallery").iterdir()} == {f"{n}.svg" for n in (*make.GALLERY, "range_test")}
    assert all(name in text for name in ("from_function", "from_torch", "ReduceLROnPlateau"))


@pytest.mark.parametrize("name", sorted(parsing.names()))
def test_a_picture_shows_its_expression_and_is_small(name):
    make = script()
    path = make.picture_of(name)
    svg, expressions = path.read_text(), [arg for arg in make.GALLERY[name] if "(" in arg]
    (about,) = re.findall(r"<dc:description>(.*?)</dc:description>", svg, re.S)
    assert all(text in html.unescape(about) for text in expressions)
    assert path.stat().st_size <= LARGEST
    assert svg.startswith("<?xml") and "<dc:date>" not in svg


def test_the_other_picture_is_small_too():
    assert (DOCS / "gallery" / "range_test.svg").stat().st_size <= LARGEST


@pytest.mark.parametrize(
    "name", ["README.md", "docs/schedules.md", "docs/range-test.md", "docs/benchmarks.md", "docs/telemetry.md"]
)
def test_documents_are_as_the_script_makes_them(name):
    """Pictures and tables of committed results: the figures of a range test are of the machine that it ran on."""
    text = (ROOT / name).read_text()
    assert script().rendered(text, commands="plot") == text


def test_a_document_written_by_hand_is_found():
    make, text = script(), (DOCS / "schedules.md").read_text()
    assert make.rendered(text.replace("cosine(0.1, 0.0, steps=1000)", "cosine(0.1, 0.0, steps=999)")) == text


def guide():
    """(task, expression) of the table of tasks."""
    rows = re.findall(r"^\| ([^|]+) \| `([^`]+)` \| [^|]+ \|$", document("schedules.md"), re.M)
    return [(task, expression) for task, expression in rows if task != "task"]


@pytest.mark.parametrize(("task", "expression"), guide())
def test_an_expression_of_the_guide_can_be_drawn(task, expression):
    assert parse(expression).check(task).plot()


def test_the_guide_has_tasks():
    assert len(guide()) >= 12


def test_the_reports_in_the_document_are_of_its_script():
    """Up to gradient norms, whose last digits depend on the machine."""
    shown = re.search(r"<!-- script above -->\n```\n(.*?)```", document("telemetry.md"), re.S).group(1)
    printed = script().printed_by_script(document("telemetry.md").split("<!-- script above -->")[0])
    without = [re.sub(r"grad norm.*?\)", "", text).strip("`\n").splitlines() for text in (shown, printed)]
    assert without[0] == without[1] and len(without[0]) == 4


@pytest.mark.full
@pytest.mark.skipif(not figure.available(), reason="needs matplotlib")
def test_the_script_writes_what_it_says(tmp_path, monkeypatch, capsys):
    make = script()
    monkeypatch.setattr(make, "ROOT", tmp_path)
    monkeypatch.setattr(make, "GALLERY", {"linear": make.GALLERY["linear"]})
    monkeypatch.syspath_prepend(str(DOCS))
    (tmp_path / "docs" / "gallery").mkdir(parents=True)
    for name in make.DOCUMENTS:
        (tmp_path / name).write_text("# Title\n\n<!-- gallery -->\n<!-- end -->\n")
    make.main()
    assert {path.name for path in (tmp_path / "docs" / "gallery").iterdir()} == {"linear.svg", "range_test.svg"}
    assert "![linear](gallery/linear.svg)" in (tmp_path / "docs" / "schedules.md").read_text()
    assert objects.is_reference("range_test_example:trial")
