# SPDX-License-Identifier: Apache-2.0
"""Pictures show the schedule: the values, the corners, where rows begin; in a terminal, in a file, in a notebook."""

import io
import math
import xml.etree.ElementTree as xml

import pytest
from cases_schedules import SCHEDULES

from fusedsched import schedules as S
from fusedsched.plotting import Curve, Panel, Picture, curves, figure, natural_steps, of_schedules, sample, terminal


@pytest.mark.parametrize("steps", [None, 50_000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_curve_has_the_values_of_the_schedule_and_both_sides_of_its_edges(name, steps):
    schedule = SCHEDULES[name].make()
    if steps is not None and schedule.program.horizon >= 0.0:
        pytest.skip("it has no more steps")
    curve = sample(schedule, steps)
    assert 2 <= len(curve.xs) <= 3 * curves.POINTS and list(curve.xs) == sorted(set(curve.xs))
    assert all(schedule(x) == y for x, y in zip(curve.xs, curve.ys, strict=True))
    assert curve.xs[0] == 0 and (steps is None or curve.xs[-1] == steps - 1)
    begins = {row[0] for row in schedule.program.rows if 0 < row[0] <= curve.xs[-1]}
    assert {x for b in begins for x in (math.ceil(b), math.ceil(b) - 1)} <= set(curve.xs)
    if len(begins) <= curves.MOST_MARKS and schedule.program.period == 0.0:
        assert set(curve.marks) == begins


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        (S.warmup_cosine(1.0, 10, 100), 101),
        (S.constant(0.1), 100),
        (S.cyclic(0, 1, up=5), 31),
        (S.linear(1, 0, 7, past_end="cycle"), 22),
        (S.linear(1, 0, 7, past_end="error"), 8),
        (S.step(1, step_size=10), 51),
        (S.multistep(1.0, [40, 80]), 101),
        (S.exponential(1.0, 0.1), 3),
        (S.exponential(1.0, 1.5, steps=9), 10),
        (S.warmup(4) * 0.1, 5),
        (S.cosine_restarts(1.0, 0.0, 10, 2), 10 * (2**4 - 1) + 1),
        (S.from_function(lambda t: t, 12, past_end="hold"), 13),
    ],
)
def test_a_picture_ends_where_all_has_been_seen(schedule, steps):
    assert natural_steps(schedule) == steps
    assert sample(schedule).xs[-1] == steps - 1


def test_no_steps_are_no_picture():
    with pytest.raises(ValueError, match="Invalid steps: 0"):
        S.constant(1).plot(0)


def dots(text, columns):
    """The topmost and lowest dot of each column of dots in a braille picture, as parts of the height, 0 at the foot."""
    lines = [line.split("\u2502", 1)[1].ljust(columns) for line in text.splitlines() if "\u2502" in line]
    height, found = 4 * len(lines), [[] for _ in range(2 * columns)]
    for row, line in enumerate(lines):
        for column, glyph in enumerate(line):
            bits = ord(glyph) - 0x2800 if glyph != " " else 0
            for down in range(4):
                for across in range(2):
                    if bits & terminal._DOTS[down][across]:
                        found[2 * column + across].append(1.0 - (4 * row + down) / (height - 1))
    return [(min(column), max(column)) if column else None for column in found]


def off_the_curve(schedule, steps, log=False):
    """The worst distance, in dots, between the drawing and the schedule, over all columns."""
    columns = 60
    panel = Panel("lr", [sample(schedule, steps)], log_y=log)
    text = terminal.draw(panel, width=columns + 12)
    columns = max(len(line.split("\u2514", 1)[1]) for line in text.splitlines() if "\u2514" in line)
    scale = terminal.Scale(list(panel.curves[0].ys), log)
    worst = 0.0
    for column, span in enumerate(dots(text, columns)):
        at = column / (2 * columns - 1) * (steps - 1)
        near = [scale.place(schedule(min(max(x, 0), steps - 1))) for x in range(math.floor(at) - 5, math.ceil(at) + 6)]
        low, high = min(near), max(near)
        worst = max(worst, (low - span[0]) * 51, (span[1] - high) * 51) if span else math.inf
    return worst


SHOWN = {
    "warmup_cosine": (S.warmup_cosine(0.3, 50, 500), 501, False),
    "restarts": (S.cosine_restarts(0.3, 0.01, 200), 600, False),
    "exponential, log": (S.exponential(0.3, 0.99), 500, True),
    "stairs": (S.step(0.3, 100, 0.5), 500, False),
    "constant": (S.constant(0.3), 300, False),
}


@pytest.mark.parametrize("name", SHOWN)
def test_the_dots_lie_on_the_curve(name):
    assert off_the_curve(*SHOWN[name]) <= 1.0


@pytest.mark.parametrize("mutant", ["upside down", "not joined", "not logarithmic"])
def test_the_property_above_finds(mutant, monkeypatch):
    draw = terminal._pixels
    mutants = {
        "upside down": lambda c, x, y, columns, rows: ((a, rows - 1 - b) for a, b in draw(c, x, y, columns, rows)),
        "not joined": lambda c, x, y, columns, rows: (p for p in draw(c, x, y, columns, rows) if p[0] % 3),
        "not logarithmic": lambda c, x, y, columns, rows: draw(c, x, terminal.Scale(c.ys, False), columns, rows),
    }
    monkeypatch.setattr(terminal, "_pixels", mutants[mutant])
    case = {"upside down": "warmup_cosine", "not joined": "constant", "not logarithmic": "exponential, log"}[mutant]
    assert off_the_curve(*SHOWN[case]) > 1.0


def test_curves_without_colour_are_letters_and_with_it_dots():
    picture = of_schedules([("lr", [("first", S.linear(1, 0, 50)), ("second", S.cosine(1, 0, 50))])])
    plain, coloured = picture.text(), picture.text(colour=True)
    assert "  a first" in plain and "  b second" in plain and "\x1b[" not in plain
    assert "\x1b[36m" in coloured and "\x1b[33m" in coloured and any("\u2800" < c <= "\u28ff" for c in coloured)
    assert picture.text(unicode=False).isascii() and S.linear(1, 0, 5).plot().text(unicode=False).count("*") > 10


def test_no_line_is_wider_than_asked():
    picture = of_schedules([("lr", [("", SCHEDULES["multistep"].make())])])
    for width in (30, 80, 120):
        assert max(map(len, picture.text(width=width).splitlines()[:-1])) <= width


def test_marks_stand_where_rows_begin():
    text = S.join([1.0, 0.5, 0.2], [25, 75]).plot(101).text(width=80)
    (arrows,) = [line for line in text.splitlines() if set(line.strip()) == {"^", " "}]
    (axis,) = [line for line in text.splitlines() if "\u2514" in line]
    columns, start = axis.count("\u2500"), axis.index("\u2514") + 1
    places = [i - start for i, c in enumerate(arrows) if c == "^"]
    assert places == [round(0.25 * (columns - 1)), round(0.75 * (columns - 1))]
    assert "^ a row begins: 25, 75" in text


class Stream(io.StringIO):
    def __init__(self, terminal, encoding="utf-8"):
        super().__init__()
        self._terminal, self._encoding = terminal, encoding

    def isatty(self):
        return self._terminal

    encoding = property(lambda self: self._encoding)


@pytest.mark.parametrize(
    ("stream", "environment", "colour", "unicode"),
    [
        (Stream(True), {}, True, True),
        (Stream(True), {"NO_COLOR": ""}, True, True),
        (Stream(True), {"NO_COLOR": "1"}, False, True),
        (Stream(True), {"TERM": "dumb"}, False, True),
        (Stream(False), {}, False, True),
        (Stream(True, "ascii"), {}, True, False),
        (Stream(False, "latin-1"), {}, False, False),
        (Stream(False, None), {}, False, False),
        (object(), {}, False, False),
    ],
)
def test_the_terminal_is_asked_what_it_can_show(stream, environment, colour, unicode, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = terminal.abilities(stream)
    assert (found["colour"], found["unicode"]) == (colour, unicode) and 30 <= found["width"] <= 120


def test_values_that_cannot_be_placed_are_left_out():
    panel = Panel("loss", [Curve("", [0, 1, 2, 3], [1.0, float("nan"), float("inf"), 2.0])], log_y=True)
    assert "2" in terminal.draw(panel)
    assert terminal.draw(Panel("lr", [Curve("", [0, 1], [0.0, 0.0])], log_y=True))


matplotlib = pytest.mark.skipif(not figure.available(), reason="needs matplotlib")


@matplotlib
def test_files_are_pictures_and_the_same_every_time(tmp_path):
    picture = S.warmup_cosine(1.0, 10, 100).plot(log=True)
    assert picture.save(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    first, second = (picture.save(tmp_path / name).read_bytes() for name in ("a.svg", "b.SVG"))
    assert first == second and xml.fromstring(first).tag.endswith("svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg", "b.SVG"]


@matplotlib
def test_where_it_cannot_be_written_is_said(tmp_path):
    picture = S.linear(1, 0, 10).plot()
    (tmp_path / "folder.svg").mkdir()
    for path, kind, words in [
        (tmp_path / "no" / "lr.svg", FileNotFoundError, "there is no folder"),
        (tmp_path / "folder.svg", IsADirectoryError, "it is a folder"),
        (tmp_path / "lr.txt", ValueError, r"It must end in \.png or \.svg"),
    ]:
        with pytest.raises(kind, match=words):
            picture.save(path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.svg"]


@matplotlib
def test_a_notebook_gets_a_drawing():
    text = S.linear(1, 0, 10)._repr_html_()
    assert xml.fromstring(text[text.index("<svg") :]).tag.endswith("svg")


def test_without_matplotlib_there_is_text_and_a_word_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(figure, "find_spec", lambda name: None)
    picture = S.linear(1, 0, 10).plot()
    with pytest.raises(RuntimeError, match=r"pip install 'fusedsched\[plot\]'"):
        picture.save(tmp_path / "lr.png")
    assert list(tmp_path.iterdir()) == [] and S.linear(1, 0, 10)._repr_html_().startswith("<pre")


def test_a_picture_prints_itself(capsys):
    picture = S.linear(1, 0, 10).plot()
    assert isinstance(picture, Picture) and str(picture) == repr(picture)
    picture.show()
    assert capsys.readouterr().out.rstrip("\n") == str(picture)
