# SPDX-License-Identifier: Apache-2.0
"""A progress bar where there is a terminal and rich is installed; a line now and then where not."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Protocol


class Report(Protocol):
    """Called with the number of finished steps and a few words about them."""

    def __call__(self, done: int, words: str) -> None: ...


@contextmanager
def progress(total: int) -> Iterator[Report]:
    """Yields a function that shows how far things are. rich itself honours NO_COLOR."""
    if sys.stdout.isatty() and find_spec("rich"):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        with Progress(*columns) as bar:
            task = bar.add_task("", total=total)
            yield lambda done, words: bar.update(task, completed=done, description=words)
    else:
        yield _plain(total)


def _plain(total: int, lines: int = 10) -> Report:
    begin = time.monotonic()

    def show(done: int, words: str) -> None:
        if done == total or done % max(1, total // lines) == 0:
            left = (time.monotonic() - begin) / done * (total - done)
            print(f"step {done:>5} of {total}  {words}  {left:4.0f} s left", flush=True)

    return show
