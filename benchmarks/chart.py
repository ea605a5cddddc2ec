# SPDX-License-Identifier: Apache-2.0
"""Results as a bar chart: how many times longer each of the others takes than fusedsched."""

from __future__ import annotations

import io
from typing import Any

from fusedsched.plotting import figure

from .render import digits, duration, title_of

COLOURS = ("#1d3557", "#e07a1f", "#2a9d8f", "#9b2f5e", "#6c757d", "#b08900")
Rows = list[dict[str, Any]]


def drawn(results: dict[str, Any]) -> Rows:
    """The rows that are bars: whole steps, against other optimizers and against loops that are a bound."""
    return [row for row in results["rows"] if row.get("unit", "s") == "s" and row["what"] in _whole_steps(results)]


def _whole_steps(results: dict[str, Any]) -> set[str]:
    return {"step + schedule"} | {row["what"] for row in results["rows"] if row["what"].startswith("device time")}


def render(results: dict[str, Any], kind: str) -> bytes:
    """The bytes of a PNG or SVG file.

    Raises RuntimeError without matplotlib, ValueError if there is nothing to draw.
    """
    figure.require()
    rows = drawn(results)
    if not rows:
        raise ValueError("These results hold no whole steps to draw.")
    import matplotlib
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys(row["case"] for row in rows))
    names = list(dict.fromkeys(row["against"] for row in rows))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fusedsched"}):
        height = 1.6 + 0.22 * len(rows) + 0.18 * len(cases)
        drawing = Figure(figsize=(8.0, height), layout="constrained", facecolor="white")
        axes = drawing.subplots()
        _bars(axes, rows, cases, colours)
        m = results["machine"]
        where = m.get("gpu") if results.get("device") == "cuda" else m["processor"]
        axes.set_title(f"fusedsched {m['fusedsched']}, torch {m['torch']}, {where}", fontsize=9)
        buffer = io.BytesIO()
        drawing.savefig(buffer, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _bars(axes: Any, rows: Rows, cases: list[str], colours: dict[str, str]) -> None:
    at, ticks, labels, seen = 0.0, [], [], set()
    for case in cases:
        mine = [row for row in rows if row["case"] == case]
        ticks.append(at + (len(mine) - 1) / 2)
        labels.append(title_of(mine[0]))
        for row in mine:
            low, high = row["quartiles"]
            errors = [[max(0.0, row["ratio"] - low)], [max(0.0, high - row["ratio"])]]
            name = row["against"]
            label = None if name in seen else name
            axes.barh(at, row["ratio"] - 1.0, 0.8, left=1.0, color=colours[name], label=label)
            axes.errorbar(row["ratio"], at, xerr=errors, fmt="none", lw=0.8, ecolor="#555555")
            text = f" {digits(row['ratio'])} ({duration(row['ours'])} for {duration(row['theirs'])})"
            axes.annotate(text, (max(high, row["ratio"]), at), fontsize=7, va="center")
            seen.add(name)
            at += 1.0
        at += 0.8
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    low = min(row["ratio"] for row in rows)
    axes.set_xlim(min(0.5, 0.8 * low), 12.0 * max(row["ratio"] for row in rows))  # the texts stand to the right
    axes.axvline(1.0, color="#333333", lw=1.0)
    axes.set_xlabel("time of the other / time of fusedsched (right of 1: fusedsched is faster)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.minorticks_off()
    axes.legend(loc="lower right", frameon=False, fontsize=8)
