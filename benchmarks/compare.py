# SPDX-License-Identifier: Apache-2.0
"""Compares two files of results: for each row that both have, the change of our time with its interval.

A time is taken relative to the same rival of the same round, so that a machine's speed cancels. The interval is the
2.5th to the 97.5th percentile of the change over resampled rounds (bootstrap).
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import output
from .markdown import markdown
from .measure import Result
from .peers import OURS
from .render import digits, title_of

RESAMPLED = 1000
LEAST = 0.02  # an interval that ends below this change is never called slower
SAME = ("torch", "processor", "processors", "gpu", "instruction set", "python", "huge pages", "allocator")
Key = tuple[str, str, str]


def ratios(results: dict[str, Any]) -> dict[Key, list[float]]:
    """(case, what, against) -> our time over the rival's, for each clean round. Rows without enough of them are left
    out."""
    races = {(r["case"], r["what"]): r for r in results["races"]}
    found: dict[Key, list[float]] = {}
    for row in results["rows"]:
        stored = races.get((row["case"], row["what"]))
        if stored is None or row["verdict"] in ("disturbed", "not judged") or row["against"] not in stored["times"]:
            continue
        result = Result(**{name: stored[name] for name in ("times", "calls", "foreign", "limits") if name in stored})
        ours, theirs = result.times[OURS], result.times[row["against"]]
        found[row["case"], row["what"], row["against"]] = [ours[i] / theirs[i] for i in result.clean]
    return found


def change(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """Lower end, median and upper end of the relative change of the medians. The same numbers give the same interval.

    >>> change([1.0, 1.0, 1.0], [1.5, 1.5, 1.5])
    (0.5, 0.5, 0.5)
    """
    draw = random.Random(0)

    def median_of(values: Sequence[float]) -> float:
        return statistics.median(draw.choices(values, k=len(values)))

    drawn = sorted(median_of(after) / median_of(before) - 1.0 for _ in range(RESAMPLED))
    low, high = drawn[int(0.025 * RESAMPLED)], drawn[int(0.975 * RESAMPLED) - 1]
    return low, statistics.median(after) / statistics.median(before) - 1.0, high


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between the two machines. Times may differ for that reason alone."""
    pairs = ((name, before.get(name), after.get(name)) for name in SAME)
    return [f"{name}: {a} and {b}" for name, a, b in pairs if a is not None and b is not None and a != b]


def report(before: dict[str, Any], after: dict[str, Any]) -> tuple[list[str], int]:
    """Lines to print, and the exit code: 1 if an interval lies above LEAST, 2 if the files have no row in common."""
    old, new = ratios(before), ratios(after)
    common = [key for key in old if key in new]
    if not common:
        return ["The two files have no measurement in common."], 2
    titles = {row["case"]: title_of(row) for row in after["rows"]}
    lines, slower = [], 0
    for key in common:
        low, middle, high = change(old[key], new[key])
        slower += low > LEAST
        times = [digits(statistics.median(found[key])) for found in (old, new)]
        texts = [f"{middle:+.1%}", f"{low:+.1%} to {high:+.1%}", "slower" if low > LEAST else ""]
        lines.append([titles[key[0]], *key[1:], *times, *texts])
    columns = ("model", "what", "against"), ("before", "after", "change", "interval"), ("",)
    sides = [(name, side) for names, side in zip(columns, "<><", strict=True) for name in names]
    warnings = [f"warning: not the same machine: {line}" for line in differences(before["machine"], after["machine"])]
    return [*warnings, markdown(sides, lines), f"{slower} of {len(common)} slower."], 1 if slower else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 if nothing got slower, 1 if something did, 2 if the files cannot be compared."""
    parser = argparse.ArgumentParser(prog="python -m fusedsched bench compare", description=__doc__)
    parser.add_argument("before", type=Path, metavar="A.json")
    parser.add_argument("after", type=Path, metavar="B.json")
    args = parser.parse_args(argv)
    try:
        lines, code = report(output.read_results(args.before), output.read_results(args.after))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return code
