# SPDX-License-Identifier: Apache-2.0
"""Turns a file of results into the table that documents show: `python benchmarks/render.py FILE [--short]`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLUMNS = (
    ("model", "<"), ("what", "<"), ("against", "<"), ("threads", ">"), ("fusedsched", ">"), ("other", ">"),
    ("ratio", ">"), ("quartiles", ">"), ("A/A", ">"), ("gate", ">"), ("verdict", "<"), ("clean rounds", ">"),
    ("floor", "<"),
)  # fmt: skip
SHORT = ("model", "what", "against", "fusedsched", "other", "ratio", "gate", "verdict")


def duration(seconds: float) -> str:
    """Three digits and a unit.

    >>> duration(0.03072), duration(1.05e-5), duration(0.000912)
    ('30.7 ms', '10.5 us', '912 us')
    """
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{digits(seconds / scale)} {unit}"
    return f"{digits(seconds / 1e-6)} us"


def digits(value: float) -> str:
    """At least three significant digits, no exponent.

    >>> digits(93.14), digits(1.1449), digits(1204.2), digits(0.97), digits(0.0251)
    ('93.1', '1.14', '1,204', '0.970', '0.0251')
    """
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 1:
        return f"{value:.{2 if value < 10 else 1}f}"
    return f"{value:.3f}" if value >= 0.1 else f"{value:.3g}"


def floor_text(floor: dict[str, float]) -> str:
    """The floor of a row, with where it comes from.

    >>> floor_text({"seconds": 0.0265, "bytes_per_parameter": 28, "bandwidth": 5.4e10})
    '26.5 ms (28 B/param at 54.0 GB/s)'
    """
    if "seconds" in floor:
        bandwidth = digits(floor["bandwidth"] / 1e9)
        return f"{duration(floor['seconds'])} ({floor['bytes_per_parameter']} B/param at {bandwidth} GB/s)"
    if "seconds_per_tensor" in floor:
        return f"{floor['seconds_per_tensor'] * 1e6:.3f} us per tensor"
    return "-"


def cells(row: dict[str, Any]) -> list[str]:
    """The texts of one row, in the order of COLUMNS."""
    low, high = row["quartiles"]
    return [
        row["title"] + (" bf16" if row["dtype"] == "bfloat16" else ""),
        row["what"],
        row["against"],
        str(row["threads"]),
        duration(row["ours"]),
        duration(row["theirs"]),
        digits(row["ratio"]),
        f"{digits(low)} to {digits(high)}",
        f"{100 * row['spread']:.1f} %",
        "-" if row["gate"] is None else f"{row['gate']:g}",
        row["verdict"],
        f"{row['clean']}/{row['rounds']}",
        floor_text(row["floor"]),
    ]


def table(rows: Sequence[dict[str, Any]], short: bool = False) -> str:
    """A Markdown table whose columns line up as plain text too."""
    kept = [i for i, (name, _) in enumerate(COLUMNS) if not short or name in SHORT]
    lines = [[line[i] for i in kept] for line in ([name for name, _ in COLUMNS], *map(cells, rows))]
    sides = [COLUMNS[i][1] for i in kept]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * (w - 1) + (":" if side == ">" else "-") for w, side in zip(widths, sides, strict=True)]
    padded = [
        [f"{text:{side}{width}}" for text, side, width in zip(line, sides, widths, strict=True)] for line in lines
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])


def heading(results: dict[str, Any]) -> str:
    """What the table was measured on, in one paragraph."""
    m, s = results["machine"], results["settings"]
    return (
        f"fusedsched {m['fusedsched']} (commit {m['commit']}, {m['instruction set']}), torch {m['torch']}, "
        f"Python {m['python']}, {m['compiler']}; {m['processor']}, {m['processors']} processors, huge pages: "
        f"{m['huge pages']}, allocator: {m['allocator']}, load {m['load average']:.1f}; {m['date']}. "
        f"Medians over up to {s['rounds']} clean rounds, at most {s['attempts']} in all or {s['seconds']:.0f} s."
    )


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """How many gates were passed.

    >>> summary([{"gate": 3, "verdict": "pass"}, {"gate": None, "verdict": "-"}, {"gate": 1.5, "verdict": "MISSED"}])
    '1 of 2 gates passed, 1 missed.'
    """
    judged = [row["verdict"] for row in rows if row["gate"] is not None]
    text = f"{judged.count('pass')} of {len(judged)} gates passed"
    for name, words in (("MISSED", "missed"), ("disturbed", "without a verdict: fewer than 3 clean rounds")):
        if name in judged:
            text += f", {judged.count(name)} {words}"
    return text + "."


def render(results: dict[str, Any], gates: bool = False, short: bool = False) -> str:
    """The Markdown of a whole file of results; `gates`: only the rows that have one, `short`: fewer columns."""
    rows = [row for row in results["rows"] if row["gate"] is not None or not gates]
    return f"{heading(results)}\n\n{table(rows, short)}\n\n{summary(rows)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the Markdown."""
    parser = argparse.ArgumentParser(prog="benchmarks/render.py", description=__doc__)
    parser.add_argument("file", type=Path, help="written by bench.py --json")
    parser.add_argument("--gates", action="store_true", help="only the rows that have a gate")
    parser.add_argument("--short", action="store_true", help="without spread, rounds and floors")
    args = parser.parse_args(argv)
    print(render(json.loads(args.file.read_text()), args.gates, args.short))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
