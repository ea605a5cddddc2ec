# SPDX-License-Identifier: Apache-2.0
"""A check, the levels of thoroughness, and the result of a check."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

from fusedsched.verify.bounds import Verdict


class Check(NamedTuple):
    """One thing to verify: `run()` returns the verdict.

    `table`, `line`, `column`: its cell in the report. `backend`: the backend that it runs on, if any.
    """

    id: str
    table: str
    line: str
    column: str
    run: Callable[[], Verdict]
    backend: str | None = None


class Level(NamedTuple):
    """How thorough a run is. `steps`: updates of a case, `scheduled_steps` of a case with schedules; `randoms`: random
    cases; `scheduler_steps`: calls of `sched.step()`. Interpreted kernels get `slow_steps` updates, and one in
    `slow_part` of each kind of check."""

    name: str
    steps: int
    scheduled_steps: int
    slow_steps: int
    randoms: int
    scheduler_steps: int
    slow_part: int

    @property
    def flag(self) -> str:
        return "" if self is DEFAULT else f"--{self.name} "


# All schedules of the table end before update 200.
QUICK = Level("quick", 60, 60, 3, 8, 300, 8)
DEFAULT = Level("default", 200, 200, 8, 24, 2_000, 2)
FULL = Level("full", 1_000, 200, 40, 64, 10_000, 1)
LEVELS = (QUICK, DEFAULT, FULL)


class Result(NamedTuple):
    """The result of a check. `trace`: the traceback, if it raised."""

    check: Check
    verdict: Verdict
    seconds: float
    trace: str = ""


def run_check(check: Check) -> Result:
    """Runs a check. An exception is a failure, with its message as the verdict."""
    began, trace = time.perf_counter(), ""
    try:
        verdict = check.run()
    except Exception as error:
        verdict, trace = Verdict(f"raised {type(error).__name__}: {error}", float("inf"), 0.0), traceback.format_exc()
    return Result(check, verdict, time.perf_counter() - began, trace)
