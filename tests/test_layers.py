# SPDX-License-Identifier: Apache-2.0
"""Law: who may know whom. Read off the include and import lines, so that a short cut fails by name."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = sorted((ROOT / "csrc" / "core").glob("*.h"))
CPU = sorted((ROOT / "csrc" / "cpu").iterdir())
CUDA = sorted(p for p in (ROOT / "csrc" / "cuda").iterdir() if p.suffix in (".h", ".cuh", ".cu"))
SYSTEM = {"cmath", "cstdint"}
CPU_SYSTEM = SYSTEM | {"cstdlib", "cstring"}
CUDA_SYSTEM = {"cstdint", "cuda_runtime.h"}

# Folder or file of the package -> modules of the package that it must not import, at any depth of the code.
FORBIDDEN = {
    "schedules": ("optim", "reference", "_native", "verify"),
    "reference": ("optim", "lr_scheduler", "_native", "verify"),
    "optim": ("lr_scheduler", "verify"),
    "lr_scheduler": ("optim", "reference", "verify"),
    "plotting": ("optim", "reference", "_native", "verify", "range_test"),
    "range_test": ("reference", "_native", "verify", "lr_scheduler"),
}


def includes(text):
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', text, re.MULTILINE)


def foreign_includes(text, system, folders):
    """Included files that are neither allowed system headers nor files of the named folders."""
    names = {path.name for folder in folders for path in (ROOT / "csrc" / folder).iterdir()}
    return [i for i in includes(text) if i not in system and i.rsplit("/", 1)[-1] not in names]


def imported(text, package):
    """Full names of the modules that a file imports. `package`: its own, for relative imports."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            start = ".".join(part for part in (base, node.module) if part)
            found.update(f"{start}.{alias.name}" for alias in node.names)
    return found


def trespasses(text, package, forbidden):
    banned = tuple(f"fusedsched.{name}" for name in forbidden)
    return sorted(name for name in imported(text, package) if name.startswith(banned))


@pytest.mark.parametrize("path", CORE, ids=lambda p: p.name)
def test_core_knows_no_framework(path):
    assert foreign_includes(path.read_text(), SYSTEM, ["core"]) == []


@pytest.mark.parametrize("path", CPU, ids=lambda p: p.name)
def test_cpu_knows_core_alone(path):
    assert foreign_includes(path.read_text(), CPU_SYSTEM, ["core", "cpu"]) == []


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_packages_keep_their_places(folder):
    for path in sorted((ROOT / "fusedsched" / folder).glob("*.py")):
        assert trespasses(path.read_text(), f"fusedsched.{folder}", FORBIDDEN[folder]) == [], path.name


@pytest.mark.parametrize("path", CUDA, ids=lambda p: p.name)
def test_cuda_knows_core_and_its_runtime_alone(path):
    system = SYSTEM if path.name == "launch.h" else CUDA_SYSTEM  # the border reads it, without CUDA's headers
    assert foreign_includes(path.read_text(), system, ["core", "cuda"]) == []


@pytest.mark.parametrize("path", ["cpu/step.cpp", "cuda/step.cu", "cuda/memory.cuh", "cuda/hyperparameters.cuh"])
def test_loops_name_no_rule(path):
    text = (ROOT / "csrc" / path).read_text()
    code = re.sub(r"//.*", "", text) if path.startswith("cuda") else text
    assert not re.search(r"\b(Adam|SGD)", code)


def test_no_file_outgrows_its_idea():
    sources = [
        p for top in ("csrc", "fusedsched", "triton_kernels", "tests", "benchmarks") for p in (ROOT / top).rglob("*")
    ]
    kinds = {".py", ".h", ".cpp", ".cu", ".cuh"}
    long = {p.name: n for p in sources if p.suffix in kinds and (n := len(p.read_text().splitlines())) > 300}
    assert long == {}


def test_the_laws_can_fail():
    strayed = foreign_includes('#include <torch/extension.h>\n#include "adam.h"', SYSTEM, ["core"])
    assert strayed == ["torch/extension.h"]
    assert trespasses("from fusedsched import optim", "fusedsched.schedules", ["optim"]) == ["fusedsched.optim"]
    assert trespasses("from ..optim import Adam", "fusedsched.schedules", ["optim"]) == ["fusedsched.optim.Adam"]
