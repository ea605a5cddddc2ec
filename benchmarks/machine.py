# SPDX-License-Identifier: Apache-2.0
"""The machine and versions of a measurement, without paths and host names: results are published."""

import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import fusedsched
from fusedsched import _native, info

ROOT = Path(__file__).resolve().parents[1]


def commit() -> str:
    """The commit of the source tree; with "+changes" if something was edited since.

    A copy of the tree without its history reads it from the environment: FUSEDSCHED_COMMIT.
    """
    if not (ROOT / ".git").exists():
        return os.environ.get("FUSEDSCHED_COMMIT", "unknown")
    try:
        git = ["git", "-C", str(ROOT)]
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        state = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.stdout.strip() + ("+changes" if state.stdout.strip() else "")


def gpu_file() -> str:
    """A name for a file of results of this machine's GPU, e.g. `gpu-nvidia-h200-torch-2.11.0.json`."""
    name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    return f"gpu-{name}-torch-{torch.__version__.split('+')[0]}.json"


def huge_pages() -> str:
    """The mode of transparent huge pages. It affects times more than the kernel does."""
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    found = re.search(r"\[(\w+)\]", path.read_text()) if path.exists() else None
    mode = found.group(1) if found else "unknown"
    return mode + (", THP_MEM_ALLOC_ENABLE=1" if os.environ.get("THP_MEM_ALLOC_ENABLE") == "1" else "")


def facts() -> dict[str, Any]:
    """The facts above the table, as plain data."""
    native = _native.module()
    preloaded = [Path(name).name for name in re.split("[ :]+", os.environ.get("LD_PRELOAD", "")) if name]
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "commit": commit(),
        "fusedsched": fusedsched.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "compiler": _native.build_info().get("compiler", "unknown"),
        "instruction set": native.isa() if native else "none",
        "processor": info.processor()["name"],
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "huge pages": huge_pages(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
        "allocator": ", ".join(preloaded) or "the system's",
        "load average": os.getloadavg()[0],
    }
