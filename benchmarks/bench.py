# SPDX-License-Identifier: Apache-2.0
"""Measures fusedsched against torch.optim and prints one table: `python benchmarks/bench.py [--quick]`."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Run as a script, Python looks for modules in this folder; they are the package above it.
ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from benchmarks import machine, render  # noqa: E402
from benchmarks.cases import CASES, shrunk  # noqa: E402
from benchmarks.measure import FULL, QUICK, SMOKE, Settings  # noqa: E402
from benchmarks.races import run_case  # noqa: E402
from fusedsched import _native  # noqa: E402


def measure(names: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Runs the named cases. The results are plain data; `races` holds every round."""
    results: dict[str, Any] = {"machine": machine.facts(), "settings": asdict(settings), "rows": [], "races": []}
    begin = time.perf_counter()
    for name in names:
        print(f"{time.perf_counter() - begin:6.1f} s  {name}", file=sys.stderr, flush=True)
        rows, races = run_case(CASES[name] if settings.judged else shrunk(CASES[name]), settings)
        results["rows"] += rows
        results["races"] += races
    results["seconds"] = time.perf_counter() - begin
    return results


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/bench.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: about two minutes")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round, no verdict: does it run at all?")
    parser.add_argument("--case", action="append", choices=CASES, metavar="NAME", help=f"one of {', '.join(CASES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, every round of them")
    parser.add_argument("--strict", action="store_true", help="exit with 1 unless every gate was passed")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 also where a gate is missed, unless --strict asks for 1; 2 where there is nothing to measure."""
    args = arguments(argv)
    if _native.module() is None:
        print(f"Nothing to measure: there is no compiled extension. {_native.reason()}", file=sys.stderr)
        return 2
    settings = SMOKE if args.smoke else QUICK if args.quick else FULL
    results = measure(args.case or list(CASES), settings)
    print(render.render(results))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    passed = all(row["verdict"] == "pass" for row in results["rows"] if row["gate"] is not None)
    return 1 if args.strict and not passed else 0


if __name__ == "__main__":
    raise SystemExit(main())
