# SPDX-License-Identifier: Apache-2.0
"""Progress of a long command, as a few plain lines. They look the same in a terminal, a pipe and a file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Show = Callable[[float, str], None]


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal that obeys control characters. TERM=dumb does not."""
    return bool(getattr(stream, "isatty", lambda: False)()) and os.environ.get("TERM") != "dumb"


@contextmanager
def progress(total: float, *, lines: int = 10, after: float = 10.0, stream: Any = None) -> Iterator[Show]:
    """Yields `show(done, words)`: `done` of `total` are over (steps, seconds, any unit), and some words about it.

    Prints about `lines` lines in all, none within the first `after` seconds. `stream`: sys.stderr unless given, so that
    a pipe gets only results.

    >>> with progress(4, lines=2, after=0.0, stream=sys.stdout) as show:
    ...     for step in range(1, 5):
    ...         show(step, f"loss {1 / step:.2f}")
     50 %     0 s left  loss 0.50
    100 %     0 s left  loss 0.25
    """
    stream = sys.stderr if stream is None else stream
    begin, printed = time.monotonic(), 0

    def show(done: float, words: str) -> None:
        nonlocal printed
        seconds = time.monotonic() - begin
        if int(lines * done / total) > printed and seconds >= after:
            printed = int(lines * done / total)
            left = seconds / done * (total - done)
            print(f"{100 * done / total:3.0f} % {left:5.0f} s left  {words}", file=stream, flush=True)

    yield show
