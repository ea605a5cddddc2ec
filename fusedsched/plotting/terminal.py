# SPDX-License-Identifier: Apache-2.0
"""Pictures as lines of text: braille dots for one curve or with colours, letters for several curves without."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from .curves import Curve, Panel

HEIGHT = 13  # lines of the plot; odd, so that there is a middle line
WIDTH = 80  # columns if the output is no terminal
_COLOURS = (36, 33, 35, 32, 34, 31)  # ANSI
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # bits of U+2800, by row and column within a cell
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def abilities(stream: Any) -> dict[str, Any]:
    """What a stream supports: width in columns, colour, characters beyond ASCII.

    Colour needs a terminal that is not "dumb" and an empty or missing NO_COLOR.
    """
    terminal = bool(getattr(stream, "isatty", lambda: False)())
    try:
        "\u28ff\u2502".encode(getattr(stream, "encoding", None) or "ascii")
        unicode = True
    except (UnicodeEncodeError, LookupError):
        unicode = False
    colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = shutil.get_terminal_size((WIDTH, 24)).columns if terminal else WIDTH
    return dict(width=max(30, min(width, 120)), colour=colour, unicode=unicode)


class Scale:
    """Maps values to 0 to 1, linearly or by logarithm; None for values that have no place."""

    def __init__(self, values: list[float], log: bool, from_zero: bool = True) -> None:
        self.log = log
        usable = [v for v in values if math.isfinite(v) and (v > 0.0 or not log)] or [1.0]
        self.low, self.high = min(usable), max(usable)
        if from_zero and not log and 0.0 <= self.low <= 0.5 * self.high:
            self.low = 0.0
        if self.low == self.high:  # draws a constant in the middle
            margin = abs(self.low) / 2 or 1.0
            self.low, self.high = self.low - margin, self.high + margin

    def place(self, value: float) -> float | None:
        if not math.isfinite(value) or (self.log and value <= 0.0):
            return None
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        return ((math.log(value) if self.log else value) - low) / (high - low)

    def value(self, place: float) -> float:
        if self.log:
            return math.exp(math.log(self.low) + place * (math.log(self.high) - math.log(self.low)))
        return self.low + place * (self.high - self.low)


def _pixels(curve: Curve, x: Scale, y: Scale, columns: int, rows: int) -> Iterator[tuple[int, int]]:
    """The pixels of a curve, row 0 on top; the points are joined by lines."""
    before: tuple[int, int] | None = None
    for at, value in zip(curve.xs, curve.ys, strict=True):
        across, up = x.place(at), y.place(value)
        if across is None or up is None:
            before = None
            continue
        here = round(across * (columns - 1)), round((1.0 - up) * (rows - 1))
        if here == before:
            continue
        start = before or here
        n = max(abs(here[0] - start[0]), abs(here[1] - start[1]), 1)
        for i in range(n + 1):
            yield tuple(round(a + (b - a) * i / n) for a, b in zip(start, here, strict=True))
        before = here


def _canvas(panel: Panel, x: Scale, y: Scale, width: int, colour: bool, dots: bool) -> list[str]:
    """The plot without its axes, HEIGHT lines."""
    across, down = (2, 4) if dots else (1, 1)
    cells: dict[tuple[int, int], tuple[int, str]] = {}
    for index, curve in enumerate(panel.curves):
        for column, row in _pixels(curve, x, y, across * width, down * HEIGHT):
            cell = column // across, row // down
            if dots:
                old = ord(cells[cell][1]) if cell in cells else 0x2800
                glyph = chr(old | _DOTS[row % down][column % across])
            else:
                glyph = "*" if len(panel.curves) == 1 else _LETTERS[index % len(_LETTERS)]
            cells[cell] = index, glyph
    lines = []
    for row in range(HEIGHT):
        glyphs = [cells.get((column, row), (-1, " ")) for column in range(width)]
        runs = [(index, "".join(g for _, g in run)) for index, run in groupby(glyphs, key=lambda cell: cell[0])]
        lines.append("".join(_painted(text, index) if colour and index >= 0 else text for index, text in runs))
    return lines


def _painted(text: str, index: int) -> str:
    return f"\x1b[{_COLOURS[index % len(_COLOURS)]}m{text}\x1b[0m"


def _legend(panel: Panel, colour: bool, dots: bool) -> list[str]:
    if len(panel.curves) < 2:
        return [f"{panel.title}: {panel.curves[0].label}" if panel.curves[0].label else panel.title]
    lines = [panel.title]
    for index, curve in enumerate(panel.curves):
        sign = "\u2501" if dots else _LETTERS[index % len(_LETTERS)]
        lines.append(f"  {_painted(sign, index) if colour else sign} {curve.label}")
    return lines


def number(value: float) -> str:
    """A number on an axis.

    >>> number(3e-4), number(0.0), number(100000)
    ('0.0003', '0', '100,000')
    """
    if value == int(value) and 1000.0 <= abs(value) < 1e12:
        return f"{int(value):,}"
    return f"{value:.3g}"


def draw(panel: Panel, *, width: int = WIDTH, colour: bool = False, unicode: bool = True) -> str:
    """One panel as text: a title or legend, the plot, its axes, and where rows begin.

    >>> print(draw(Panel("lr", [Curve("", [0, 1], [0.0, 1.0])]), width=30, unicode=False).splitlines()[-2])
        +------------------------
    """
    dots = unicode and (colour or len(panel.curves) == 1)
    x = Scale([at for curve in panel.curves for at in curve.xs], panel.log_x, from_zero=False)
    y = Scale([value for curve in panel.curves for value in curve.ys], panel.log_y, panel.from_zero)
    labels = {row: number(y.value(1.0 - row / (HEIGHT - 1))) for row in (0, HEIGHT // 2, HEIGHT - 1)}
    margin = max(3, *map(len, labels.values()))
    columns = width - margin - 3
    bar, corner, line = ("\u2502", "\u2514", "\u2500") if unicode else ("|", "+", "-")
    lines = _legend(panel, colour, dots)
    for row, text in enumerate(_canvas(panel, x, y, columns, colour, dots)):
        lines.append(f"{labels.get(row, ''):>{margin}} {bar}{text}".rstrip())
    lines.append(" " * (margin + 1) + corner + line * columns)
    marks = sorted({mark for curve in panel.curves for mark in curve.marks})
    lines += _below(panel, x, marks, margin + 2, columns)
    return "\n".join(lines)


def _below(panel: Panel, x: Scale, marks: list[float], margin: int, columns: int) -> list[str]:
    """The ends of the x axis, arrows at the marks and points, and their legend."""
    arrows = [" "] * columns
    for place in filter(None, (x.place(at) for at in [*marks, *(at for _, at, _ in panel.points)])):
        arrows[min(round(place * (columns - 1)), columns - 1)] = "^"
    low, high = number(x.low), number(x.high)
    lines = [" " * margin + "".join(arrows).rstrip()] if "^" in arrows else []
    lines.append(f"{' ' * margin}{low}{panel.x_title:^{columns - len(low) - len(high)}}{high}")
    if marks:
        shown = ", ".join(number(mark) for mark in marks[:8]) + (", ..." if len(marks) > 8 else "")
        lines.append(f"{' ' * margin}^ a row begins: {shown}")
    if panel.points:
        lines += [f"{' ' * margin}^ {label}: {number(at)}" for label, at, _ in panel.points]
    return lines
