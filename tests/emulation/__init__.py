# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels without CUDA: their sources as plain C++ in a shared library whose threads take turns.

>>> path = build()  # doctest: +SKIP
"""

import hashlib
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
UNITS = {
    f"step_{variant}": (ROOT / "csrc/cuda/step.cu", [f"-DFS_VARIANT={variant}"]) for variant in range(6)
}  # fs::kVariants
UNITS |= {name: (ROOT / f"csrc/cuda/{name}.cu", []) for name in ("runtime", "metric", "schedule", "telemetry")}
UNITS |= {name: (HERE / f"{name}.cpp", []) for name in ("grid", "streams", "layout")}

# 64 threads to a block: they take turns, and two warps show what eight would. Contraction to fma is off as in
# the real build.
FLAGS = ["-x", "c++", "-std=c++20", "-O1", "-fPIC", "-Wall", "-Wno-unknown-pragmas", "-ffp-contract=off"]
FLAGS += ["-DFS_THREADS=64", '-DFS_RUNTIME_NAME="emulation"', f"-I{HERE}", f"-I{ROOT / 'csrc'}"]


def sources():
    """All files that the library is made of."""
    folders = (HERE, ROOT / "csrc" / "core", ROOT / "csrc" / "cuda")
    return sorted(p for f in folders for p in f.iterdir() if p.suffix in (".h", ".cuh", ".cu", ".cpp"))


def compiler():
    """Path of the compiler, None where there is none."""
    return shutil.which("g++") or shutil.which("c++")


def build(*flags: str) -> Path:
    """The library's path; built if there is none of these sources and flags.

    Args:
        flags: more of them for the compiler and the linker, e.g. `-fsanitize=address`.
    """
    command = [compiler(), *FLAGS, *flags]
    text = repr(command).encode() + b"".join(path.read_bytes() for path in sources())
    folder = ROOT / "build" / "emulation" / hashlib.sha256(text).hexdigest()[:16]
    library = folder / "libfusedsched_emulation.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as objects:  # its own: another process may be building the same

        def compiled(unit):
            name, (source, extra) = unit
            output = f"{objects}/{name}.o"
            subprocess.run([*command, *extra, "-c", str(source), "-o", output], check=True)
            return output

        with ThreadPoolExecutor(2) as pool:
            made = list(pool.map(compiled, UNITS.items()))
        linked = Path(objects, "linked.so")
        subprocess.run([compiler(), "-shared", "-Wl,-Bsymbolic", *flags, *made, "-o", str(linked)], check=True)
        linked.rename(library)
    return library
