# SPDX-License-Identifier: Apache-2.0
"""The benchmark on a GPU: `python -m fusedsched bench --backend cuda`, or `make bench-gpu`.

Device time: a CUDA graph of several steps is replayed between two events. A sleeping kernel keeps the GPU busy before
the first event, so that the time in which the host launches the graph is not measured.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from time import perf_counter
from typing import Any

import torch

from fusedsched.progress import progress

from . import launches, machine
from .cases import Case, shrunk
from .lists import llama3_8b_within, numel
from .measure import Contestant, Result, Settings, race
from .output import Save, ignore
from .peers import CAPTURABLE, FUSED, OURS, PEERS, first_line
from .races import TWIN, head, portraits, rivals, row
from .sides import Side, assemble, build, check_finite

DEVICE, HOST_TIME = "device time, graph replay", "host time of step + schedule"
EAGER = "eager step + schedule"
LAUNCHES, ONE_LAUNCH = "launches per step", "one per combination of dtypes"
CONSTANT, COPY, COPY_FLOOR = "fusedsched, constant lr", "device-to-device copy", "bytes at copy bandwidth"
PLACE = "cuda"  # torch's name for the GPU; tests without one replace it
ROUNDS, QUICK_ROUNDS = 50, 15
PATIENCE, QUICK_PATIENCE = 90.0, 15.0  # seconds for one race
STEPS_IN_GRAPH = 10
COVER_CYCLES = 10_000_000  # about five milliseconds: longer than the host takes to launch a graph
COPIED = 2**28  # bytes of the array that is copied

# Upper bounds on a time, as contestants that always take that long.
GOAL_DEVICE, GOAL_HOST = "goal: 20 us", "goal: 200 us"
GOALS = {("small-2000", DEVICE): {GOAL_DEVICE: 20e-6}, ("small-2000", HOST_TIME): {GOAL_HOST: 200e-6}}

# (case, what, against): the least ratio. Other rows are reported and not judged.
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
Found = dict[str, list[dict[str, Any]]]


def reason(backends: Sequence[str]) -> str | None:
    """Why nothing can be measured on a GPU here; None if it can."""
    from fusedsched.runtime.backends import backends as here

    missing = {name: why for name, why in here().items() if name in backends and why is not None}
    for name, why in missing.items():
        return f'backend "{name}": {why}'
    return None if torch.cuda.is_available() else "torch finds no GPU"


def fitted(case: Case, free: int, contestants: int) -> Case | None:
    """The case, or a smaller one if so many contestants do not fit into so many bytes; None if none fits.

    >>> from .cases import GPU_CASES
    >>> small = fitted(GPU_CASES["llama3-8b-bf16"], 120 * 2**30, 5)
    >>> len(small.shapes), small.title
    (291, 'Llama 3 8B, widths / 2, 291 tensors')
    """
    copies = contestants + 1  # some implementations need temporaries as large as their arrays
    if case.footprint * copies <= free:
        return case
    most = free // copies // (case.footprint // numel(case.shapes))
    if case.name.startswith("llama3-8b"):
        divisor, shapes = llama3_8b_within(most)
        title = f"Llama 3 8B, widths / {divisor}, 291 tensors"
        return replace(case, shapes=shapes, title=title) if numel(shapes) <= most else None
    if len(case.shapes) == 1 and most >= 10**6:
        count = most // 10**6 * 10**6
        return replace(case, shapes=((count,),), title=f"1 x {count // 10**6}M")
    return None


def capture(step: Callable[[], object], count: int) -> Any:
    """A CUDA graph of so many steps. Raises what `step` or the capture raises."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # CUDA wants a run on a side stream before a capture
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            step()
    torch.cuda.synchronize()
    return graph


def between_events(name: str, work: Callable[[], object], count: int) -> Contestant:
    """Seconds on the GPU for one of the `count` parts of `work`."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def run(calls: int) -> float:
        milliseconds = 0.0
        for _ in range(calls):
            torch.cuda._sleep(COVER_CYCLES)
            begin.record()
            work()
            end.record()
            end.synchronize()
            milliseconds += begin.elapsed_time(end)
        return 1e-3 * milliseconds / (calls * count)

    return Contestant(name, run)


def on_host(name: str, side: Side, each: bool) -> Contestant:
    """Wall time of a step with its schedule. `each`: waits for the GPU after each, so that the host's part is timed."""

    def run(calls: int) -> float:
        seconds = 0.0
        for _ in range(1 if not each else calls):
            torch.cuda.synchronize()
            begin = perf_counter()
            for _ in range(calls if not each else 1):
                side.step()
                side.scheduler.step()
            if not each:
                torch.cuda.synchronize()
            seconds += perf_counter() - begin
        torch.cuda.synchronize()
        return seconds / calls

    return Contestant(name, run)


def device_race(case: Case, sides: dict[str, Side], settings: Settings, found: Found) -> Result:
    """Replays of captured steps and a copy, and what the bytes of a step take at that copy's bandwidth."""
    source = torch.ones(COPIED // 4, device=PLACE)
    target, runners = torch.zeros_like(source), []
    for name, side in {**sides, CONSTANT: build(case, OURS, PLACE), TWIN: sides[OURS]}.items():
        try:
            graph = capture(side.step, STEPS_IN_GRAPH)
        except Exception as error:
            why = f"FAILED: {first_line(error)}" if name in (OURS, CONSTANT, TWIN) else first_line(error)
            found["skipped"].append({"case": case.name, "name": f"{name}, graph replay", "why": why})
        else:
            runners.append(between_events(name, graph.replay, STEPS_IN_GRAPH))
    runners.append(between_events(COPY, lambda: [target.copy_(source) for _ in range(4)], 4))
    result = race(runners, settings, on_gpu=True)
    result.times[COPY_FLOOR] = [seconds * case.moved / (2 * COPIED) for seconds in result.times[COPY]]
    return result


def launch_row(case: Case, counted: float, settings: Settings) -> dict[str, Any]:
    """Kernels per step as the profiler counted them, against one: each list has one combination of dtypes."""
    ratio = 1.0 / counted if counted else 0.0
    verdict = "unknown" if not counted else "pass" if ratio == 1.0 else "MISSED"
    return {
        **head(case, LAUNCHES, ONE_LAUNCH),
        **dict(unit="launches", ours=counted, theirs=1.0, ratio=ratio, quartiles=[ratio, ratio], spread=0.0, gate=1.0),
        **dict(verdict=verdict if settings.judged else "not judged", clean=1, rounds=1, floor={}),
    }


def rows_of(case: Case, what: str, result: Result, settings: Settings) -> list[dict[str, Any]]:
    """One row for each contestant that is neither ours nor the raw copy. The floor is the time of the copied bytes."""
    if OURS not in result.times:
        return []
    for goal, seconds in GOALS.get((case.name, what), {}).items():
        result.times[goal] = [seconds] * len(result.foreign)
    floor = {}
    if COPY_FLOOR in result.times:
        seconds = result.seconds(COPY_FLOOR)
        floor = dict(seconds=seconds, bytes_per_parameter=case.bytes_per_parameter, bandwidth=case.moved / seconds)
    names = [name for name in result.times if name not in (OURS, TWIN, COPY)]
    return [row(case, what, name, result, settings, GATES, floor) for name in names]


def run_case(case: Case, settings: Settings) -> Found:
    """`rows`, all rounds (`races`), a record of each contestant, and why others are missing.

    Raises what our own side raises: without it there is nothing to compare.
    """
    found: Found = {"rows": [], "races": [], "contestants": [], "skipped": []}
    names = rivals(case, settings)
    free = torch.cuda.mem_get_info()[0]
    scaled = fitted(case, free, 1 + sum(PEERS[name].reason(case, "cuda") is None for name in names))
    if scaled is None:
        found["skipped"].append({"case": case.name, "name": "all", "why": f"{free / 2**30:.1f} GiB are not enough"})
        return found
    sides, skipped = assemble(scaled, names, settings.compiled_tensors, PLACE)
    found["skipped"] = [{"case": case.name, "name": name, "why": why} for name, why in skipped.items()]
    sides[OURS] = build(scaled, OURS, PLACE, native=True)  # agreement was checked with the same lr; the kernel's now
    shorter = replace(settings, slice=0.01 if settings.judged else 0.0, rounds=min(settings.rounds, QUICK_ROUNDS))
    results = {DEVICE: device_race(scaled, sides, settings, found)}
    for what, each in ((EAGER, False), (HOST_TIME, True)):
        timed = [on_host(name, side, each) for name, side in {**sides, TWIN: sides[OURS]}.items()]
        results[what] = race(timed, shorter)
    host = {name: results[HOST_TIME].seconds(name) for name in sides}
    counted = 0.0
    for record in portraits(scaled, sides, results[EAGER], host, "cuda"):
        times, name = results[DEVICE], record["name"]
        record["replay_seconds"] = times.seconds(name) if name in times.times else None
        record.update(launches.profiled(partial(_whole, sides[name])))
        counted = record["launches"] if name == OURS else counted
        found["contestants"].append(record)
    for what, result in results.items():
        found["races"].append({"case": case.name, "what": what, **vars(result)})
        found["rows"] += rows_of(scaled, what, result, settings)
    found["rows"].append(launch_row(scaled, counted, settings))
    check_finite(scaled, sides)
    return found


def _whole(side: Side) -> None:
    side.step()
    side.scheduler.step()


def measure(cases: Sequence[Case], settings: Settings, save: Save = ignore) -> dict[str, Any]:
    """Runs the cases, and saves after each. One in which our side fails is shown with the error; the others go on."""
    rounds, patience = (ROUNDS, PATIENCE) if settings.thorough else (QUICK_ROUNDS, QUICK_PATIENCE)
    rounds = rounds if settings.judged else 1
    settings = replace(settings, rounds=rounds, attempts=max(rounds, 2 * rounds - 1), seconds=patience, slice=0.0)
    results: dict[str, Any] = {"machine": machine.facts(), "settings": asdict(settings), "device": "cuda"}
    results.update(rows=[], races=[], contestants=[], skipped=[])
    begin = time.perf_counter()
    with progress(len(cases)) as show:
        for done, case in enumerate(cases):
            show(done, case.name)
            try:
                found = run_case(case if settings.judged else shrunk(case), settings)
            except Exception as error:
                results["skipped"].append({"case": case.name, "name": OURS, "why": f"FAILED: {first_line(error)}"})
            else:
                for name, records in found.items():
                    results[name] += records
            torch.compiler.reset()  # it holds what it compiled, arrays included
            gc.collect()
            torch.cuda.empty_cache()
            results["seconds"] = time.perf_counter() - begin
            save(results)
    return results
