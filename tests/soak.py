# SPDX-License-Identifier: Apache-2.0
"""Long runs of the random programs of memory, the fuzzers and the sanitizers: `make soak`. Prints counts and minutes.

Each part runs in processes of its own, so that one that ends early is told from one that finds something; then its last
seed is on its last line. `--share 0.01` runs a hundredth, `--only memory` one part.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import sanitizers

HERE = Path(__file__).parent
LENGTH = 40  # actions of a program of memory
# Programs of each backend: together 1,000,000 actions. Interpreted steps take a hundred times as long.
PROGRAMS = {"cpu": 15_000, "reference": 9_000, "cuda": 900, "triton": 100}
# Inputs of each fuzzer: together 1,000,000.
INPUTS = {
    "expression": 330_000, "schedule_json": 330_000, "program_table": 240_000, "scheduler_state": 80_000,
    "optimizer_state": 20_000,
}  # fmt: skip
CHUNKS, LEAST = 8, 50  # processes of each row, cases of each: a seed that ends its process leaves the others


def run(arguments):
    """A process. Returns what it printed, and whether it came to its end and found nothing."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE.parent}:{HERE}"}
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment)
    last = done.stdout.strip().splitlines()[-1:] or [""]
    fine = done.returncode == 0 and re.search(r"\b0 (programs differ|wrong)", last[0]) is not None
    where = "" if done.returncode == 0 else f"ended with {done.returncode} in {done.stderr.splitlines()[-1:]}\n"
    return (last[0] if fine else where + done.stdout), fine


def chunks(script, before, count, after):
    n = max(1, min(CHUNKS, count // LEAST))
    ends = [count * i // n for i in range(n + 1)]
    return [[HERE / script, *before, a, b, *after] for a, b in zip(ends, ends[1:], strict=False) if a < b]


def rows(share):
    """(part, row, processes)"""
    for backend, count in PROGRAMS.items():
        yield "memory", f"programs of memory, {backend}", chunks("memory_runs.py", [], int(count * share), [backend])
    for fuzzer, count in INPUTS.items():
        yield "fuzzers", fuzzer, chunks("fuzzing.py", [fuzzer], int(count * share), [])


def number_of(text):
    """Actions or inputs that a process counted."""
    found = re.search(r"(\d+) (actions|inputs)", text)
    return int(found[1]) if found else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of all cases (default: 1)")
    parser.add_argument("--only", choices=("memory", "fuzzers", "sanitizers"))
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    chosen, bad = parser.parse_args(), 0
    for part, row, processes in rows(chosen.share):
        if chosen.only not in (None, part):
            continue
        begin = time.monotonic()
        with ThreadPoolExecutor(chosen.jobs) as pool:
            results = list(pool.map(run, processes))
        minutes, wrong = (time.monotonic() - begin) / 60, [text for text, fine in results if not fine]
        count = sum(number_of(text) for text, _ in results)
        print(f"{row}: {count:,} cases in {minutes:.1f} minutes, {len(wrong)} processes found something", flush=True)
        for text in wrong:
            bad += 1
            print(text[-3000:])
    if chosen.only in (None, "sanitizers"):
        bad += sanitizers.run()
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
