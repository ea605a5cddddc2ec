# SPDX-License-Identifier: Apache-2.0
"""The benchmark on a GPU: `python -m fusedsched bench --backend cuda`, or `make bench-gpu`. README.md says what is read
how. The figures of a machine are those that it measured: nothing here is computed in their place."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any

import torch

from fusedsched.progress import progress

from . import gpu_clock, gpu_memory, launches, machine
from .cases import Case, shrunk
from .gpu_rows import COLD, DEVICE, EAGER, GOALS, HOST_TIME, TWIN, head, launch_row, rows_of, with_ceilings
from .gpu_sides import CONSTANT, Arrays, GpuSide, build, disagreement, fitted
from .measure import Contestant, Result, Settings, race
from .output import Save, ignore
from .peers import OURS, PEERS, first_line

ROUNDS, QUICK_ROUNDS = 50, 15
PATIENCE, QUICK_PATIENCE = 90.0, 15.0  # seconds for one race
COLD_BELOW = 10  # times the L2 cache: smaller lists are measured with an empty cache too
COLUMNS = {"seconds": EAGER, "host_seconds": HOST_TIME, "replay_seconds": DEVICE, "cold_seconds": COLD}
Found = dict[str, list[dict[str, Any]]]


def reason(backends: Sequence[str]) -> str | None:
    """Why nothing can be measured on a GPU here; None where it can."""
    from fusedsched.runtime.backends import backends as here

    missing = {name: why for name, why in here().items() if name in backends and why is not None}
    for name, why in missing.items():
        return f'backend "{name}": {why}'
    return None if torch.cuda.is_available() else "torch finds no GPU"


def attempt(found: Found, case: Case, name: str, work: Callable[[], Any]) -> Any:
    """What `work` returns; None where it fails, with the reason written down. That ours fails is no matter of taste."""
    try:
        return work()
    except Exception as error:
        why = first_line(error) if name.split(",")[0] != OURS else f"FAILED: {first_line(error)}"
        found["skipped"].append({"case": case.name, "name": name, "why": why})
        return None


def assemble(case: Case, arrays: Arrays, settings: Settings, found: Found) -> dict[str, GpuSide]:
    """Our side first: it must work, and the others share its moments. Then all that can be had."""
    sides = {OURS: build(case, OURS, arrays)}
    for name in (CONSTANT, *PEERS):
        if name == OURS or (not settings.thorough and name in PEERS and PEERS[name].slow_to_start):
            continue
        why = None if name == CONSTANT else PEERS[name].reason(case, "cuda", settings.compiled_tensors)
        if why is not None:
            found["skipped"].append({"case": case.name, "name": name, "why": why})
            continue
        # What fails or differs on a few elements need not be tried on a billion.
        why = attempt(found, case, name, lambda name=name: disagreement(case, name, gpu_clock.PLACE) or "")
        if why:
            found["skipped"].append({"case": case.name, "name": name, "why": why})
        if why == "":
            side = attempt(found, case, name, lambda name=name: build(case, name, arrays, sides[OURS].optimizer))
            if side is not None:
                sides[name] = side
    return sides


def device_races(
    case: Case, sides: dict[str, GpuSide], ceilings: dict[str, gpu_memory.Ceiling], settings: Settings, found: Found
) -> dict[str, Result]:
    """Graph replays of several steps, and of one with an empty cache where the list would fit into it."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    cold = case.footprint < COLD_BELOW * cache
    count = gpu_clock.STEPS_IN_GRAPH
    many: list[Contestant] = []
    one: list[Contestant] = []
    flush = torch.zeros(gpu_clock.FLUSHED_BYTES // 4, dtype=torch.int32, device=gpu_clock.PLACE) if cold else None
    for name, side in sides.items():
        graph = attempt(found, case, f"{name}, graph replay", lambda side=side: gpu_clock.capture(side.step, count))
        if graph is None:
            continue
        many.append(gpu_clock.between_events(name, graph.replay, count))
        if name == OURS:
            many.append(gpu_clock.between_events(TWIN, graph.replay, count))
        if cold:
            single = attempt(found, case, f"{name}, cold", lambda side=side: gpu_clock.capture(side.step, 1))
            if single is not None:
                one.append(gpu_clock.between_events(name, single.replay, 1, flush))
                if name == OURS:
                    one.append(gpu_clock.between_events(TWIN, single.replay, 1, flush))
    many += [gpu_clock.between_events(name, ceiling.four_times, 4) for name, ceiling in ceilings.items()]
    results = {DEVICE: race(many, settings, on_gpu=True)}
    if one:
        results[COLD] = race(one, settings, on_gpu=True)
    return results


def host_races(sides: dict[str, GpuSide], settings: Settings) -> dict[str, Result]:
    """Eager wall time, and the host's part of it."""
    found = {}
    shorter = replace(settings, slice=0.01 if settings.judged else 0.0, rounds=min(settings.rounds, QUICK_ROUNDS))
    for what, timed in ((EAGER, gpu_clock.eager), (HOST_TIME, gpu_clock.on_host)):
        runners = [timed(name, side.whole) for name, side in sides.items()]
        runners.append(timed(TWIN, sides[OURS].whole))
        found[what] = race(runners, shorter)
    return found


def memory_of(side: GpuSide) -> int:
    """Bytes of the state, shared or not, and by how much a step lets the allocated memory grow, at most."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    side.step()
    torch.cuda.synchronize()
    grown = torch.cuda.max_memory_allocated() - before
    state = (value for state in side.optimizer.state.values() for value in state.values())
    return grown + sum(value.nbytes for value in state if torch.is_tensor(value))


def portrait(case: Case, name: str, side: GpuSide, results: dict[str, Result], rate: float, found: Found) -> None:
    """The record of one contestant. `rate`: bytes per second of a copy. Moments count as memory of each of them."""
    record: dict[str, Any] = {key: value for key, value in head(case, "", "").items() if value != ""}
    record.update(backend=getattr(side.optimizer, "backend", "-"), device="cuda", name=name)
    for key, what in COLUMNS.items():
        known = what in results and name in results[what].times
        record[key] = results[what].seconds(name) if known else None
    if record["replay_seconds"] is not None:
        record["share_of_copy"] = case.moved / record["replay_seconds"] / rate
    record.update(attempt(found, case, f"{name}, profiler", lambda: launches.profiled(side.whole)) or {})
    record["peak_bytes"] = attempt(found, case, f"{name}, memory", lambda: memory_of(side))
    record.update(side.facts)
    found["contestants"].append(record)


def run_case(case: Case, settings: Settings) -> Found:
    """`rows`, all rounds (`races`), a record of each contestant, and who did not run, and why.

    Raises what our own side raises: without it there is nothing to compare.
    """
    found: Found = {"rows": [], "races": [], "contestants": [], "skipped": [], "ceilings": []}
    room = gpu_memory.array_bytes(torch.cuda.mem_get_info()[0])
    ceilings = {gpu_memory.COPY: gpu_memory.copying(room)}
    triad = attempt(found, case, gpu_memory.TRIAD, lambda: gpu_memory.triad(room))
    if triad is not None:
        ceilings[gpu_memory.TRIAD] = triad
    free = torch.cuda.mem_get_info()[0]
    scaled = fitted(case, free)
    if scaled is None:
        found["skipped"].append({"case": case.name, "name": "all", "why": f"{free / 2**30:.1f} GiB are not enough"})
        return found
    case = scaled
    arrays = Arrays(case, gpu_clock.PLACE)
    sides = assemble(case, arrays, settings, found)
    results = device_races(case, sides, ceilings, settings, found)
    device = results[DEVICE]
    rates = {name: ceiling.moved / device.seconds(name) for name, ceiling in ceilings.items()}
    found["ceilings"].append({"case": case.name, **rates})
    results.update(host_races(sides, settings))
    for name, side in sides.items():
        portrait(case, name, side, results, rates[gpu_memory.COPY], found)
    found["races"] = [{"case": case.name, "what": what, **vars(result)} for what, result in results.items()]
    with_ceilings(case, device, {name: ceiling.moved for name, ceiling in ceilings.items()})
    for what, result in results.items():
        for goal, seconds in GOALS.get((case.name, what), {}).items():
            result.times[goal] = [seconds] * len(result.foreign)
        found["rows"] += rows_of(case, what, result, settings)
    found["rows"].append(launch_row(case, found["contestants"], settings))
    if not all(bool(p.isfinite().all()) for p in arrays.params):
        raise RuntimeError(f"{case.name}: the parameters are not finite after the races: their speed means nothing.")
    return found


def measure(cases: Sequence[Case], settings: Settings, save: Save = ignore) -> dict[str, Any]:
    """Runs the cases, and saves after each. One in which our side fails is shown with the error; the others go on."""
    rounds, patience = (ROUNDS, PATIENCE) if settings.thorough else (QUICK_ROUNDS, QUICK_PATIENCE)
    rounds = rounds if settings.judged else 1
    settings = replace(settings, rounds=rounds, attempts=max(rounds, 2 * rounds - 1), seconds=patience, slice=0.0)
    results: dict[str, Any] = {"machine": machine.facts(), "settings": asdict(settings), "device": "cuda"}
    results.update(rows=[], races=[], contestants=[], skipped=[], by_case=[])
    begin, before = time.perf_counter(), gpu_clock.clocks()
    with progress(len(cases), lines=0) as show:
        for done, case in enumerate(cases):
            show(done, case.name)
            try:
                found = run_case(case if settings.judged else shrunk(case), settings)
            except Exception as error:
                results["skipped"].append({"case": case.name, "name": OURS, "why": f"FAILED: {first_line(error)}"})
            else:
                results["by_case"] += found.pop("ceilings")
                for name, records in found.items():
                    results[name] += records
            torch.compiler.reset()  # it holds on to what it compiled, arrays included
            gc.collect()
            torch.cuda.empty_cache()
            results["ceilings"] = middle(results["by_case"])
            results["clocks"] = f"before: {before}; after: {gpu_clock.clocks()}"
            results["seconds"] = time.perf_counter() - begin
            save(results)
    return results


def middle(by_case: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The median bandwidth of each ceiling over the cases."""
    names = (gpu_memory.COPY, gpu_memory.TRIAD)
    rates = {name: [record[name] for record in by_case if name in record] for name in names}
    return {name: median(found) for name, found in rates.items() if found}
