# SPDX-License-Identifier: Apache-2.0
"""Renders a file of results as the tables of the documents: `python benchmarks/render.py FILE [--short]`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run as a script: Python searches this folder for modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from benchmarks.render import main

    raise SystemExit(main())

from . import counts_table  # noqa: E402
from .cases import PLAIN  # noqa: E402
from .markdown import markdown  # noqa: E402

COLUMNS = (
    ("model", "<"), ("what", "<"), ("against", "<"), ("threads", ">"), ("fusedsched", ">"), ("other", ">"),
    ("ratio", ">"), ("quartiles", ">"), ("A/A", ">"), ("gate", ">"), ("verdict", "<"), ("clean rounds", ">"),
    ("floor", "<"),
)  # fmt: skip
# Of each contestant: (heading, key, how it is written)
PORTRAIT = (
    ("step + schedule", "seconds", "duration"), ("of copy", "share_of_copy", "percent"),
    ("host", "host_seconds", "duration"), ("graph replay", "replay_seconds", "duration"),
    ("kernels", "kernel_seconds", "duration"),
    ("launches", "launches", "number"), ("waits", "syncs", "number"), ("construction", "construction", "duration"),
    ("first step", "first_step", "duration"), ("compiling", "compile_seconds", "duration"),
    ("peak memory", "peak_bytes", "size"), ("version", "version", "text"),
)  # fmt: skip
WITHOUT = (
    ("disturbed", "without a verdict: fewer than 3 clean rounds"),
    ("unknown", "without a verdict: the profiler counted nothing"),
)
DTYPES = {"float32": "", "bfloat16": " bf16", "float16": " f16", "float64": " f64"}
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


def size(count: float) -> str:
    """Bytes with a unit.

    >>> size(1234), size(3.5 * 2**20), size(0)
    ('1.21 KiB', '3.50 MiB', '0 B')
    """
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{digits(count / scale)} {unit}"
    return f"{count:.0f} B"


def amount(value: float, unit: str) -> str:
    """A value of a row: seconds, or a number of something.

    >>> amount(0.0123, "s"), amount(3.0, "launches")
    ('12.3 ms', '3')
    """
    return duration(value) if unit == "s" else f"{value:g}"


def title_of(row: dict[str, Any]) -> str:
    """The model, with dtype, optimizer and backend unless they are the defaults.

    >>> title_of({"title": "1 x 50M", "dtype": "bfloat16", "optimizer": "sgd"})
    '1 x 50M bf16, sgd'
    """
    optimizer = row.get("optimizer", "adamw")
    backend = row.get("backend_asked", "auto")
    text = row["title"] + DTYPES[row["dtype"]] + ("" if optimizer == "adamw" else f", {optimizer}")
    return text if backend in PLAIN else f"{text}, {backend}"


def floor_text(floor: dict[str, float]) -> str:
    """The floor of a row, with its source.

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
    unit = row.get("unit", "s")
    return [
        title_of(row),
        row["what"],
        row["against"],
        str(row["threads"]),
        amount(row["ours"], unit),
        amount(row["theirs"], unit),
        digits(row["ratio"]),
        f"{digits(low)} to {digits(high)}",
        f"{100 * row['spread']:.1f} %",
        "-" if row["gate"] is None else f"{row['gate']:g}",
        row["verdict"],
        f"{row['clean']}/{row['rounds']}",
        floor_text(row["floor"]),
    ]


def table(rows: Sequence[dict[str, Any]], short: bool = False) -> str:
    """The comparisons."""
    kept = [i for i, (name, _) in enumerate(COLUMNS) if not short or name in SHORT]
    lines = [[line[i] for i in kept] for line in map(cells, rows)]
    return markdown([COLUMNS[i] for i in kept], lines)


def written(value: Any, kind: str) -> str:
    """A cell of a portrait; "-" for what was not measured.

    >>> written(None, "duration"), written(0.934, "percent"), written(55, "number")
    ('-', '93.4 %', '55')
    """
    if value is None:
        return "-"
    if kind == "percent":
        return f"{100 * value:.1f} %"
    return {"duration": duration, "size": size, "number": lambda n: f"{n:g}", "text": str}[kind](value)


def portraits(contestants: Sequence[dict[str, Any]]) -> str:
    """One line for each contestant of each case, with the columns that have a value."""
    kept = [part for part in PORTRAIT if any(record.get(part[1]) is not None for record in contestants)]
    columns = [("model", "<"), ("contestant", "<")]
    columns += [(name, "<" if kind == "text" else ">") for name, _, kind in kept]
    lines = [
        [title_of(record), record["name"], *(written(record.get(key), kind) for _, key, kind in kept)]
        for record in contestants
    ]
    return markdown(columns, lines)


def starting(parts: dict[str, dict[str, float]]) -> str:
    """The import times, in one sentence."""
    ours, theirs = parts["fusedsched"], parts["torch"]
    return (
        f"Importing: torch {duration(theirs['import_torch'])}, fusedsched {duration(ours['import_library'])} more; "
        f"the first optimizer of a process: fusedsched {duration(ours['first_optimizer'])}, torch "
        f"{duration(theirs['first_optimizer'])}."
    )


def left_out(skipped: Sequence[dict[str, str]]) -> str:
    """The contestants left out: one line per contestant and reason, with the cases."""
    cases: dict[tuple[str, str], list[str]] = {}
    for record in skipped:
        cases.setdefault((record["name"], record["why"]), []).append(record["case"])
    every = len({record["case"] for record in skipped})
    lines = [
        f"- {name}: {why}" + ("" if len(found) == every else f" ({', '.join(found)})")
        for (name, why), found in cases.items()
    ]
    return "Not measured:\n\n" + "\n".join(lines)


def heading(results: dict[str, Any]) -> str:
    """The machine and versions of a table, in one paragraph."""
    m, s = results["machine"], results["settings"]
    if results.get("device") == "cuda":
        return (
            f"fusedsched {m['fusedsched']} (commit {m['commit']}), torch {m['torch']}, Python {m['python']}; "
            f"{m['gpu']}; {m['processors']} processors; {m['date']}. "
            f"Medians over {s['rounds']} rounds."
        )
    copy = f", a plain copy at best {digits(results['best_copy'] / 1e9)} GB/s" if results.get("best_copy") else ""
    return (
        f"fusedsched {m['fusedsched']} (commit {m['commit']}, {m['instruction set']}), torch {m['torch']}, "
        f"Python {m['python']}, {m['compiler']}; {m['processor']}, {m['processors']} processors, huge pages: "
        f"{m['huge pages']}, allocator: {m['allocator']}, load {m['load average']:.1f}{copy}; {m['date']}. "
        f"Medians over up to {s['rounds']} clean rounds, at most {s['attempts']} in all or {s['seconds']:.0f} s."
    )


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """How many gates were passed.

    >>> summary([{"gate": 3, "verdict": "pass"}, {"gate": None, "verdict": "-"}, {"gate": 1.5, "verdict": "MISSED"}])
    '1 of 2 gates passed, 1 missed.'
    """
    judged = [row["verdict"] for row in rows if row["gate"] is not None]
    text = f"{judged.count('pass')} of {len(judged)} gates passed"
    for name, words in (("MISSED", "missed"), *WITHOUT):
        if name in judged:
            text += f", {judged.count(name)} {words}"
    return text + "."


def render(results: dict[str, Any], gates: bool = False, short: bool = False) -> str:
    """The Markdown of a whole file of results; `gates`: only the rows that have one, `short`: fewer columns."""
    if "counts" in results:
        return counts_table.short(results) if short else counts_table.render(results)
    rows = [row for row in results["rows"] if row["gate"] is not None or not gates]
    parts = [heading(results)]
    if rows:
        parts += [table(rows, short), summary(rows)]
    if not gates and not short:
        parts += [portraits(results["contestants"])] if results.get("contestants") else []
        parts += [starting(results["starting"])] if results.get("starting") else []
        parts += [left_out(results["skipped"])] if results.get("skipped") else []
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the Markdown."""
    parser = argparse.ArgumentParser(prog="benchmarks/render.py", description=__doc__)
    parser.add_argument("file", type=Path, help="written by bench.py --json")
    parser.add_argument("--gates", action="store_true", help="only the rows that have a gate")
    parser.add_argument("--short", action="store_true", help="without spread, rounds and floors; of counts, a few rows")
    args = parser.parse_args(argv)
    print(render(json.loads(args.file.read_text()), args.gates, args.short))
    return 0
