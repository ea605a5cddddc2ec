# SPDX-License-Identifier: Apache-2.0
"""Counts as Markdown tables: one of what was compiled, one of launches and waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .markdown import markdown
from .peers import CAPTURABLE, FUSED, OURS, OURS_ON_CAPTURABLE

Records = Sequence[dict[str, Any]]

# What a short table shows.
FEW = ("CosineAnnealingLR", "OneCycleLR", "SequentialLR", "ChainedScheduler", "ReduceLROnPlateau")
RIVALS = (FUSED, CAPTURABLE, OURS_ON_CAPTURABLE, OURS)

HOW = {
    "profiler": "recorded by torch.profiler on a GPU: kernels, copies and fills; calls of CUDA in which the host waits",
    "dispatched": "no GPU: ops that torch dispatches on pretended CUDA tensors, each at least one launch (views and "
    "ops without work left out); a wait wherever the host asks for a value, which is made up then. What is "
    "launched within an op is not seen, so these are lower bounds",
    "emulated": "no GPU: launches that the emulation of CUDA ran for the very plan that a GPU gets, and whatever else "
    "torch dispatches meanwhile; a wait wherever the host asks for a value",
    "in parts": "no GPU: `opt.step()` as for torch fused capturable, `sched.step()` as for fusedsched",
}


def heading(results: dict[str, Any]) -> str:
    m, steps = results["machine"], results["counts"][0]["steps"]
    where = m["gpu"] if results["device"] == "cuda" else "CPU"
    return (
        f"fusedsched {m['fusedsched']} (commit {m['commit']}), torch {m['torch']}, Python {m['python']}, {where}; "
        f"{m['date']}. {steps:,} steps of `opt.step(); sched.step()`, AdamW."
    )


def count(value: float | None) -> str:
    """A count per step.

    >>> count(3.0), count(0.35), count(None)
    ('3', '0.35', '-')
    """
    return "-" if value is None else f"{value:g}"


def compiled_cell(record: dict[str, Any] | None) -> str:
    """Graphs, breaks, recompilations.

    >>> compiled_cell({"graphs": 1, "breaks": 0, "recompilations": 0, "error": None}), compiled_cell(None)
    ('1 / 0 / 0', '-')
    """
    if record is None:
        return "-"
    ended = f"; fails: {record['error']}" if record["error"] else ""
    return f"{record['graphs']} / {record['breaks']} / {record['recompilations']}{ended}"


def launches_cell(record: dict[str, Any] | None) -> str:
    """Launches, waits.

    >>> launches_cell({"launches": 1.0, "syncs": 0.0}), launches_cell({"launches": None, "syncs": None})
    ('1 / 0', '- / -')
    """
    return "-" if record is None else f"{count(record['launches'])} / {count(record['syncs'])}"


def both_cells(record: dict[str, Any] | None) -> str:
    """All counts in one cell."""
    return f"{compiled_cell(record)}, {launches_cell(record)}"


def table(records: Records, cell: Any) -> str:
    """One line for each scheduler, one column for each contestant."""
    found = {(r["scheduler"], r["contestant"]): r for r in records}
    names = list(dict.fromkeys(r["scheduler"] for r in records))
    contestants = list(dict.fromkeys(r["contestant"] for r in records))
    lines = [[name, *(cell(found.get((name, c))) for c in contestants)] for name in names]
    return markdown([("scheduler", "<"), *((c, ">") for c in contestants)], lines)


def methods(records: Records) -> str:
    """How the launches of each contestant were counted."""
    ways: dict[str, list[str]] = {}
    for r in records:
        names = ways.setdefault(r["how"], [])
        names += [r["contestant"]] if r["contestant"] not in names else []
    return "\n".join(f"- {', '.join(names)}: {HOW.get(way, way)}." for way, names in ways.items())


def short(results: dict[str, Any]) -> str:
    """The Markdown of a few rows of a file of counts."""
    records = [r for r in results["counts"] if r["scheduler"] in FEW and r["contestant"] in RIVALS]
    what = "Graphs / graph breaks / recompilations when compiled, launches / waits of the host per step when not:"
    return "\n\n".join([heading(results), what, table(records, both_cells)])


def render(results: dict[str, Any]) -> str:
    """The Markdown of a file of counts."""
    records = results["counts"]
    return "\n\n".join(
        [
            heading(results),
            "Graphs / graph breaks / recompilations, of one compiled function with both calls:",
            table(records, compiled_cell),
            "Launches / waits of the host, per step, not compiled:",
            table(records, launches_cell),
            methods(records),
        ]
    )
