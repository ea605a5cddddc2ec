# SPDX-License-Identifier: Apache-2.0
"""`make check-gpu STAGE=1|2|3 DIR=folder`: a stage of checks on a GPU, as a few parts with a time limit each.

A part that fails or takes too long does not keep the next from running. Three files are written to the folder as the
parts end: `stageN.json` (each part's exit status, seconds and last lines), `stageN.tar.gz` (all logs), and what is
measured. `--dry-run` runs the same parts on the emulation, with small numbers, where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LAST_LINES = 12
# `python -m fusedsched` on the emulation: tests/cases.py puts it in the place of a GPU.
EMULATED = """import runpy, sys; sys.path.insert(0, "tests"); import cases
runpy.run_module("fusedsched", run_name="__main__", alter_sys=True)"""


class Part(NamedTuple):
    """A command and the seconds that it may take.

    `needs`: a program without which the part is skipped by name. `dry`: its command without a GPU.
    """

    name: str
    seconds: int
    command: list[str]
    needs: str | None = None
    dry: list[str] | None = None


def tests(seconds: int, *chosen: str) -> list[str]:
    """The command for tests of this folder. It never collects another one: those import kernels to interpret them.

    Warnings stay warnings: those of another version of torch are no failure of a kernel.
    """
    limits = [f"--timeout={min(60, seconds)}"] if find_spec("pytest_timeout") else []
    shown = ["-q", "-rfE", "-W", "default", "--maxfail=25", "--durations=8"]
    return [sys.executable, "-m", "pytest", "tests/gpu", *shown, *limits, *chosen]


def repeated(option: str, *values: str) -> list[str]:
    return [word for value in values for word in (option, value)]


def stages(folder: Path) -> dict[int, list[Part]]:
    python = sys.executable
    smoke, laws = tests(60, "-m", "smoke"), tests(100, "-m", "not smoke", "-k", "not triton")
    cases = repeated("--case", "small-2000", "resnet50", "one-1B", "groups-465", "llama3-8b-bf16")
    bench = [
        python,
        "-m",
        "fusedsched",
        "bench",
        "--backend",
        "cuda",
        "--quick",
        *cases,
        "--json",
        str(folder / "bench.json"),
    ]
    verify = ["verify", "--quick", "--backend", "cuda", "--json", str(folder / "verify.json")]
    memcheck = ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9", "--print-limit", "5"]
    one_step = "from benchmarks.gpu_terms import *; s = optimizer_of(TERMS['2000 x 1024'], 'cuda').step; s(); s()"
    counters = [
        "ncu",
        "--clock-control",
        "none",
        "-k",
        "regex:step_kernel",
        "--launch-skip",
        "3",
        "--launch-count",
        "1",
    ]
    counters += repeated("--section", "SpeedOfLight", "WarpStateStats", "LaunchStats")
    return {
        1: [
            Part("build", 120, [python, "setup.py", "-q", "build_ext", "--inplace"]),
            Part("smoke", 60, smoke, dry=smoke),
            Part("terms", 60, [python, "-m", "benchmarks.gpu_terms", str(folder / "terms.json")]),
        ],
        2: [
            Part("laws", 100, laws, dry=tests(100, "-k", "hooks or resumed or another_dtype")),
            Part("memcheck", 75, [*memcheck, *tests(75, "-m", "smoke", "-k", "cuda")], memcheck[0]),
        ],
        3: [
            Part("bench", 70, bench),
            Part("verify", 30, [python, "-m", "fusedsched", *verify], dry=[python, "-c", EMULATED, *verify]),
            Part("triton", 50, tests(50, "-m", "smoke", "-k", "triton")),
            Part("counters", 30, [*counters, "--csv", python, "-c", one_step], counters[0]),
        ],
    }


def ended(command: list[str], log: Path, limit: float) -> tuple[int | None, float]:
    """Runs a command: its exit status, None if it took longer than the limit, and its seconds."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": "1"}
    environment.pop("TRITON_INTERPRET", None)
    begin = time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = None
    return status, time.monotonic() - begin


def run(stage: int, folder: Path, dry: bool, factor: float = 1.0) -> int:
    """Runs the parts of a stage; 1 if one of them failed. `factor` stretches the time limits, for slow machines."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as logs:
        for part in stages(folder)[stage]:
            command = part.dry if dry else part.command
            if command is None:
                rows[part.name] = {"result": "skipped: a dry run"}
            elif not dry and part.needs is not None and shutil.which(part.needs) is None:
                rows[part.name] = {"result": f"skipped: there is no {part.needs}"}
            else:
                log = Path(logs, f"{part.name}.txt")
                status, seconds = ended(command, log, part.seconds * factor)
                result = "ok" if status == 0 else "too slow" if status is None else f"failed: exit status {status}"
                last = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
                rows[part.name] = {"result": result, "seconds": round(seconds, 1), "limit": part.seconds, "last": last}
            print(f"{part.name}: {rows[part.name]['result']}", *rows[part.name].get("last", []), sep="\n  ", flush=True)
            (folder / f"stage{stage}.json").write_text(json.dumps(rows, indent=1) + "\n")
            with tarfile.open(folder / f"stage{stage}.tar.gz", "w:gz") as archive:
                archive.add(logs, "logs")
    return int(any(not row["result"].startswith(("ok", "skipped")) for row in rows.values()))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", type=int, choices=(1, 2, 3))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="on the emulation, without a GPU")
    parser.add_argument("--slower", type=float, default=1.0, help="factor of the time limits")
    args = parser.parse_args(arguments)
    return run(args.stage, args.folder.resolve(), args.dry_run, args.slower)


if __name__ == "__main__":
    raise SystemExit(main())
