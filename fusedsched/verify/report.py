# SPDX-License-Identifier: Apache-2.0
"""What `verify` prints and saves: the machine, tables of margins, failures, and the answer."""

from __future__ import annotations

import math
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import torch

from fusedsched import info
from fusedsched.progress import is_terminal
from fusedsched.runtime.backends import backends
from fusedsched.verify.bounds import TORCH_ERRORS, Verdict
from fusedsched.verify.check import Check, Level, Result

_MOST_FAILURES = 10
_SETTINGS = ("TRITON_INTERPRET", "FUSEDSCHED_NO_EXTENSION")  # environment variables that select the kernels


def heading(todo: Sequence[Check], left_out: Sequence[tuple[str, str]]) -> None:
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}")
    for name, missing in backends().items():
        print(f"  {name:<10} {'available' if missing is None else 'missing: ' + missing}")
    for what, why in left_out:
        print(f"  not verified: {what}: {why}")
    print(
        f"{len(todo):,} checks, in one thread but for those about threads. An update may be off by {TORCH_ERRORS} "
        "times torch's own error plus one ulp; the tables show the largest part of a bound that was used, in percent, "
        "and ok for exact checks that passed.\n"
    )


def _cell(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return ""
    if not all(verdict.passed for verdict in verdicts):
        return "FAIL"
    exact = all(verdict.allowed == 0.0 for verdict in verdicts)
    return "ok" if exact else f"{100 * max(verdict.margin for verdict in verdicts):.0f}"


def tables(results: Sequence[Result]) -> None:
    """Prints one table per kind of check or backend. A cell is the worst of its checks."""
    for title in dict.fromkeys(result.check.table for result in results):
        cells: dict[tuple[str, str], list[Verdict]] = {}
        for result in results:
            if result.check.table == title:
                cells.setdefault((result.check.line, result.check.column), []).append(result.verdict)
        columns = list(dict.fromkeys(column for _, column in cells))
        rows = [[title, *columns]]
        for line in dict.fromkeys(line for line, _ in cells):
            rows.append([line, *(_cell(cells.get((line, column), [])) for column in columns)])
        _print(rows)


def _print(rows: list[list[str]]) -> None:
    colours = is_terminal(sys.stdout) and not os.environ.get("NO_COLOR")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        text = "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        print(text.rstrip().replace("FAIL", "\033[31mFAIL\033[0m") if colours else text.rstrip())
    print()


def command(check: Check, level: Level) -> str:
    """The command that runs one check again."""
    settings = "".join(f"{name}=1 " for name in _SETTINGS if os.environ.get(name) == "1")
    return f"{settings}python -m fusedsched verify {level.flag}--case {shlex.quote(check.id)}"


def failures(failed: Sequence[Result]) -> None:
    for result in failed[:_MOST_FAILURES]:
        verdict = result.verdict
        print(f"FAIL {result.check.id}\n  {verdict.what}: error {verdict.error:.3g}, allowed {verdict.allowed:.3g}")
    if len(failed) > _MOST_FAILURES:
        print(f"and {len(failed) - _MOST_FAILURES:,} more")


def last_line(results: Sequence[Result], level: Level, whole: bool, seconds: float) -> None:
    """Prints the answer. `whole`: all checks of a level were run."""
    failed = [result for result in results if not result.verdict.passed]
    question = "Can this machine be trusted?" if whole else "As far as these checks go, can this machine be trusted?"
    if not failed:
        print(f"{question} Yes: {len(results):,} of {len(results):,} checks passed ({seconds:.0f} s).")
    else:
        of = f"{len(failed):,} of {len(results):,} checks failed ({seconds:.0f} s)"
        print(f"{question} No: {of}. The first again: {command(failed[0].check, level)}")


def collect(
    results: Sequence[Result], level: Level, left_out: Sequence[tuple[str, str]], whole: bool, seconds: float
) -> dict[str, Any]:
    """The report to attach to a bug, as plain data: the machine, and each check with its error, bound and seconds."""
    facts = info.collect()
    return {
        "trusted": all(result.verdict.passed for result in results),
        "level": level.name,
        "whole": whole,
        "seconds": round(seconds, 1),
        "machine": {**facts, "problems": info.warnings_of(facts)},
        "not_verified": [{"what": what, "why": why} for what, why in left_out],
        "checks": [_row(result, level) for result in results],
    }


def _row(result: Result, level: Level) -> dict[str, Any]:
    check, verdict, seconds, trace = result
    row: dict[str, Any] = {"id": check.id, "passed": verdict.passed, "what": verdict.what}
    row |= {"error": _number(verdict.error), "allowed": _number(verdict.allowed), "seconds": round(seconds, 4)}
    if not verdict.passed:
        row["command"] = command(check, level)
    if trace:
        row["trace"] = trace
    return row


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has no infinity
