# SPDX-License-Identifier: Apache-2.0
"""What is compared on a GPU, what each comparison has to reach, and the rows that come out. Plain arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .cases import Case
from .gpu_memory import COPY, TRIAD
from .gpu_sides import CONSTANT
from .measure import Result, Settings
from .peers import CAPTURABLE, FUSED, OURS
from .races import TWIN as TWIN, head, row

DEVICE, COLD = "device time, graph replay", "device time, graph replay, L2 cold"
EAGER, HOST_TIME = "eager step + schedule", "host time of step + schedule"
LAUNCHES, ONE_LAUNCH = "launches per step", "one per combination of dtypes"
COPY_FLOOR, TRIAD_FLOOR = "bytes at copy bandwidth", "bytes at triad bandwidth"
FLOORS = {COPY: COPY_FLOOR, TRIAD: TRIAD_FLOOR}

# Times to stay below, as contestants that always need so long.
GOAL_DEVICE, GOAL_HOST = "goal: 20 us", "goal: 200 us"
GOALS = {("small-2000", DEVICE): {GOAL_DEVICE: 20e-6}, ("small-2000", HOST_TIME): {GOAL_HOST: 200e-6}}

# (case, what, against): the least ratio. Rows that are not here are reported and not judged.
GATES = {
    ("one-1B", DEVICE, COPY_FLOOR): 0.93,
    ("one-1B", DEVICE, CAPTURABLE): 1.03,
    ("one-1B", DEVICE, CONSTANT): 0.99,
    ("one-1B-amsgrad", DEVICE, CAPTURABLE): 1.10,
    ("llama3-8b-bf16", DEVICE, CAPTURABLE): 1.10,
    ("llama3-8b-bf16", DEVICE, CONSTANT): 0.99,
    ("resnet50", DEVICE, COPY_FLOOR): round(1 / 1.12, 3),
    ("resnet50", DEVICE, CAPTURABLE): 1.0,
    ("resnet50-sgd", DEVICE, FUSED): 1.0,
    ("small-2000", DEVICE, CAPTURABLE): 1.0,
    ("small-2000", DEVICE, GOAL_DEVICE): 1.0,
    ("small-2000", HOST_TIME, GOAL_HOST): 1.0,
    ("small-2000", HOST_TIME, FUSED): 10.0,
    ("groups-465", DEVICE, CAPTURABLE): 1.0,
    ("experts", DEVICE, CAPTURABLE): 1.0,
}


def with_ceilings(case: Case, result: Result, moved: dict[str, int]) -> None:
    """Adds what the bytes of a step take at the bandwidth that each round measured. `moved`: bytes of those calls."""
    for name, bytes_of_call in moved.items():
        result.times[FLOORS[name]] = [seconds * case.moved / bytes_of_call for seconds in result.times[name]]


def rows_of(case: Case, what: str, result: Result, settings: Settings) -> list[dict[str, Any]]:
    """One row for each contestant that is no part of us and is not the raw bandwidth."""
    if OURS not in result.times:
        return []
    hidden = {OURS, TWIN, *FLOORS}
    floor = _floor(case, result)
    return [row(case, what, name, result, settings, GATES, floor) for name in result.times if name not in hidden]


def _floor(case: Case, result: Result) -> dict[str, float]:
    """The bytes at the bandwidth of a copy on this device."""
    if COPY_FLOOR not in result.times:
        return {}
    seconds = result.seconds(COPY_FLOOR)
    return {"seconds": seconds, "bytes_per_parameter": case.bytes_per_parameter, "bandwidth": case.moved / seconds}


def launch_row(case: Case, contestants: Sequence[dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """Kernels per step as the profiler counted them, against one: these lists have one combination of dtypes."""
    ours = next((record.get("launches") for record in contestants if record["name"] == OURS), None)
    known = bool(ours)
    ratio = 1.0 / ours if known else 0.0
    if not settings.judged:
        said = "not judged"
    else:
        said = "unknown" if not known else "pass" if ratio == 1.0 else "MISSED"
    return {
        **head(case, LAUNCHES, ONE_LAUNCH),
        "unit": "launches",
        "ours": ours if known else 0.0,
        "theirs": 1.0,
        "ratio": ratio,
        "quartiles": [ratio, ratio],
        "spread": 0.0,
        "gate": 1.0,
        "verdict": said,
        "clean": 1,
        "rounds": 1,
        "floor": {},
    }
