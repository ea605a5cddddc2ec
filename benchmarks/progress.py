# SPDX-License-Identifier: Apache-2.0
"""How far a measurement is: a bar where rich is installed, plain lines without it, nothing without a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

Show = Callable[[str], None]


@contextmanager
def progress(total: int) -> Iterator[Show]:
    """Yields a function that is called with the name of each part when it begins. rich itself honours NO_COLOR."""
    if not sys.stderr.isatty():
        yield lambda name: None
    elif find_spec("rich"):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=2) as bar:
            task = bar.add_task("", total=total)
            done = [0]

            def show(name: str) -> None:
                bar.update(task, completed=done[0], description=name, refresh=True)
                done[0] += 1

            yield show
    else:
        yield _lines(total)


def _lines(total: int) -> Show:
    begin, done = time.perf_counter(), [0]

    def show(name: str) -> None:
        done[0] += 1
        print(f"{time.perf_counter() - begin:6.1f} s  {done[0]:>3} of {total}  {name}", file=sys.stderr, flush=True)

    return show
