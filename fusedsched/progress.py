# SPDX-License-Identifier: Apache-2.0
"""How far something is: a bar in a terminal, a few plain lines where there is none."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

Show = Callable[[float, str], None]


def is_terminal(stream: Any) -> bool:
    """Whether a stream goes to a terminal that obeys control characters: TERM=dumb does not, a pipe must get none."""
    return bool(getattr(stream, "isatty", lambda: False)()) and os.environ.get("TERM") != "dumb"


@contextmanager
def progress(total: float, *, lines: int, stream: Any = None) -> Iterator[Show]:
    """Yields `show(done, words)`: `done` of `total` are over (steps, seconds, any unit), and some words about it.

    A bar in a terminal, where rich is installed (rich itself honours NO_COLOR); else about `lines` plain lines, none
    for lines=0. `stream`: sys.stderr unless given, so that a pipe gets results alone.

    >>> with progress(4, lines=2, stream=sys.stdout) as show:
    ...     for step in range(1, 5):
    ...         show(step, f"loss {1 / step:.2f}")
     50 %     0 s left  loss 0.50
    100 %     0 s left  loss 0.25
    """
    stream = sys.stderr if stream is None else stream
    if is_terminal(stream) and find_spec("rich"):
        with _bar(total, stream) as show:
            yield show
    else:
        yield _lines(total, lines, stream)


@contextmanager
def _bar(total: float, stream: Any) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn
    from rich.text import Text

    class Bar(Progress):
        def get_renderables(self) -> Iterator[Any]:
            yield from super().get_renderables()
            yield from (Text(task.description) for task in self.tasks)  # below: beside the bar they would be cut off

    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(file=stream), transient=True, refresh_per_second=4) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, words: bar.update(task, completed=done, description=words)


def _lines(total: float, lines: int, stream: Any) -> Show:
    begin, shown = time.monotonic(), [0]

    def show(done: float, words: str) -> None:
        if int(lines * done / total) > shown[0]:
            shown[0] = int(lines * done / total)
            left = (time.monotonic() - begin) / done * (total - done)
            print(f"{done / total:4.0%} {left:5.0f} s left  {words}".replace("%", " %", 1), file=stream, flush=True)

    return show
