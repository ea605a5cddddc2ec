# SPDX-License-Identifier: Apache-2.0
"""The times of importing and of creating the first optimizer, each in a fresh process."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import json, sys
from time import perf_counter
times = [perf_counter()]
import torch
times.append(perf_counter())
if sys.argv[1] == "fusedsched":
    import fusedsched
    make = fusedsched.AdamW
else:
    make = torch.optim.AdamW
times.append(perf_counter())
make([torch.zeros(1, requires_grad=True)])
times.append(perf_counter())
print(json.dumps([late - early for early, late in zip(times, times[1:])]))
"""
_PARTS = ("import_torch", "import_library", "first_optimizer")
_PLACE = str(Path(__import__("fusedsched").__file__).resolve().parents[1])  # for runs from a source tree


def measure(runs: int) -> dict[str, dict[str, float]]:
    """Median seconds, for fusedsched and for torch alone; runs alternate.

    Raises RuntimeError if a process fails.
    """
    times: dict[str, list[list[float]]] = {"fusedsched": [], "torch": []}
    path = os.pathsep.join(filter(None, [_PLACE, os.environ.get("PYTHONPATH")]))
    for _ in range(runs):
        for name, found in times.items():
            done = subprocess.run(
                [sys.executable, "-c", _SCRIPT, name],
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
            )
            if done.returncode:
                raise RuntimeError(f"Importing {name} failed in a fresh process: {done.stderr.strip()[-300:]}")
            found.append(json.loads(done.stdout))
    return {
        name: dict(zip(_PARTS, map(statistics.median, zip(*found, strict=True)), strict=True))
        for name, found in times.items()
        if found
    }
