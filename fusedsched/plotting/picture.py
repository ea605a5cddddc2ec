# SPDX-License-Identifier: Apache-2.0
"""A picture: one or more panels, shown as text, in a notebook, or written to a file."""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..command_line import PICTURE_KINDS
from ..files import check_writable, write_whole
from ..schedules.expression import Schedule
from . import figure, terminal
from .curves import Panel, natural_steps, sample


@dataclass(frozen=True, repr=False)
class Picture:
    """What `plot()` returns. `print` shows it as text, a notebook draws it, `save` writes a file.

    >>> from fusedsched import schedules as S
    >>> picture = S.linear(1.0, 0.0, steps=4).plot()
    >>> str(picture).splitlines()[0]
    'lr'
    """

    panels: tuple[Panel, ...]

    def text(self, *, width: int = terminal.WIDTH, colour: bool = False, unicode: bool = True) -> str:
        """The panels as text, `width` columns wide. Curves differ by colour, or by letter without colours."""
        drawn = (terminal.draw(panel, width=width, colour=colour, unicode=unicode) for panel in self.panels)
        return "\n\n".join(drawn)

    def show(self) -> None:
        """Prints the picture with what the terminal supports; without colours if there is none, or NO_COLOR is set."""
        print(self.text(**terminal.abilities(sys.stdout)))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes a .png or .svg file, whole or not at all, and returns its path.

        Raises ValueError for another suffix, OSError if it cannot be written, RuntimeError without matplotlib.
        """
        path = Path(path)
        kind = check_target(path)
        write_whole(path, figure.render(self.panels, kind))
        return path

    def __str__(self) -> str:
        return self.text(unicode=terminal.abilities(sys.stdout)["unicode"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        if figure.available():
            return figure.render(self.panels, "svg").decode()
        return f'<pre style="line-height: 1.1">{html.escape(self.text())}</pre>'


def check_target(path: Path) -> str:
    """The kind of picture for a path. Raises as `Picture.save` does, before anything is computed."""
    kind = path.suffix[1:].lower()
    if kind not in PICTURE_KINDS:
        raise ValueError(f"Invalid file name: {str(path)!r}. It must end in .png or .svg.")
    figure.require()
    check_writable(path)
    return kind


def of_schedules(
    panels: Iterable[tuple[str, Iterable[tuple[str, Schedule]]]], steps: int | None = None, log: bool = False
) -> Picture:
    """A picture of schedules over the same updates: (title, [(label, schedule), ...]) for each panel.

    `steps`: None draws the longest schedule to its end. `log`: a logarithmic scale for the first panel.
    """
    panels = [(title, list(curves)) for title, curves in panels]
    if steps is None:
        schedules = [schedule for _, curves in panels for _, schedule in curves]
        horizons = [s.program.horizon + 1 for s in schedules if s.program.horizon >= 0.0]
        steps = int(min([max(map(natural_steps, schedules)), *horizons]))
    units = {s.unit for _, curves in panels for _, s in curves if s.constant_value is None} or {"update"}
    drawn = [
        Panel(
            title,
            [sample(schedule, steps, label) for label, schedule in curves],
            x_title=" or ".join(sorted(units)),
            log_y=log and i == 0,
        )
        for i, (title, curves) in enumerate(panels)
    ]
    return Picture(tuple(drawn))
