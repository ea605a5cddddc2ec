# SPDX-License-Identifier: Apache-2.0
"""What the CUDA kernels take, read off their objects: the table csrc/cuda/resources.txt.

python tests/cuda_report.py         writes it anew, for all processors of toolchain.ARCHS
python tests/cuda_report.py 9.0     compiles the kernels for one, as `make test` does; the table stays

The kernels need no torch: they are compiled beside the extension, whether that has CUDA or not.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "csrc" / "cuda"))  # where the build looks for it too

import core_rules  # noqa: E402
import toolchain  # noqa: E402

TABLE = ROOT / "csrc" / "cuda" / "resources.txt"
KINDS = (".h", ".cu", ".cuh")
SOURCES = [p for f in ("core", "cuda") for p in sorted((ROOT / "csrc" / f).iterdir()) if p.suffix in KINDS]
ONE = ["9.0"]  # what `make test` compiles for; `make check-cuda` sets FUSEDSCHED_CHECK_ARCHS
VARIANTS = ("float32", "float64", "bfloat16", "float16", "mixed float32", "mixed float64")


class Kernel(NamedTuple):
    """`variant`: of fs::kVariants, -1 for kernels that are no step. `name`: the rule as csrc/core/rules.h has it."""

    variant: int
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
    return {(rule.template, *(NUMBERS[word] for word in rule.arguments)): rule.name for rule in core_rules.rules()}


def rule_of(function, known):
    """The rule in a mangled name; of other kernels, their name."""
    mangled = re.search(r"\d([A-Z]+[a-z]*Rule)(?:I(.*?)E)?E[fd]NS", function)
    if mangled is None:
        return re.search(r"\d([a-z][a-z_]*_kernel)", function)[1]
    return known[(mangled[1], *re.findall(r"(?:Lb|MomentumE)(\d)E", mangled[2] or ""))]


def kernels(tool, folder):
    """All `Kernel`s of the objects in a folder."""
    known, found = rules(), []
    for path in [folder / f"{name}.o" for name, _, _ in toolchain.UNITS if (folder / f"{name}.o").exists()]:
        text = subprocess.run([tool, "--dump-resource-usage", str(path)], capture_output=True, text=True, check=True)
        arch, function = "", ""
        variant = int(path.stem[-1]) if path.stem[-1].isdigit() else -1
        for line in text.stdout.splitlines():
            if line.startswith("arch = "):
                arch = line.removeprefix("arch = ").strip()
            elif "Function " in line:
                function = line.split("Function ")[1].rstrip(":")
            elif "REG:" in line:
                number = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", line)}
                name = rule_of(function, known)
                found.append(Kernel(variant, name, arch, number["REG"], number["STACK"], number["LOCAL"]))
    return found


def wide_accesses(tool, variant, arch, folder):
    """(loads, stores) of 16 bytes in each kernel of a variant, by the rule's name; and the instructions that spill."""
    path = folder / f"cuda_step_{variant}.o"
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
    registers = {(k.variant, k.name, k.arch): k.registers for k in found}
    lines = [
        f"# Registers per thread, CUDA {nvcc}. No kernel has a stack frame or spills. Written by tests/cuda_report.py.",
        f"{'variant':<15}{'rule':<21}" + "".join(f"{arch:>8}" for arch in archs),
    ]
    for variant, name in sorted({(k.variant, k.name) for k in found}, key=lambda key: (key[0] % 9, key[1])):
        cells = "".join(f"{registers.get((variant, name, arch), '-'):>8}" for arch in archs)
        lines.append(f"{VARIANTS[variant] if variant >= 0 else '-':<15}{name:<21}{cells}")
    return "\n".join(lines) + "\n"


def columns(text):
    """A table's numbers by (variant, rule, arch)."""
    archs = text.splitlines()[1].split()[2:]
    cells = {}
    for line in text.splitlines()[2:]:
        variant, name = line[:15].strip(), line[15:36].strip()
        cells |= {(variant, name, arch): cell for arch, cell in zip(archs, line[36:].split(), strict=True)}
    return cells


def chosen_archs():
    """What the properties are checked for: FUSEDSCHED_CHECK_ARCHS, e.g. "8.0 9.0", or one processor."""
    return os.environ.get("FUSEDSCHED_CHECK_ARCHS", "").split() or ONE


def build(nvcc, archs):
    """The folder with the objects of all kernels; compiled if there are none of these sources and options."""
    options = toolchain.flags(nvcc, archs).split()
    text = repr((options, toolchain.said(nvcc, "--version"))).encode() + b"".join(p.read_bytes() for p in SOURCES)
    folder = ROOT / "build" / "cuda" / hashlib.sha256(text).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)

    def compiled(unit):
        name, source, extra = unit
        output, partial = folder / f"{name}.o", folder / f"{name}.{os.getpid()}.o"
        if not output.exists():
            command = [nvcc, *options, *extra.split(), f"-I{ROOT / 'csrc'}", "-c", str(ROOT / source), "-o", partial]
            subprocess.run(command, check=True)
            partial.rename(output)

    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        list(pool.map(compiled, toolchain.UNITS))
    return folder


def main(archs):
    nvcc = toolchain.find()
    if nvcc is None:
        print("no nvcc: the CUDA kernels are not compiled")
        return
    folder = build(nvcc, archs or toolchain.ARCHS.split())
    if not archs:
        TABLE.write_text(table(kernels(cuobjdump(), folder), toolchain.version(nvcc)))


if __name__ == "__main__":
    main(sys.argv[1:])
