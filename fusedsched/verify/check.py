# SPDX-License-Identifier: Apache-2.0
"""One row of what is verified, and how much of everything there is."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

from fusedsched.verify.bounds import Verdict


class Check(NamedTuple):
    """One thing to verify: `run()` gives the verdict.

    `table`, `line`, `column`: the cell of the report that shows it. `backend`: what it runs on; None: on no backend.
    """

    id: str
    table: str
    line: str
    column: str
    run: Callable[[], Verdict]
    backend: str | None = None


class Level(NamedTuple):
    """How much of everything. `steps`: updates of a case, `scheduled_steps` of one with schedules; `randoms`: drawn
    cases; `scheduler_steps`: calls of `sched.step()`. Where an interpreter runs the kernels: `slow_steps` updates, and
    of each kind of check one in `slow_part`."""

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


# The schedules of the table have reached their ends by update 200.
QUICK = Level("quick", 60, 60, 3, 8, 300, 8)
DEFAULT = Level("default", 200, 200, 8, 24, 2_000, 2)
FULL = Level("full", 1_000, 200, 40, 64, 10_000, 1)
LEVELS = (QUICK, DEFAULT, FULL)


class Result(NamedTuple):
    """What came of a check. `trace`: where it raised, if it did."""

    check: Check
    verdict: Verdict
    seconds: float
    trace: str = ""


def carry_out(check: Check) -> Result:
    """Runs a check. One that raises has failed: the error is its verdict."""
    began, trace = time.perf_counter(), ""
    try:
        verdict = check.run()
    except Exception as error:
        verdict, trace = Verdict(f"raised {type(error).__name__}: {error}", float("inf"), 0.0), traceback.format_exc()
    return Result(check, verdict, time.perf_counter() - began, trace)
