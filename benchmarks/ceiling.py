# SPDX-License-Identifier: Apache-2.0
"""Builds ceiling.cpp as the extension was built, and runs it on the arrays of an optimizer."""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
from functools import cache
from itertools import accumulate
from pathlib import Path

from fusedsched import _native, info

from .sides import Side

ROOT = Path(__file__).resolve().parents[1]
SOURCE = Path(__file__).with_name("ceiling.cpp")
HEADERS = [ROOT / "csrc" / "core" / "convert.h", ROOT / "csrc" / "core" / "platform.h"]

DTYPES = ("float32", "bfloat16")

# The flags of setup.py for each instruction set. The extension reports which one it runs on this processor.
MACHINE_FLAGS = {
    "x86_64_v3": ["-march=x86-64-v3"],
    "x86_64_v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}


def missing() -> str | None:
    """Why the ceiling cannot be built here; None if it can."""
    if not all(path.exists() for path in (SOURCE, *HEADERS)):
        return "needs the source tree: an installed package has no C++ sources"
    if not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")):
        return "needs g++"
    return "needs the compiled extension" if _native.module() is None else None


def _command() -> list[str]:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    native = _native.module()
    if compiler is None or native is None:
        raise RuntimeError("The same-loop ceiling needs g++ and the compiled extension.")
    runtimes = info.openmp_runtimes()  # torch's: a second runtime would have its own threads
    flags = shlex.split(_native.build_info()["flags"]) + MACHINE_FLAGS.get(native.isa(), [])
    return [compiler, *flags, f"-I{ROOT / 'csrc'}", "-shared", str(SOURCE), *runtimes[:1]]


@cache
def library() -> ctypes.CDLL:
    """The compiled loops. Built once for each version of the sources and flags, in build/benchmarks."""
    command = _command()
    text = "".join(path.read_text() for path in (SOURCE, *HEADERS)) + " ".join(command)
    target = ROOT / "build" / "benchmarks" / f"ceiling-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-o", str(unfinished)], check=True)
        unfinished.replace(target)
    return ctypes.CDLL(str(target))


class Ceiling:
    """Called, it walks once over the parameters, gradients and moments of `side`. It changes them, within bounds."""

    def __init__(self, side: Side, dtype: str) -> None:
        loaded = library()
        loaded.ceiling_unit.restype = ctypes.c_int64
        unit = loaded.ceiling_unit()
        params = [p for p, grad in zip(side.params, side.grads, strict=True) if grad is not None]
        grads = [grad for grad in side.grads if grad is not None]
        states = [side.optimizer.state[p] for p in params]
        arrays = (params, grads, [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states])
        numels = [p.numel() for p in params]
        self.kept = arrays  # keeps the memory behind the addresses below
        pointers = [(ctypes.c_void_p * len(numels))(*(t.data_ptr() for t in array)) for array in arrays]
        ends = accumulate(-(-n // unit) for n in numels)
        sizes = [(ctypes.c_int64 * len(numels))(*values) for values in (numels, ends)]
        self.function = getattr(loaded, f"ceiling_{dtype}")
        self.function.restype = None
        self.arguments = (ctypes.c_int64(len(numels)), *pointers, *sizes)

    def __call__(self) -> None:
        self.function(*self.arguments)
