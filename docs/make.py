# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures and the outputs in the documentation: `python docs/make.py`. None of them is written by hand.

A page has places, each up to `<!-- end -->`, that this script fills:

    <!-- output of: ARGUMENTS -->             what `python -m fusedsched ARGUMENTS` prints
    <!-- last line of: ARGUMENTS -->          the last line of it
    <!-- benchmark table: python benchmarks/render.py ARGUMENTS -->   what that prints
    <!-- script above -->                     what the last script before it prints
    <!-- numbers -->                          three results of the benchmarks
    <!-- gallery -->                          all named schedules with their pictures
"""

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from fusedsched import cli

ROOT = SOURCES = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    "README.md",
    "docs/quickstart.md",
    "docs/schedules.md",
    "docs/range-test.md",
    "docs/benchmarks.md",
    "docs/telemetry.md",
    "docs/command-line.md",
)
KINDS = "output of: |last line of: |gallery|benchmark table: python benchmarks/render.py |script above|numbers"
PLACE = re.compile(rf"^(<!-- ({KINDS})(.*?) ?-->\n).*?^(<!-- end -->)$", re.M | re.S)

# name -> the arguments of `python -m fusedsched plot`. Every named schedule has its entry.
GALLERY = {
    "constant": ["constant(0.1)"],
    "linear": ["linear(0.1, 0.0, steps=1000)"],
    "cosine": ["cosine(0.1, 0.0, steps=1000)", "cosine(0.1, 0.01, steps=1000)"],
    "polynomial": ["polynomial(0.1, 0.0, steps=1000, power=2)", "polynomial(0.1, 0.0, steps=1000, power=0.5)"],
    "exponential": ["exponential(0.1, gamma=0.995)", "exponential(0.1, gamma=0.997, steps=500)"],
    "step": ["step(0.1, step_size=300, gamma=0.3)"],
    "multistep": ["multistep(0.1, milestones=[300, 600, 800], gamma=0.3)"],
    "inverse_time": ["inverse_time(0.1, alpha=0.01)"],
    "inverse_sqrt": ["inverse_sqrt(0.1, warmup_steps=100)"],
    "noam": ["noam(d_model=512, warmup_steps=400)", "noam(d_model=1024, warmup_steps=400)"],
    "cyclic": [
        "cyclic(0.01, 0.1, up=200)",
        "cyclic(0.01, 0.1, up=200, mode='triangular2')",
        "cyclic(0.01, 0.1, up=200, mode='exp_range', gamma=0.999)",
    ],
    "cosine_restarts": ["cosine_restarts(0.1, 0.0, t_0=200)", "cosine_restarts(0.1, 0.0, t_0=200, t_mult=2)"],
    "one_cycle": ["one_cycle(0.1, total_steps=1000)", "--momentum", "one_cycle_momentum(1000)"],
    "one_cycle_momentum": ["--momentum", "one_cycle_momentum(1000, three_phase=True)", "one_cycle(0.1, 1000)"],
    "warmup": ["warmup(200) >> constant(0.1)", "warmup(200) * step(0.1, step_size=100, gamma=0.8)"],
    "warmup_cosine": ["warmup_cosine(0.1, warmup_steps=100, total_steps=1000, final=0.01)"],
    "warmup_linear": ["warmup_linear(0.1, warmup_steps=100, total_steps=1000)"],
    "warmup_stable_decay": [
        "warmup_stable_decay(0.1, 100, 600, 300)",
        "warmup_stable_decay(0.1, 100, 600, 300, decay='cosine')",
        "warmup_stable_decay(0.1, 100, 600, 300, decay='1-sqrt')",
    ],
    "join": ["join([0.1, linear(0.1, 0.0, steps=500)], boundaries=[500])"],
    "product": ["product(cosine(0.1, 0.0, steps=1000), step(1.0, step_size=250, gamma=0.5))"],
}
STEPS = {"cosine_restarts": 1400, "constant": 1000, "inverse_sqrt": 1001, "inverse_time": 1001, "noam": 2000}


def arguments(name: str) -> list[str]:
    """The command line behind one picture, without `plot` and `--out`."""
    return GALLERY[name] + (["--steps", str(STEPS[name])] if name in STEPS else [])


def picture_of(name: str) -> Path:
    return ROOT / "docs" / "gallery" / f"{name}.svg"


def summary(name: str) -> str:
    """The first sentence of a schedule's docstring."""
    from fusedsched.plotting.parsing import names

    first = " ".join(names()[name].__doc__.split("\n\n")[0].split())
    first = re.sub(r"\(.*?\)", lambda aside: aside[0].replace(":", "\0"), first)  # a colon in there ends nothing
    return re.split(r"(?<=[.:])\s", first + " ")[0].rstrip(":.").replace("\0", ":") + "."


def gallery() -> str:
    """The section of each schedule."""
    sections = []
    for name in GALLERY:
        command = " ".join(shlex.quote(arg) for arg in arguments(name))
        sections.append(
            f"### `{name}`\n\n{summary(name)}\n\n```\npython -m fusedsched plot {command}\n```\n\n"
            f"![{name}](gallery/{name}.svg)\n"
        )
    return "\n".join(sections)


def output_of(command: str, last: bool = False) -> str:
    """What a command prints, in a fence; `last`: its last line."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(printed):
        try:
            code = cli.main(shlex.split(command))
        except SystemExit as end:  # of --help
            code = end.code
    if code:
        raise RuntimeError(f"{command} ended with exit code {code}.")
    printed.flush()
    lines = [line.rstrip() for line in printed.buffer.getvalue().decode().rstrip("\n").splitlines()]
    lines = ["...", lines[-1]] if last else lines
    return "\n".join(["```", f"$ python -m fusedsched {command}", *lines, "```", ""])


def printed_by_render(command: str) -> str:
    """The tables of a file of results."""
    script = [sys.executable, "benchmarks/render.py", *command.split()]
    return subprocess.run(script, cwd=SOURCES, capture_output=True, text=True, check=True).stdout


def numbers() -> str:
    """Three results against torch's fused AdamW: many small tensors, large 16-bit ones, a compiled step."""
    if str(SOURCES) not in sys.path:
        sys.path.append(str(SOURCES))
    from benchmarks.render import duration

    results = SOURCES / "benchmarks" / "results"
    times, counts = (json.loads(next(results.glob(f"{name}-*.json")).read_text()) for name in ("cpu", "counts"))
    lines = ["", "| AdamW, step and cosine schedule | torch, `fused=True` | fusedsched |", "|---|---|---|"]
    for case, what in (
        ("tiny-300", "300 tensors of 16 elements"),
        ("mixed-300-bf16", "300 bfloat16 tensors, 51M in all"),
    ):
        asked = (case, "step + schedule", "torch fused")
        row = next(row for row in times["rows"] if (row["case"], row["what"], row["against"]) == asked)
        lines.append(f"| {what} | {duration(row['theirs'])} | {duration(row['ours'])} |")
    breaks = {c["contestant"]: c["breaks"] for c in counts["counts"] if c["scheduler"] == "CosineAnnealingLR"}
    lines.append(f"| graph breaks under `torch.compile` | {breaks['torch fused']} | {breaks['fusedsched']} |")
    machine = times["machine"]
    about = (
        f"{machine['processor']}, {machine['processors']} processors, torch {machine['torch']}, {machine['date'][:10]}."
    )
    return "\n".join([*lines, "", about, ""])


def printed_by_script(before: str) -> str:
    """What the last script of a text prints, in a fence."""
    script, printed = re.findall(r"^```python\n(.*?)^```$", before, re.M | re.S)[-1], io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(script, "the script", "exec"), {"__name__": "__main__"})
    return f"```\n{printed.getvalue()}```\n"


def rendered(text: str, commands: str = "") -> str:
    """A document with its places filled; `commands`: only outputs of commands that begin with this, and no script's."""

    def fill(place: re.Match[str]) -> str:
        begin, kind, command, end = place.groups()
        if kind == "gallery":
            return f"{begin}\n{gallery()}\n{end}"
        if kind == "numbers":
            return f"{begin}{numbers()}{end}"
        if kind.startswith("benchmark"):
            return f"{begin}{printed_by_render(command)}{end}"
        if kind == "script above":
            return place.group(0) if commands else f"{begin}{printed_by_script(text[: place.start()])}{end}"
        if not command.startswith(commands):
            return place.group(0)
        return f"{begin}{output_of(command, kind.startswith('last'))}{end}"

    return PLACE.sub(fill, text)


def main() -> None:
    sys.path.insert(0, str(ROOT / "docs"))  # the example of the range test
    for name in GALLERY:
        cli.main(["plot", *arguments(name), "--out", str(picture_of(name))])
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text()
        if (made := rendered(text)) != text:
            path.write_text(made)
    cli.main(
        ["lr-find", "range_test_example:trial", "--out", str(ROOT / "docs" / "gallery" / "range_test.svg"), "--json"]
    )


if __name__ == "__main__":
    main()
