# SPDX-License-Identifier: Apache-2.0
"""Measures fusedsched against torch.optim and every other library at hand, and prints tables."""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run as a script: Python searches this folder for modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from benchmarks.bench import main

    raise SystemExit(main())

import torch  # noqa: E402

import fusedsched  # noqa: E402
from fusedsched import _native  # noqa: E402
from fusedsched.command_line import integer, near_names  # noqa: E402
from fusedsched.files import check_writable, make_folder, write_json  # noqa: E402
from fusedsched.progress import progress  # noqa: E402

from . import compare, counts, machine, output, plain_copy, render, starting  # noqa: E402
from .cases import CASES, GPU_CASES, OPTIMIZERS, SIZES, Case, shrunk, variants  # noqa: E402
from .measure import FULL, QUICK, SMOKE, Settings  # noqa: E402
from .races import run_case  # noqa: E402

STARTING = 6.0  # seconds, about, for the processes that import
BACKENDS = ("auto", "cpu", "reference", "cuda", "triton")
ON_GPU = ("cuda", "triton")
OTHERS = {"compare": compare.main, "counts": counts.main}
EXAMPLES = """\
examples:
  python -m fusedsched bench --quick
  python -m fusedsched bench --case resnet50 --optimizer adamw --optimizer sgd --dtype bfloat16
  python -m fusedsched bench --backend cuda --json gpu.json
  python -m fusedsched bench compare before.json after.json
  python -m fusedsched bench counts

cases: {cases}
for --backend cuda and triton: {gpu_cases}

'bench compare' compares two files, 'bench counts' counts graphs, launches and waits; both have a --help. Run nothing
else meanwhile.

exit codes: 0 measured; 1 fusedsched failed in a case, or with --strict a gate was not passed; 2 nothing to measure,
wrong arguments, or the results cannot be written
"""


def measure(cases: Sequence[Case], settings: Settings, save: output.Save = output.ignore) -> dict[str, Any]:
    """Runs the cases on the CPU and saves after each. The results are plain data; `races` holds every round."""
    results: dict[str, Any] = {"machine": machine.facts(), "settings": asdict(settings), "device": "cpu"}
    results.update(rows=[], races=[], contestants=[], skipped=[], starting={})
    begin, expected = time.perf_counter(), [STARTING, *(seconds_for(case, settings) for case in cases)]
    with progress(sum(expected)) as show:
        show(0.0, "importing, in fresh processes")
        if settings.judged:
            results["starting"] = starting.measure(3 if settings.thorough else 1)
        for library in (fusedsched, torch.optim):  # the first optimizer of a process imports modules; measured above
            library.AdamW([torch.zeros(1, requires_grad=True)])
        for i, case in enumerate(cases):
            show(sum(expected[: i + 1]), case.name)
            late = time.perf_counter() - begin > settings.budget
            patience = replace(settings, seconds=0.0) if late else settings
            for name, records in run_case(case if settings.judged else shrunk(case), patience).items():
                results[name] += records
            note(results, begin)
            save(results)
        names = [case.name for case in cases]
        for case in disturbed(cases, results["rows"]) if settings.thorough else []:
            show(sum(expected), f"{case.name} again: other processes disturbed it")
            for name, records in run_case(case, settings).items():
                found = [record for record in results[name] if record["case"] != case.name] + records
                results[name] = sorted(found, key=lambda record: names.index(record["case"]))
            note(results, begin)
            save(results)
    return results


def note(results: dict[str, Any], begin: float) -> None:
    """Updates the totals after a case."""
    results["seconds"] = time.perf_counter() - begin
    results["best_copy"] = plain_copy.COPIED / plain_copy.shortest()  # bytes per second; 0 if none was made


def disturbed(cases: Sequence[Case], rows: Sequence[dict[str, Any]]) -> list[Case]:
    """The cases with too few clean rounds for a verdict."""
    names = {row["case"] for row in rows if row["verdict"] == "disturbed"}
    return [case for case in cases if case.name in names]


def seconds_for(case: Case, settings: Settings) -> float:
    """The estimated time of a case on an idle machine: rounds of all contestants, and allocation of the arrays."""
    if not settings.judged:
        return 0.1
    contestants, preparing = 5 if settings.thorough else 4, 1.0 + 4.0 * case.footprint / 2**30
    return contestants * (preparing / 2 + case.races * settings.slice * (settings.rounds + 3))


def announce(cases: Sequence[Case], settings: Settings) -> str:
    """The line before the run: how many cases, and the estimated time."""
    seconds = STARTING + sum(seconds_for(case, settings) for case in cases) if settings.judged else 10.0
    about = f"{seconds / 60:.0f} minutes" if seconds >= 120.0 else f"{10 * math.ceil(seconds / 10):.0f} seconds"
    return f"{len(cases)} cases, about {about} on an idle machine"


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m fusedsched bench",
        description=__doc__,
        epilog=EXAMPLES.format(cases=", ".join(CASES), gpu_cases=", ".join(GPU_CASES)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("--quick", action="store_true", help="fewer, shorter rounds and no big lists: at most about two minutes")
    add("--smoke", action="store_true", help="tiny sizes, one round, no verdict: only checks that it runs")
    add("--case", action="append", metavar="NAME", help="one of the cases below; may be repeated, as the next three")
    add("--optimizer", action="append", choices=OPTIMIZERS, help="instead of what the case has")
    add("--dtype", action="append", choices=SIZES, help="instead of what the case has")
    add("--backend", action="append", choices=BACKENDS, help="of fusedsched; cuda and triton measure on the GPU")
    add("--compile-tensors", type=integer(0), metavar="N", help="compile lists of up to N tensors (default 30)")
    add("--json", type=Path, metavar="FILE", help="write the results there, every round of them")
    add("--strict", action="store_true", help="exit with 1 unless every gate was passed")
    return found


def chosen(args: argparse.Namespace, command: argparse.ArgumentParser) -> tuple[list[Case], bool]:
    """The cases to run, and whether on the GPU."""
    backends = args.backend or []
    on_gpu = any(name in ON_GPU for name in backends)
    if on_gpu and not all(name in ON_GPU for name in backends):
        command.error("--backend cuda and triton measure on the GPU, the others on the CPU: one kind at a time")
    table = GPU_CASES if on_gpu else CASES
    unknown = [name for name in args.case or [] if name not in table]
    if unknown:
        where = "on the GPU" if on_gpu else "on the CPU"
        command.error(f"--case {unknown[0]}: there is no such case {where}. {near_names(unknown[0], table)}")
    names = args.case or [name for name, case in table.items() if not (args.quick and case.slow)]
    cases = [table[name] for name in names]
    return variants(cases, args.optimizer or [], args.dtype or [], backends), on_gpu


def refusal(args: argparse.Namespace, on_gpu: bool) -> str | None:
    """Why nothing can be measured or written; None if it can."""
    if _native.module() is None and not on_gpu and args.backend != ["reference"]:
        return f"Nothing to measure: there is no compiled extension. {_native.reason()}"
    if on_gpu:
        from . import gpu

        if (reason := gpu.reason(args.backend)) is not None:
            return f"Nothing to measure: {reason}"
    try:
        if args.json is not None:
            make_folder(args.json.parent)
            check_writable(args.json)
    except OSError as error:
        return str(error)
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 even if a gate is missed, unless --strict is given; 2 if there is nothing to measure."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in OTHERS:
        return OTHERS[argv[0]](argv[1:])
    command = parser()
    args = command.parse_args(argv)
    cases, on_gpu = chosen(args, command)
    if (reason := refusal(args, on_gpu)) is not None:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    settings = SMOKE if args.smoke else QUICK if args.quick else FULL
    if args.compile_tensors is not None:
        settings = replace(settings, compiled_tensors=args.compile_tensors)
    # Saved after each case, so that an interrupted run keeps its results.
    save = partial(write_json, args.json) if args.json else output.ignore
    print(announce(cases, settings), file=sys.stderr)
    if on_gpu:
        from . import gpu

        results = gpu.measure(cases, settings, save)
    else:
        results = measure(cases, settings, save)
    print(render.render(results))
    failed = any(record["why"].startswith("FAILED") for record in results["skipped"])
    if failed:
        return 1
    passed = all(row["verdict"] == "pass" for row in results["rows"] if row["gate"] is not None)
    return 1 if args.strict and not passed else 0


if __name__ == "__main__":
    raise SystemExit(main())
