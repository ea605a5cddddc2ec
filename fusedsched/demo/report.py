# SPDX-License-Identifier: Apache-2.0
"""The result of the two runs: a table, samples of text, a picture, JSON."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from statistics import fmean, median
from typing import Any

from fusedsched.demo.train import Config, Run

LAST = 50  # training losses are noisy, so the table has their mean over the last steps


def max_lr_difference(ours: Run, theirs: Run) -> float:
    """The largest difference between the learning rates of the two runs, over all groups and steps."""
    pairs = zip(ours.lrs, theirs.lrs, strict=True)
    return max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))


def summary(run: Run, config: Config) -> dict[str, float]:
    """The figures of one run; times are medians over the steps, in microseconds.

    The first tenth of the steps is left out of the times, since libraries are still loading.
    """
    skip = len(run.step_times) // 10
    return {
        "train loss": fmean(run.losses[-LAST:]),
        "validation loss": run.validation[-1][1],
        "step + schedule, us": 1e6 * median(run.step_times[skip:]),
        "zero_grad, us": 1e6 * median(run.zero_times[skip:]),
        "tokens per second": config.batch * config.length / median(run.loop_times[skip:]),
    }


def table(ours: Run, theirs: Run, config: Config) -> str:
    """The comparison as text."""
    a, b = summary(ours, config), summary(theirs, config)
    rows = [("", ours.name, theirs.name, "")]
    for name in ("train loss", "validation loss"):
        rows.append((name, f"{a[name]:.4f}", f"{b[name]:.4f}", f"difference {a[name] - b[name]:+.1e}"))
    for name in ("step + schedule, us", "zero_grad, us"):
        rows.append((name, f"{a[name]:.1f}", f"{b[name]:.1f}", f"{b[name] / a[name]:.1f} times less"))
    name = "tokens per second"
    rows.append((name, f"{a[name]:,.0f}", f"{b[name]:,.0f}", f"{100 * (a[name] / b[name] - 1):+.1f} %"))
    rows.append(("largest lr difference", "", "", f"{max_lr_difference(ours, theirs):.1e}"))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [f"{r[0]:<{widths[0]}}  {r[1]:>{widths[1]}}  {r[2]:>{widths[2]}}  {r[3]}".rstrip() for r in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def smooth(values: Sequence[float], keep: float = 0.9) -> list[float]:
    """Exponential mean, started at the first value.

    >>> smooth([1.0, 1.0, 2.0], keep=0.5)
    [1.0, 1.0, 1.5]
    """
    means: list[float] = []
    for value in values:
        means.append(keep * means[-1] + (1 - keep) * value if means else value)
    return means


def picture(ours: Run, theirs: Run) -> bytes | None:
    """The curves of both runs as PNG; None where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    loss_axes, lr_axes = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    # torch wide and pale, ours thin and dashed on top: both are visible where they agree.
    for run, style in (
        (theirs, dict(color="#f4a259", lw=5, alpha=0.6)),
        (ours, dict(color="#1d3557", lw=1.4, ls="--")),
    ):
        steps = range(1, len(run.losses) + 1)
        loss_axes.plot(steps, smooth(run.losses), label=f"{run.name}, training", **style)
        marks = dict(color=style["color"], ls="none", marker="o", ms=4 if run is ours else 9)
        loss_axes.plot(*zip(*run.validation, strict=True), label=f"{run.name}, validation", **marks)
        lr_axes.plot(steps, [lrs[0] for lrs in run.lrs], label=run.name, **style)
    loss_axes.set_ylabel("loss (nats per byte)")
    lr_axes.set(ylabel="learning rate", xlabel="step")
    for axes in (loss_axes, lr_axes):
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    return buffer.getvalue()


def as_json(ours: Run, theirs: Run, config: Config, about: dict[str, Any]) -> str:
    """Everything that was recorded."""
    runs = {
        run.name: {
            "summary": summary(run, config),
            "lr": [lrs[0] for lrs in run.lrs],
            "train loss": run.losses,
            "validation loss": run.validation,
        }
        for run in (ours, theirs)
    }
    facts = {"config": asdict(config), **about, "largest lr difference": max_lr_difference(ours, theirs)}
    return json.dumps({**facts, "runs": runs}, indent=1) + "\n"
