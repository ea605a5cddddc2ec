# SPDX-License-Identifier: Apache-2.0
"""`python -m fusedsched verify`: every backend of this machine against a computation in a wider type.

fusedsched verify                                       everything, over 1,000 updates
fusedsched verify --quick                               less of everything, under a minute
fusedsched verify --case AdamW/float32/cosine/cpu       one case again
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from fusedsched.verify import evaluators, report, table, updates
from fusedsched.verify.bounds import Verdict

__all__ = ["Check", "checks", "main"]

_STEPS = 1000
_QUICK_STEPS = 60
_SCHEDULED_STEPS = 200  # the schedules of the table have reached their end by then


class Check(NamedTuple):
    """One line of what is verified: `run()` gives the verdict."""

    id: str
    table: str
    line: str
    column: str
    run: Callable[[], Verdict]


def _build(backend: str, name: str, params: Any, **options: Any) -> torch.optim.Optimizer:
    from fusedsched import optim

    return getattr(optim, name)(params, backend=backend, **options)


def _update_check(case: table.Case, backend: str, steps: int) -> Check:
    line = "random" if case.row.startswith("random-") else case.row
    column = "schedules" if case.schedule not in ("fixed", "drawn") else case.dtype
    if case.schedule != "fixed":
        steps = min(steps, _SCHEDULED_STEPS)
    run = partial(updates.run, partial(_build, backend), case, steps)
    return Check(f"{case.id}/{backend}", backend, line, column, run)


def present_backends() -> list[str]:
    from fusedsched import optim

    return [name for name, missing in optim.backends().items() if missing is None]


def checks(quick: bool = False) -> list[Check]:
    """All that can be verified on this machine, in the order in which it is reported."""
    steps = _QUICK_STEPS if quick else _STEPS
    found = [
        Check(
            name,
            "schedules",
            name.split("/")[0],
            name.split("/")[-1] if name.startswith("schedules/") else "torch",
            run,
        )
        for name, run in evaluators.checks(300 if quick else 10_000)
    ]
    # One case after the other on all backends: they share the yardsticks.
    cases = [case for case in table.cases(quick, 8 if quick else 64) if updates.unjudged(case) is None]
    return found + [_update_check(case, backend, steps) for case in cases for backend in present_backends()]


def _chosen(wanted: str, quick: bool) -> Check:
    for check in checks(quick):
        if check.id == wanted:
            return check
    row, _, backend = wanted.rpartition("/")
    try:
        case = table.Case.parse(row)
    except ValueError as error:
        raise ValueError(f"{error} After that comes a backend: {', '.join(present_backends())}.") from None
    if backend not in present_backends():
        raise ValueError(f"Unknown backend: {backend!r}. Here are {', '.join(present_backends())}.")
    return _update_check(case, backend, _QUICK_STEPS if quick else _STEPS)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns 0 if everything is within its bound, 1 if something is not, 2 for a case that is unknown."""
    parser = argparse.ArgumentParser(
        prog="fusedsched verify", description="Compares every backend of this machine with the float64 reference."
    )
    parser.add_argument("--quick", action="store_true", help="less of everything, under a minute")
    parser.add_argument("--case", metavar="ID", help="one case, such as AdamW/float32/cosine/cpu")
    arguments = parser.parse_args(argv)
    try:
        todo = [_chosen(arguments.case, arguments.quick)] if arguments.case else checks(arguments.quick)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    report.heading(todo)
    began, verdicts = time.monotonic(), []
    for check in todo:
        verdicts.append(check.run())
        report.progress(len(verdicts), len(todo))
    report.tables([(check.table, check.line, check.column, v) for check, v in zip(todo, verdicts, strict=True)])
    failed = [(check, verdict) for check, verdict in zip(todo, verdicts, strict=True) if not verdict.passed]
    names = [(check.id, verdict) for check, verdict in failed]
    report.summary(len(todo), names, arguments.quick, time.monotonic() - began)
    return 1 if failed else 0
