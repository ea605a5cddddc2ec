# SPDX-License-Identifier: Apache-2.0
"""Two files of results: what got slower, beyond what either of them could resolve."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from . import output
from .render import amount, size, title_of

LEAST = 0.02  # a change below this is never called one
NOISES = 2.0  # how many times the spread of the two files a change has to be
MEMORY = 0.05  # by which peak memory may grow
SAME = ("processor", "processors", "gpu", "instruction set", "python", "huge pages", "allocator")

Row = dict[str, Any]


def by_key(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, Row]]:
    """Rows by case and by what is measured, then by whom they are compared with."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row["case"], row["what"]), {})[row["against"]] = row
    return found


def noise(row: Row) -> float:
    """What a row could not resolve: the spread of ourselves against ourselves, or that of its ratio, half of it each.

    >>> noise({"spread": 0.01, "ratio": 2.0, "quartiles": [1.9, 2.04]})
    0.035
    """
    low, high = row["quartiles"]
    return max(row["spread"], round((high - low) / (2 * row["ratio"]), 12))


def slowdown(before: Row, after: Row, same_rivals: bool) -> float:
    """By how much we got slower: against the same rival where it is the same, else in seconds. 0.1: a tenth.

    >>> slowdown({"ratio": 2.0, "ours": 1.0}, {"ratio": 1.6, "ours": 1.0}, True)
    0.25
    >>> slowdown({"ratio": 2.0, "ours": 1.0}, {"ratio": 1.6, "ours": 1.0}, False)
    0.0
    """
    if same_rivals:
        return before["ratio"] / after["ratio"] - 1.0
    return after["ours"] / before["ours"] - 1.0


def judge(before: dict[str, Row], after: dict[str, Row], same_rivals: bool) -> tuple[str, float, float]:
    """The verdict on one thing that is measured, its slow-down and the noise.

    Rivals have noise too. The steadiest of them is the judge, and most of the others have to agree in the sign.
    """
    names = [name for name in before if name in after]
    pairs = [(before[name], after[name]) for name in names]
    if any(row["verdict"] in ("disturbed", "not judged", "unknown") for pair in pairs for row in pair):
        return "not comparable", 0.0, 0.0
    changes = [slowdown(a, b, same_rivals) for a, b in pairs]
    noises = [max(noise(a), noise(b)) for a, b in pairs]
    change, limit = changes[noises.index(min(noises))], max(LEAST, NOISES * min(noises))
    if change > limit and median(changes) > 0.0:
        return "SLOWER", change, limit
    if change < -limit / (1.0 + limit) and median(changes) < 0.0:
        return "faster", change, limit
    return "same", change, limit


def grown(before: Sequence[Row], after: Sequence[Row]) -> list[str]:
    """What our side needs more of: launches, waits, memory. Launches are exact; memory is allowed a little."""
    old = {(r["case"], r["name"]): r for r in before if r["name"].startswith("fusedsched")}
    found = []
    for record in after:
        earlier = old.get((record["case"], record["name"]))
        if earlier is None:
            continue
        for key, words in (("launches", "launches per step"), ("syncs", "waits per step")):
            a, b = earlier.get(key), record.get(key)
            if a is not None and b is not None and b > a:
                found.append(f"{title_of(record)}, {record['name']}: {b:g} {words}, {a:g} before")
        a, b = earlier.get("peak_bytes"), record.get("peak_bytes")
        if a is not None and b is not None and b > (1.0 + MEMORY) * a + 2**20:
            found.append(f"{title_of(record)}, {record['name']}: peak memory {size(b)}, {size(a)} before")
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """In what the machines of two files differ: then times may differ for that reason alone."""
    pairs = ((name, before.get(name), after.get(name)) for name in SAME)
    return [f"{name}: {a} and {b}" for name, a, b in pairs if a is not None and b is not None and a != b]


def report(before: dict[str, Any], after: dict[str, Any]) -> tuple[list[str], int]:
    """Lines to print, and the exit code: 1 if anything got slower, 2 if there is nothing in common."""
    old, new = by_key(before["rows"]), by_key(after["rows"])
    common = [key for key in old if key in new and old[key].keys() & new[key].keys()]
    if not common:
        return ["The two files have no measurement in common."], 2
    same_rivals = before["machine"]["torch"] == after["machine"]["torch"]
    lines = [f"warning: not the same machine: {line}" for line in differences(before["machine"], after["machine"])]
    yardstick = "the same rivals in the same run" if same_rivals else "the clock, since torch is another version"
    lines.append(f"{len(common)} measurements, judged by {yardstick}.")
    counts: dict[str, int] = {}
    for key in common:
        verdict, change, limit = judge(old[key], new[key], same_rivals)
        counts[verdict] = counts.get(verdict, 0) + 1
        if verdict in ("SLOWER", "faster"):
            shared = next(name for name in old[key] if name in new[key])
            a, b = old[key][shared], new[key][shared]
            unit = a.get("unit", "s")
            times = f"{amount(a['ours'], unit)} -> {amount(b['ours'], unit)}"
            lines.append(f"{verdict}  {title_of(b)}, {key[1]}: {times}, {change:+.1%}; noise up to {limit:.1%}")
    more = grown(before.get("contestants", []), after.get("contestants", []))
    lines += [f"MORE  {line}" for line in more]
    lines.append(", ".join(f"{count} {verdict.lower()}" for verdict, count in sorted(counts.items())) + ".")
    return lines, 1 if counts.get("SLOWER") or more else 0


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
