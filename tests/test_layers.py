# SPDX-License-Identifier: Apache-2.0
"""Which part of the package may know which, and how large a part may be. Lazy and type-only imports count too."""

import ast
import re
from functools import cache

import pytest
from reading import (
    ROOT,
    c_function_lengths,
    circular,
    edges_of,
    function_lengths,
    imported,
    methods,
    package_tree,
    private_reads,
    subpackage,
)

# Subpackage -> those that it may know. Subpackages that are not here are commands, which may know all of these.
LIBRARY = {
    "_native": set(),
    "_layouts": set(),
    "torch_originals": set(),
    "command_line": set(),
    "files": set(),
    "progress": set(),
    "reference": {"torch_originals"},
    "schedules": set(),
    "triton_kernels": {"_layouts"},
    "runtime": {"_native", "_layouts", "schedules", "triton_kernels"},
    "optim": {"_native", "_layouts", "reference", "runtime", "schedules", "torch_originals", "triton_kernels"},
    "lr_scheduler": {"_native", "_layouts", "runtime", "schedules", "torch_originals", "triton_kernels"},
    "monitor": {"optim", "runtime"},
    "plotting": {"command_line", "files", "schedules", "torch_originals"},
    "range_test": {"command_line", "optim", "plotting", "progress", "runtime", "schedules", "torch_originals"},
    "info": {"", "_native", "runtime"},
}
# The one lazy door: `schedule.plot()`, as pandas has it.
DOOR = ("fusedsched.schedules.expression", "fusedsched.plotting")
DOORS = {"_runtime"}  # private names that other parts may read

MOST_LINES, MOST_FUNCTION_LINES, MOST_METHODS = 300, 60, 25
SYSTEM = {"cmath", "cstdint"}
# Folder of csrc -> the folders whose files it may include, and other headers (None: any).
CSRC = {
    "core": ({"core"}, SYSTEM),
    "cpu": ({"core", "cpu"}, SYSTEM | {"cstdlib", "cstring"}),
    "cuda": ({"core", "cuda"}, {"cstdint", "cuda_runtime.h"}),
    "plan": ({"core", "cpu", "cuda", "plan"}, None),
}
SOURCES = {".py", ".h", ".cpp", ".cu", ".cuh"}


@cache
def tree():
    return package_tree()


@cache
def edges():
    return frozenset(edges_of(tree()) - {DOOR})


def sources():
    folders = [ROOT / name for name in ("csrc", "fusedsched", "triton_kernels", "tests", "benchmarks")]
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.suffix in SOURCES]


def trespasses(edges):
    named = ((a, b, subpackage(a), subpackage(b)) for a, b in edges)
    return {(a, b) for a, b, here, there in named if here in LIBRARY and there not in LIBRARY[here] | {here}}


def large_classes(found):
    """Classes with too many methods; not those that have all the methods of a smaller one that has too many."""
    large = {name: names for name, names in found.items() if len(names) > MOST_METHODS}
    return {name for name, names in large.items() if not any(other < names for other in large.values())}


def long_functions(path, text):
    lengths = function_lengths(text) if path.suffix == ".py" else c_function_lengths(text)
    return {(path.name, name) for name, lines in lengths.items() if lines > MOST_FUNCTION_LINES}


def foreign_includes(text, folders, system):
    """Included files of no folder that is named, and system headers that are not."""
    subpackages = {path.name for path in (ROOT / "csrc").iterdir() if path.is_dir()}
    siblings = {path.name for folder in folders for path in (ROOT / "csrc" / folder).iterdir()}
    foreign = []
    for name in re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', text, re.MULTILINE):
        folder = name.rpartition("/")[0].removeprefix("../")
        ours = folder in folders if folder in subpackages else not folder and name in siblings
        if not ours and (folder in subpackages or (system is not None and name not in system)):
            foreign.append(name)
    return foreign


def test_rooms_know_those_below_alone():
    assert trespasses(edges()) == set()


def test_the_door_is_one_and_lazy():
    module, room_of_pictures = DOOR
    assert room_of_pictures in imported(module, tree())
    head = [node for node in ast.parse(tree()[module]).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    eager = {**tree(), module: ast.unparse(ast.Module(head, []))}
    assert room_of_pictures not in imported(module, eager)


def test_there_is_no_circle():
    assert circular(edges()) == set()


def test_private_names_are_read_at_home():
    assert {read for read in private_reads(tree()) if read[1] not in DOORS} == set()


def test_no_class_outgrows_its_idea():
    assert large_classes(methods(tree())) == set()


def test_no_function_outgrows_its_idea():
    assert set().union(*(long_functions(path, path.read_text()) for path in sources())) == set()


def test_no_file_outgrows_its_idea():
    lengths = {path.name: len(path.read_text().splitlines()) for path in sources()}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


@pytest.mark.parametrize("folder", CSRC)
def test_includes_of_csrc(folder):
    folders, system = CSRC[folder]
    found = set()
    for path in sorted((ROOT / "csrc" / folder).iterdir()):
        # Bindings read launch.h without CUDA's headers.
        allowed = SYSTEM if path.name == "launch.h" else system
        if path.suffix in SOURCES - {".py"}:
            found |= {(f"{folder}/{path.name}", name) for name in foreign_includes(path.read_text(), folders, allowed)}
    assert found == set()


LOOPS = ["cpu/step.cpp", *(f"cuda/{name}" for name in ("step.cu", "batch.cuh", "memory.cuh", "hyperparameters.cuh"))]


@pytest.mark.parametrize("path", LOOPS)
def test_loops_name_no_rule(path):
    text = (ROOT / "csrc" / path).read_text()
    code = re.sub(r"//.*", "", text) if path.startswith("cuda") else text
    assert not re.search(r"\b(Adam|SGD)", code)


LAUNCHERS = ["csrc/cpu/step.cpp", "csrc/cpu/kernels.h", "csrc/plan/cpu_plan.cpp", "csrc/plan/cuda_plan.cpp"]
LAUNCHERS += ["csrc/plan/cuda_tables.cpp", "csrc/plan/plan.cpp", "csrc/plan/collect.cpp", "csrc/plan/group.cpp"]
LAUNCHERS += ["csrc/cuda/step.cu", "csrc/cuda/runtime.cu", "triton_kernels/step.py", "fusedsched/optim/triton_plan.py"]


@pytest.mark.parametrize("path", LAUNCHERS)
def test_no_launcher_names_a_rule(path):
    """Nor a family: what it launches is chosen by spec and header."""
    code = re.sub(r"//.*|#.*", "", (ROOT / path).read_text())
    headers = sorted((ROOT / "csrc" / "core").glob("*.h"))
    families = re.findall(r'kFamily = "(\w+)"', "".join(header.read_text() for header in headers))
    assert len(families) > 2 and not re.findall(rf"(?i)\bk?({'|'.join(families)})", code)


# Each property sees what breaks it.
LAZY = "def plot():\n    from ..plotting import draw\n"
TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fusedsched.optim.adam import Adam\n"


@pytest.mark.parametrize(
    ("module", "text", "other"),
    (
        ("fusedsched.schedules.named", LAZY, "fusedsched.plotting"),
        ("fusedsched.runtime.clocks", TYPES, "fusedsched.optim.adam"),
        ("fusedsched.lr_scheduler.driver", TYPES, "fusedsched.optim.adam"),
        ("fusedsched.optim.sgd", "import fusedsched.lr_scheduler", "fusedsched.lr_scheduler"),
        ("fusedsched.plotting.figure", "from fusedsched import cli", "fusedsched.cli"),
    ),
)
def test_a_trespass_is_seen(module, text, other):
    names = ("fusedsched.optim.adam", "fusedsched.plotting", "fusedsched.lr_scheduler", "fusedsched.cli")
    assert trespasses(edges_of({**dict.fromkeys(names, ""), module: text})) == {(module, other)}


def test_a_circle_is_seen_however_it_is_tied():
    lazy = {"fusedsched.schedules.a": "from . import b", "fusedsched.schedules.b": "def f():\n    from .a import g\n"}
    package = {"fusedsched": "", "fusedsched.schedules": "", "fusedsched.schedules.c": "from .a import g"}
    assert len(circular(edges_of(lazy | package))) == 2
    typed = {"fusedsched.optim.adam": "from .plan import Plan", "fusedsched.optim.plan": TYPES, "fusedsched.optim": ""}
    assert len(circular(edges_of(typed))) == 2


@pytest.mark.parametrize(
    "use",
    ("optimizer._plan", "self.optimizer._own", "getattr(x, '_plan', None)", "from fusedsched.optim.adam import _plan"),
)
def test_a_private_read_is_seen(use):
    there = "class Adam:\n    def __init__(self):\n        self._plan = self._own = self._buffers = 1\n"
    here = f"class A:\n    def f(self, optimizer, x):\n        self._own = 2\n        x._buffers\n        {use}\n"
    found = private_reads({"fusedsched.optim.adam": there, "fusedsched.lr_scheduler.driver": here})
    assert found == {("lr_scheduler", "_own" if "_own" in use else "_plan")}


def test_what_is_too_large_is_seen():
    parts = ["".join(f"    def {name}{i}(self): pass\n" for i in range(13)) for name in "ab"]
    text = f"class A:\n{parts[0]}class B(A):\n{parts[1]}class C(B):\n    x = 1\n    def c(self): pass\n"
    assert large_classes(methods({"fusedsched.optim.a": text})) == {"fusedsched.optim.a.B"}
    body = "    x = 1\n" * 60
    assert long_functions(ROOT / "a.py", f'def f():\n    """{"a" * 9}\n\n    b"""\n{body}') == {("a.py", "f")}
    assert long_functions(ROOT / "a.py", f'def f():\n    """a\n\n    b"""\n{body[10:]}') == set()
    assert long_functions(ROOT / "a.cpp", f"void f() {{\n{body}}}\nvoid g() {{\n}}\n") == {("a.cpp", "void f() {")}


def test_a_foreign_include_is_seen():
    text = '#include <torch/extension.h>\n#include "adam.h"\n#include "bindings/tensors.h"\n'
    assert foreign_includes(text, *CSRC["core"]) == ["torch/extension.h", "bindings/tensors.h"]
    text = '#include "bindings/threads.h"\n#include <vector>\n#include "plan.h"\n#include "core/metric.h"\n'
    assert foreign_includes(text, *CSRC["plan"]) == ["bindings/threads.h"]
