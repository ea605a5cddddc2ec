# SPDX-License-Identifier: Apache-2.0
"""Which comparisons are made, what each has to reach, and the rows that come out."""

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.cases import Case
from benchmarks.ceiling import Ceiling
from benchmarks.measure import Contestant, Result, Settings, race
from benchmarks.sides import Side, build, calling, check_agreement, check_finite, stepping, training, zeroing

OURS, TWIN, FUSED, FOREACH = "fusedsched", "fusedsched again", "torch fused", "torch foreach"
CEILING = "same loop, no sqrt, no division"

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
    """A gate is passed or missed; without enough clean rounds it is neither. "-": nothing to reach, only reported."""
    if not settings.judged:
        return "not judged"
    if not result.trusted:
        return "disturbed"
    if gate is None:
        return "-"
    return "pass" if ratio >= gate else "MISSED"


def floor_of(case: Case, what: str, result: Result) -> dict[str, float]:
    """What nobody can go below: the bytes at the bandwidth of the same loop. On the host: our time per tensor."""
    if CEILING in result.times:
        seconds, moved = result.seconds(CEILING), case.numel * case.bytes_per_parameter
        return {"seconds": seconds, "bytes_per_parameter": case.bytes_per_parameter, "bandwidth": moved / seconds}
    return {"seconds_per_tensor": result.seconds(OURS) / len(case.shapes)} if what != LOOP else {}


def row(case: Case, what: str, against: str, result: Result, settings: Settings) -> dict[str, Any]:
    """One line of the table, as plain data. Times are seconds."""
    low, ratio, high = result.ratio(against, OURS)
    gate = GATES.get((case.name, what, against))
    return {
        "case": case.name,
        "title": case.title,
        "dtype": case.dtype,
        "threads": case.threads,
        "what": what,
        "against": against,
        "ours": result.seconds(OURS),
        "theirs": result.seconds(against),
        "ratio": ratio,
        "quartiles": [low, high],
        "spread": result.spread(OURS, TWIN),
        "gate": gate,
        "verdict": verdict(ratio, gate, result, settings),
        "clean": len(result.clean),
        "rounds": len(result.foreign),
        "floor": floor_of(case, what, result),
    }


def contests(case: Case, sides: dict[str, Side]) -> Iterator[tuple[str, list[Contestant], list[str]]]:
    """What is timed, by whom, and against whom we are compared. Our side runs twice, to see what is noise."""
    ours, fused = sides[OURS], sides[FUSED]
    runners = [Contestant(OURS, stepping(ours))]
    runners += [Contestant(name, stepping(side)) for name, side in sides.items() if name != OURS]
    if not case.host:
        runners.append(Contestant(CEILING, calling(Ceiling(ours, case.dtype))))
    runners.append(Contestant(TWIN, stepping(ours)))
    # Only one big tensor says how close we are to the memory; with many, the ceiling stands in the column of floors.
    hidden = {OURS, TWIN} if len(case.shapes) == 1 else {OURS, TWIN, CEILING}
    yield STEP, runners, [r.name for r in runners if r.name not in hidden]
    if not case.host:
        return
    for what, none in ((ZERO, True), (ZERO_FILL, False)):
        timed = [(OURS, ours), (FUSED, fused), (TWIN, ours)]
        yield what, [Contestant(name, zeroing(side, none)) for name, side in timed], [FUSED]
    yield LOOP, [Contestant(n, training(s)) for n, s in ((OURS, ours), (FUSED, fused), (TWIN, ours))], [FUSED]


def run_case(case: Case, settings: Settings) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows, and for each race all its rounds.

    Raises RuntimeError where the contestants do not compute the same, and where the ceiling cannot be built.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(case.threads)
    try:
        sides = {name: build(case, name) for name in ((OURS, FUSED, FOREACH) if case.host else (OURS, FUSED))}
        check_agreement(case, sides)
        rows, raw = [], []
        for what, contestants, rivals in contests(case, sides):
            result = race(contestants, settings)
            rows += [row(case, what, against, result, settings) for against in rivals]
            raw.append({"case": case.name, "what": what, **vars(result)})
        check_finite(case, sides)
        return rows, raw
    finally:
        torch.set_num_threads(threads)
