# SPDX-License-Identifier: Apache-2.0
"""Bytes that a step reads and writes in device memory, by the GPU's own counters, against the table of bytes.

python -m fusedsched.benchmarks.gpu_bytes [CASE ...]      # needs ncu, and a machine that lets it read the counters
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

READ, WRITTEN = "dram__bytes_read.sum", "dram__bytes_write.sum"
UNITS = {"byte": 1, "Kbyte": 10**3, "Mbyte": 10**6, "Gbyte": 10**9, "Tbyte": 10**12}
ONCE = "--once"  # runs one step between the profiler's start and stop, under ncu
ROOT = Path(__file__).resolve().parents[1]


def counted(text: str) -> dict[str, float]:
    """Bytes by counter, summed over the kernels in ncu's CSV; other lines of output may stand around it.

    >>> text = '==PROF== x\\n"ID","Metric Name","Metric Unit","Metric Value"\\n'
    >>> counted(text + '"0","dram__bytes_read.sum","Gbyte","16.02"\\n"0","dram__bytes_write.sum","byte","1,200"\\n')
    {'dram__bytes_read.sum': 16020000000.0, 'dram__bytes_write.sum': 1200.0}
    """
    lines = [line for line in text.splitlines() if line.startswith('"')]
    found: dict[str, float] = {}
    for row in csv.DictReader(io.StringIO("\n".join(lines))):
        name, value = row["Metric Name"], float(row["Metric Value"].replace(",", ""))
        if name in (READ, WRITTEN):
            found[name] = found.get(name, 0.0) + value * UNITS[row["Metric Unit"]]
    return found


def once(name: str) -> None:
    """One step of a case, the only one that the profiler sees."""
    import torch

    from . import gpu_clock
    from .cases import GPU_CASES
    from .gpu_sides import Arrays, build, fitted
    from .peers import OURS

    case = fitted(GPU_CASES[name], torch.cuda.mem_get_info()[0])
    if case is None:
        raise SystemExit(f"{name}: does not fit into the memory")
    side = build(case, OURS, Arrays(case, gpu_clock.PLACE))
    torch.zeros(gpu_clock.FLUSHED_BYTES // 4, dtype=torch.int32, device=gpu_clock.PLACE).add_(1)
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStart()
    side.step()
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStop()
    print(f"table {case.moved}", flush=True)


def measured(name: str) -> tuple[int, dict[str, float]]:
    """Bytes of the table, and those of the counters. Raises RuntimeError with ncu's words if it cannot read them."""
    counters = ["--clock-control", "none", "--profile-from-start", "off", "--csv", "--metrics", f"{READ},{WRITTEN}"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = ["ncu", *counters, sys.executable, "-m", "fusedsched.benchmarks.gpu_bytes", ONCE, name]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    table, bytes_of = re.search(r"^table (\d+)$", done.stdout, re.M), counted(done.stdout)
    if table is None or set(bytes_of) != {READ, WRITTEN}:
        said = (done.stdout + done.stderr).strip().splitlines() or ["nothing"]
        raise RuntimeError(f"{name}: ncu counted nothing; its last words: {said[-1][:200]}")
    return int(table[1]), bytes_of


def line(name: str, table: int, counts: dict[str, float]) -> str:
    """What is printed.

    >>> line("one", 28_000, {READ: 16_100.0, WRITTEN: 12_000.0})
    'one: read 16100, written 12000 bytes; 1.0036 of the table (28000)'
    """
    share = (counts[READ] + counts[WRITTEN]) / table
    return f"{name}: read {counts[READ]:.0f}, written {counts[WRITTEN]:.0f} bytes; {share:.4f} of the table ({table})"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 if all were counted, 1 if not; what cannot be counted is said."""
    from .cases import GPU_CASES

    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] == [ONCE]:
        once(args[1])
        return 0
    names = args or ["one-1B", "one-1B-amsgrad", "llama3-8b-bf16"]
    unknown = [name for name in names if name not in GPU_CASES]
    if unknown:
        print(f"There is no case {unknown[0]}; there are {', '.join(GPU_CASES)}.", file=sys.stderr)
        return 2
    if shutil.which("ncu") is None:
        print("Not counted: ncu (Nsight Compute) is not on the PATH.", file=sys.stderr)
        return 1
    code = 0
    for name in names:
        try:
            print(line(name, *measured(name)), flush=True)
        except RuntimeError as error:
            print(f"Not counted: {error}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    raise SystemExit(main())
