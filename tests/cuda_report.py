# SPDX-License-Identifier: Apache-2.0
"""What the built CUDA kernels take, read off their objects: the table csrc/cuda/resources.txt.

python tests/cuda_report.py     writes it anew, from the objects of this interpreter's last build
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "csrc" / "cuda"))
import toolchain  # noqa: E402

TABLE = ROOT / "csrc" / "cuda" / "resources.txt"
OBJECTS = ROOT / "build" / f"{sys.implementation.cache_tag}-torch-{torch.__version__}"
LOOPS = ("float32", "float64", "bfloat16", "float16", "mixed float32", "mixed float64")


class Kernel(NamedTuple):
    """`loop`: of fs::kLoops, -1 for kernels that are no step. `name`: the rule as csrc/core/rules.h has it."""

    loop: int
    name: str
    arch: str
    registers: int
    stack: int
    local: int


def cuobjdump():
    """Path of cuobjdump: beside nvcc, or in triton's wheel; None where there is none."""
    found = shutil.which("cuobjdump") or shutil.which("/usr/local/cuda/bin/cuobjdump")
    try:
        import triton
    except ImportError:
        return found
    inside = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return found or (str(inside) if inside.exists() else None)


NUMBERS = {"false": "0", "true": "1", "Momentum::kNone": "0", "Momentum::kPlain": "1", "Momentum::kNesterov": "2"}


def rules():
    """FS_RULES: the names by template and arguments, as in ("AdamRule", "0", "1")."""
    text = (ROOT / "csrc" / "core" / "rules.h").read_text()
    entries = re.findall(r"X\(k(\w+), (\w+)<([^>]*)>\)", text)
    return {(rule, *(NUMBERS[word.strip()] for word in words.split(","))): name for name, rule, words in entries}


def rule_of(function, known):
    """The rule in a mangled name; of other kernels, their name."""
    mangled = re.search(r"\d([A-Z]+[a-z]*Rule)I(.*?)EE[fd]NS", function)
    if mangled is None:
        return re.search(r"\d([a-z][a-z_]*_kernel)", function)[1]
    return known[(mangled[1], *re.findall(r"(?:Lb|MomentumE)(\d)E", mangled[2]))]


def kernels(tool, folder=OBJECTS):
    """All `Kernel`s of the objects in a folder."""
    known, found = rules(), []
    for path in [folder / f"{name}.o" for name, _, _ in toolchain.UNITS if (folder / f"{name}.o").exists()]:
        text = subprocess.run([tool, "--dump-resource-usage", str(path)], capture_output=True, text=True, check=True)
        arch, function = "", ""
        loop = int(path.stem[-1]) if path.stem[-1].isdigit() else -1
        for line in text.stdout.splitlines():
            if line.startswith("arch = "):
                arch = line.removeprefix("arch = ").strip()
            elif "Function " in line:
                function = line.split("Function ")[1].rstrip(":")
            elif "REG:" in line:
                number = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", line)}
                name = rule_of(function, known)
                found.append(Kernel(loop, name, arch, number["REG"], number["STACK"], number["LOCAL"]))
    return found


def wide_accesses(tool, loop, arch, folder=OBJECTS):
    """(loads, stores) of 16 bytes in each kernel of a loop, by the rule's name; and the instructions that spill."""
    path = folder / f"cuda_step_{loop}.o"
    text = subprocess.run([tool, "-sass", "-arch", arch, str(path)], capture_output=True, text=True, check=True).stdout
    known, found = rules(), {}
    for part in text.split("Function : ")[1:]:
        # Loads of programs are marked constant; those of parameters, gradients and states are not.
        loads, stores = len(re.findall(r"LDG\.E\.128 ", part)), len(re.findall(r"STG\.E\.128 ", part))
        found[rule_of(part.split("\n", 1)[0], known)] = (loads, stores, len(re.findall(r"\b(?:STL|LDL)\b", part)))
    return found


def table(found, nvcc):
    """The text of resources.txt: registers of each kernel, by processor."""
    archs = sorted({k.arch for k in found}, key=lambda a: int(re.sub(r"\D", "", a)))
    registers = {(k.loop, k.name, k.arch): k.registers for k in found}
    lines = [
        f"# Registers per thread, CUDA {nvcc}. No kernel has a stack frame or spills. Written by tests/cuda_report.py.",
        f"{'loop':<15}{'rule':<21}" + "".join(f"{arch:>8}" for arch in archs),
    ]
    for loop, name in sorted({(k.loop, k.name) for k in found}, key=lambda key: (key[0] % 9, key[1])):
        cells = "".join(f"{registers.get((loop, name, arch), '-'):>8}" for arch in archs)
        lines.append(f"{LOOPS[loop] if loop >= 0 else '-':<15}{name:<21}{cells}")
    return "\n".join(lines) + "\n"


def columns(text):
    """A table's numbers by (loop, rule, arch)."""
    archs = text.splitlines()[1].split()[2:]
    cells = {}
    for line in text.splitlines()[2:]:
        loop, name = line[:15].strip(), line[15:36].strip()
        cells |= {(loop, name, arch): cell for arch, cell in zip(archs, line[36:].split(), strict=True)}
    return cells


def built_with(package=ROOT / "fusedsched"):
    """CUDA's version in the last build, None without."""
    path = package / "_build_info.json"
    return json.loads(path.read_text()).get("nvcc") if path.exists() else None


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else OBJECTS
    version = sys.argv[2] if len(sys.argv) > 2 else built_with()
    TABLE.write_text(table(kernels(cuobjdump(), folder), version))
