# SPDX-License-Identifier: Apache-2.0
"""How far the checks are, on stderr: a bar where there is a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Protocol

_LINES_IN_A_LOG = 10


class Show(Protocol):
    """Called with the number of finished checks and the id of the next."""

    def __call__(self, done: int, next_id: str) -> None: ...


@contextmanager
def shown(total: int, logged: bool) -> Iterator[Show]:
    """Yields what shows the progress. `logged`: whether lines are wanted where there is no terminal."""
    if not sys.stderr.isatty():
        yield _lines(total) if logged else _nothing
    elif find_spec("rich"):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        # rich itself honours NO_COLOR.
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda done, next_id: bar.update(task, completed=done, description=next_id)
    else:
        yield lambda done, next_id: _rewrite(f"  {done:,} of {total:,}  {next_id}")
        _rewrite("")


def _nothing(done: int, next_id: str) -> None:
    """Where nobody is watching."""


def _rewrite(text: str, width: int = 78) -> None:
    print("\r" + text[:width].ljust(width) + "\r", end="", file=sys.stderr, flush=True)


def _lines(total: int) -> Show:
    began = time.monotonic()

    def show(done: int, next_id: str) -> None:
        if done and done % max(1, total // _LINES_IN_A_LOG) == 0:
            print(f"{done:>6,} of {total:,} checks, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    return show
