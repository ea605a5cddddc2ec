# SPDX-License-Identifier: Apache-2.0
"""What `verify` prints: a line about the machine, a table of margins, the first failure as a command."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from typing import Any

import torch

from fusedsched.verify import extended
from fusedsched.verify.bounds import TORCH_ERRORS, Verdict

_COLUMNS = ("float32", "float64", "bfloat16", "float16", "complex64", "schedules", "C++", "torch")


def heading(todo: Sequence[Any]) -> None:
    from fusedsched import optim

    here = [name if missing is None else f"{name} (no: {missing})" for name, missing in optim.backends().items()]
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}")
    print(f"Backends: {', '.join(here)}")
    if extended.reason() is not None:
        print(f"float64 is not judged: {extended.reason()}.")
    print(
        f"{len(todo)} cases. An update may be off by {TORCH_ERRORS} times torch's own error plus one ulp; the table "
        "shows the largest share of that which was used, in percent.\n"
    )


def progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\r" if done < total else "\r" + " " * 40 + "\r"
        print(f"  {done} of {total}", end=end, file=sys.stderr, flush=True)


def _cell(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return ""
    worst = max(verdicts, key=lambda verdict: verdict.margin)
    return f"{100 * worst.margin:.0f}" + ("" if worst.passed else " FAIL")


def tables(results: Sequence[tuple[str, str, str, Verdict]]) -> None:
    """One table a backend, one line an optimizer, one column a type; each cell is the worst of its cases."""
    for title in dict.fromkeys(title for title, _, _, _ in results):
        mine = [(line, column, verdict) for t, line, column, verdict in results if t == title]
        columns = [column for column in _COLUMNS if any(c == column for _, c, _ in mine)]
        lines = []
        for name in dict.fromkeys(line for line, _, _ in mine):
            cells = [_cell([v for line, c, v in mine if (line, c) == (name, column)]) for column in columns]
            lines.append([name, *cells])
        try:
            _rich_table(title, columns, lines)
        except ImportError:
            _plain_table(title, columns, lines)


def _rich_table(title: str, columns: list[str], lines: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    drawn.columns[0].no_wrap = True  # a name may be wider than the rest leaves room for
    for column in columns:
        drawn.add_column(column, justify="right", no_wrap=True)
    for name, *cells in lines:
        drawn.add_row(name, *(f"[bold red]{c}[/]" if "FAIL" in c else c for c in cells))
    Console(highlight=False).print(drawn, "")


def _plain_table(title: str, columns: list[str], lines: list[list[str]]) -> None:
    rows = [[title, *columns], *lines]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns) + 1)]
    for row in rows:
        print("  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]))
    print()


def summary(total: int, failed: Sequence[tuple[str, Verdict]], quick: bool, seconds: float) -> None:
    if not failed:
        print(f"All {total} cases are within their bounds ({seconds:.0f} s).")
        return
    print(f"{len(failed)} of {total} cases are outside of their bounds ({seconds:.0f} s). The first:")
    name, verdict = failed[0]
    print(f"  {verdict.what}: error {verdict.error:.3g}, allowed {verdict.allowed:.3g}")
    print(f"  python -m fusedsched verify {'--quick ' if quick else ''}--case {name}")
