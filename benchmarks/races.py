# SPDX-License-Identifier: Apache-2.0
"""The comparisons on a CPU, their gates, and the rows of results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from . import ceiling, memory
from .cases import Case
from .measure import HOST, Contestant, Result, Settings, race
from .peers import FOREACH, FUSED, OURS, PEERS
from .plain_copy import COPIED, COPY, copying
from .sides import (
    Side,
    assemble,
    calling,
    check_finite,
    host_only,
    stepping,
    training,
    zeroing,
)

TWIN, CEILING = "fusedsched again", "same loop, no sqrt, no division"

STEP = "step + schedule"
ZERO, ZERO_FILL = "zero_grad()", "zero_grad(set_to_none=False)"
LOOP = "whole loop, real backward"

# (case, what, against): the least ratio. Rows that are not here are reported and not judged.
GATES = {
    ("tiny-300", STEP, FUSED): 30.0,
    ("tiny-2000", STEP, FUSED): 30.0,
    ("groups-465", STEP, FUSED): 30.0,
    ("tiny-300", ZERO, FUSED): 3.0,
    ("tiny-2000", ZERO, FUSED): 3.0,
    ("groups-465", ZERO, FUSED): 3.0,
    ("tiny-300", ZERO_FILL, FUSED): 3.0,
    ("tiny-2000", ZERO_FILL, FUSED): 3.0,
    ("groups-465", ZERO_FILL, FUSED): 3.0,
    ("small-2000", STEP, FUSED): 12.0,
    ("one-50M", STEP, CEILING): 0.92,
    ("mixed-300", STEP, FUSED): 1.08,
    ("resnet50", STEP, FUSED): 1.10,
    ("mixed-300-bf16", STEP, FUSED): 1.5,
    ("resnet50-bf16", STEP, FUSED): 1.7,
}


def verdict(ratio: float, gate: float | None, result: Result, settings: Settings) -> str:
    """Whether a gate is passed or missed; neither without enough clean rounds. "-": there is no gate."""
    if not settings.judged:
        return "not judged"
    if not result.trusted:
        return "disturbed"
    if gate is None:
        return "-"
    return "pass" if ratio >= gate else "MISSED"


def floor_of(case: Case, what: str, result: Result) -> dict[str, float]:
    """A lower bound: the bytes at the bandwidth of the same loop. For host cases: our time per tensor."""
    if CEILING in result.times:
        seconds = result.seconds(CEILING)
        return {
            "seconds": seconds,
            "bytes_per_parameter": case.bytes_per_parameter,
            "bandwidth": case.moved / seconds,
        }
    return {"seconds_per_tensor": result.seconds(OURS) / len(case.shapes)} if case.host and what != LOOP else {}


def head(case: Case, what: str, against: str) -> dict[str, Any]:
    """The columns that identify a row."""
    return {
        "case": case.name,
        "title": case.title,
        "dtype": case.dtype,
        "optimizer": case.optimizer,
        "backend_asked": case.backend,
        "threads": case.threads,
        "what": what,
        "against": against,
    }


def row(
    case: Case,
    what: str,
    against: str,
    result: Result,
    settings: Settings,
    gates: dict[tuple[str, str, str], float] = GATES,
    floor: dict[str, float] | None = None,
) -> dict[str, Any]:
    """One line of the table, as plain data. Times are seconds. `floor`: replaces the one of this processor."""
    low, ratio, high = result.ratio(against, OURS)
    gate = gates.get((case.name, what, against))
    return {
        **head(case, what, against),
        "ours": result.seconds(OURS),
        "theirs": result.seconds(against),
        "ratio": ratio,
        "quartiles": [low, high],
        "spread": result.spread(OURS, TWIN),
        "gate": gate,
        "verdict": verdict(ratio, gate, result, settings),
        "clean": len(result.clean),
        "rounds": len(result.foreign),
        "floor": floor_of(case, what, result) if floor is None else floor,
    }


def rivals(case: Case, settings: Settings) -> list[str]:
    """The contestants. Quick runs leave out compilers and slow implementations."""
    slow = set() if case.host else {FOREACH}
    return [name for name in PEERS if settings.thorough or not (name in slow or PEERS[name].slow_to_start)]


def ceiling_missing(case: Case) -> str | None:
    """Why a case has no loop without arithmetic to compare with; None if it has one."""
    if case.optimizer != "adamw" or case.dtype not in ceiling.DTYPES:
        return f"written for adamw in {' and '.join(ceiling.DTYPES)}"
    return ceiling.missing()


def contests(case: Case, sides: dict[str, Side]) -> Iterator[tuple[str, list[Contestant], list[str]]]:
    """What is timed, the contestants, and those in the table. Our side runs twice, to measure the noise."""
    ours = sides[OURS]
    runners = [Contestant(OURS, stepping(ours))]
    runners += [Contestant(name, stepping(side)) for name, side in sides.items() if name != OURS]
    if not case.host:
        if ceiling_missing(case) is None:
            runners.append(Contestant(CEILING, calling(ceiling.Ceiling(ours, case.dtype))))
        runners.append(copying())
    runners.append(Contestant(TWIN, stepping(ours)))
    # With one big tensor the ceiling is a row; with many it is in the column of floors.
    hidden = {OURS, TWIN, COPY} if len(case.shapes) == 1 else {OURS, TWIN, COPY, CEILING}
    yield STEP, runners, [r.name for r in runners if r.name not in hidden]
    if not case.host or FUSED not in sides:
        return
    fused = sides[FUSED]
    for what, none in ((ZERO, True), (ZERO_FILL, False)):
        timed = [(OURS, ours), (FUSED, fused), (TWIN, ours)]
        yield what, [Contestant(name, zeroing(side, none)) for name, side in timed], [FUSED]
    yield LOOP, [Contestant(n, training(s)) for n, s in ((OURS, ours), (FUSED, fused), (TWIN, ours))], [FUSED]


def host_seconds(case: Case, names: list[str], settings: Settings) -> dict[str, float]:
    """The host's time for a step with schedule, for each contestant that needs no compilation."""
    small = host_only(case)
    torch.set_num_threads(1)
    sides, _ = assemble(small, [name for name in names if not PEERS[name].slow_to_start])
    runners = [Contestant(name, stepping(side)) for name, side in sides.items()]
    result = race(runners, HOST if settings.judged else settings)
    torch.set_num_threads(case.threads)
    return {name: result.seconds(name) for name in sides}


def portraits(
    case: Case, sides: dict[str, Side], result: Result, host: dict[str, float], device: str = "cpu"
) -> Iterator[dict[str, Any]]:
    """One record per contestant of a case: its times and memory."""
    for name, side in sides.items():
        low, seconds, high = result.range(name)
        share = None
        if COPY in result.times:
            share = (case.moved / seconds) / (COPIED / result.seconds(COPY))
        yield {
            "case": case.name,
            "title": case.title,
            "dtype": case.dtype,
            "optimizer": case.optimizer,
            "backend_asked": case.backend,
            "backend": getattr(side.optimizer, "backend", "-") if name.startswith(OURS) else "-",
            "device": device,
            "name": name,
            "seconds": seconds,
            "quartiles": [low, high],
            "share_of_copy": share,
            "host_seconds": host.get(name, seconds if case.host else None),
            **side.facts,
        }


def too_big(case: Case, contestants: int) -> str | None:
    """Why a case does not fit into memory; None if it does. Implementations may need temporaries."""
    free, needed = memory.available(), case.footprint * (contestants + 1)
    if free is None or needed <= 0.8 * free:
        return None
    return f"needs about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"


def run_case(case: Case, settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """`rows`, for each race all its rounds (`races`), a record for each contestant, and why others are missing.

    Raises RuntimeError if torch and we compute different results, or if the ceiling cannot be built.
    """
    found: dict[str, list[dict[str, Any]]] = {"rows": [], "races": [], "contestants": [], "skipped": []}
    names = rivals(case, settings)
    reason = too_big(case, sum(PEERS[name].reason(case, "cpu") is None for name in names))
    if reason is not None:
        found["skipped"].append({"case": case.name, "name": "all", "why": reason})
        return found
    threads = torch.get_num_threads()
    torch.set_num_threads(case.threads)
    try:
        sides, skipped = assemble(case, names, settings.compiled_tensors)
        found["skipped"] = [{"case": case.name, "name": name, "why": why} for name, why in skipped.items()]
        if not case.host and (why := ceiling_missing(case)) is not None:
            found["skipped"].append({"case": case.name, "name": CEILING, "why": why})
        host = {} if case.host else host_seconds(case, list(sides), settings)
        for what, contestants, against in contests(case, sides):
            result = race(contestants, settings)
            found["rows"] += [row(case, what, name, result, settings) for name in against]
            found["races"].append({"case": case.name, "what": what, **vars(result)})
            if what == STEP:
                found["contestants"] += portraits(case, sides, result, host)
        check_finite(case, sides)
        return found
    finally:
        torch.set_num_threads(threads)
