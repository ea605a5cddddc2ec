# SPDX-License-Identifier: Apache-2.0
"""The report to attach to a bug: what the machine is, every check with its error, its bound and its seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fusedsched import info
from fusedsched.verify import report
from fusedsched.verify.check import Level, Result


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has no infinity


def _row(result: Result, level: Level) -> dict[str, Any]:
    check, verdict, seconds, trace = result
    row: dict[str, Any] = {"id": check.id, "passed": verdict.passed, "what": verdict.what}
    row |= {"error": _number(verdict.error), "allowed": _number(verdict.allowed), "seconds": round(seconds, 4)}
    if not verdict.passed:
        row["command"] = report.command(check, level)
    if trace:
        row["trace"] = trace
    return row


def collect(
    results: Sequence[Result], level: Level, left_out: Sequence[tuple[str, str]], whole: bool, seconds: float
) -> dict[str, Any]:
    """Everything as plain data. `trusted` is about the machine only where `whole`: no check of the level is missing."""
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
