# SPDX-License-Identifier: Apache-2.0
"""Pictures drawn with matplotlib, without pyplot: no window, no global state."""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import Any

from .curves import Panel

_COLOURS = ("#1d3557", "#e07a1f", "#2a9d8f", "#9b2f5e", "#6c757d", "#b08900")


def available() -> bool:
    return find_spec("matplotlib") is not None


def require() -> None:
    """Raises RuntimeError if matplotlib is not installed."""
    if not available():
        raise RuntimeError(
            "A picture file needs matplotlib, which is not installed: pip install 'fusedsched[plot]'. "
            "The picture in the terminal does not."
        )


def _draw(axes: Any, panel: Panel) -> None:
    marked: set[float] = set()
    for index, curve in enumerate(panel.curves):
        measured = panel.points and index == 0  # drawn pale, under its mean; schedules have no points
        style = dict(color="#b8c0cc", lw=1.0) if measured else dict(color=_COLOURS[index % len(_COLOURS)], lw=1.6)
        axes.plot(curve.xs, curve.ys, label=curve.label, **style)
        marked.update(curve.marks)
    for mark in sorted(marked):
        axes.axvline(mark, color="#999999", lw=0.7, ls=":")
    for index, (label, x, y) in enumerate(panel.points):
        axes.axvline(x, color=_COLOURS[(index + 2) % len(_COLOURS)], lw=1.0, ls="--")
        axes.plot([x], [y], "o", color=_COLOURS[(index + 2) % len(_COLOURS)], label=f"{label}: {x:.2g}")
    if panel.log_x:
        axes.set_xscale("log")
    if panel.log_y:
        axes.set_yscale("log", nonpositive="mask")
    elif panel.from_zero and all(value >= 0.0 for curve in panel.curves for value in curve.ys):
        low = min((value for curve in panel.curves for value in curve.ys), default=0.0)
        high = max((value for curve in panel.curves for value in curve.ys), default=1.0)
        if low <= 0.5 * high:
            axes.set_ylim(bottom=0.0, top=1.05 * high or 1.0)
    axes.minorticks_off()
    axes.set_ylabel(panel.title)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(panel.curves) + len(panel.points) > 1:
        # Above the axes, where no curve can cross it.
        columns = 3 if panel.points else 1
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, frameon=False, fontsize=8)
    elif panel.curves[0].label:
        axes.set_title(panel.curves[0].label, fontsize=9, family="monospace", wrap=True)


def render(panels: tuple[Panel, ...], kind: str) -> bytes:
    """The bytes of a PNG or SVG file; the same bytes every time with one version of matplotlib.

    Raises RuntimeError if matplotlib is not installed.
    """
    require()
    import matplotlib
    from matplotlib.figure import Figure

    # Keep text as text: embedding the font would make each file five times as large.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fusedsched"}):
        heights = [2.2, *(1.2 for _ in panels[1:])]
        figure = Figure(figsize=(7.0, 1.0 + sum(heights)), layout="constrained", facecolor="white")
        grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            _draw(axes, panel)
        grid[-1, 0].set_xlabel(panels[-1].x_title)
        buffer = io.BytesIO()
        about = {"Description": "; ".join(f"{p.title}: {c.label}" for p in panels for c in p.curves)}
        figure.savefig(buffer, format=kind, dpi=110, metadata={**about, "Date": None} if kind == "svg" else about)
    return buffer.getvalue()
