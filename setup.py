# SPDX-License-Identifier: Apache-2.0
"""Builds `fusedsched._C` with ninja. Everything else about the package is in pyproject.toml."""

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc" / "cuda"))
import toolchain  # noqa: E402

# csrc/bindings/NAME.cpp, the longest first, after the bridge: these may include pybind11.h.
BINDINGS = ["bindings", "host_driver", "metric", "device_schedule", "layouts", "threads"]
# csrc/plan/NAME.cpp. A compiler takes longer to read torch's headers than for any of these, so it reads them once for
# several: `write_joined` writes a file that includes them.
JOINED = {
    "plan_checks": ["spec", "group", "plan", "state", "overlap", "collect", "gradients"],
    "plan_updates": ["cpu_plan", "team", "telemetry", "cuda_plan", "cuda_tables", "cuda_runtime"],
}
SOURCES = ["plan/bridge", *(f"bindings/{name}" for name in BINDINGS)]

# (object, source, flags): one source makes several objects, one for each instruction set, under different names.
# cpu/dispatch.cpp picks among them at run time. Contraction to fma is off wherever a schedule is evaluated, since all
# evaluators promise the same digits.
# bindings.cpp is pybind11's templates: -O3 makes them larger, not faster, and a compiler that collects its garbage late
# takes 0.7 GB for them.
TORCH_FLAGS = "$torch -ffp-contract=off"
FLAGS = {"bindings/bindings": " -O2 --param ggc-min-expand=30 --param ggc-min-heapsize=250000"}
UNITS = [(name.replace("/", "_"), f"csrc/{name}.cpp", f"{TORCH_FLAGS}{FLAGS.get(name, '')}") for name in SOURCES]
UNITS += [(name, f"{name}.cpp", TORCH_FLAGS) for name in JOINED]
UNITS += [("dispatch", "csrc/cpu/dispatch.cpp", "-ffp-contract=off")]
if platform.machine().lower() in ("x86_64", "amd64"):
    UNITS += [
        ("step_v1", "csrc/cpu/step.cpp", "-DFS_ISA=x86_64_v1"),
        ("step_v3", "csrc/cpu/step.cpp", "-DFS_ISA=x86_64_v3 -march=x86-64-v3"),
        ("step_v4", "csrc/cpu/step.cpp", "-DFS_ISA=x86_64_v4 -march=x86-64-v4 -mprefer-vector-width=512"),
    ]
else:
    UNITS += [("step", "csrc/cpu/step.cpp", "-DFS_ISA=generic")]

# Without -fno-math-errno a square root keeps a loop from being vectorized; without -fopenmp at::parallel_for silently
# runs on one thread. Never -ffast-math: it changes schedules.
CFLAGS = "-std=c++20 -O3 -DNDEBUG -fPIC -fopenmp -fno-math-errno -fno-trapping-math -fvisibility=hidden -Wall"

FAILED = "fusedsched: the compiler failed. Needed: GCC 11 or newer, the headers of Python (Debian: python3-dev)."
RULES = """\
rule compile
  command = $cxx $cflags $flags -MMD -MF $out.d -c $in -o $out
  depfile = $out.d
  description = compile $out
rule compile_cuda
  command = $nvcc -ccbin $cxx $cuda_flags $flags -I../../csrc -MMD -MF $out.d -c $in -o $out
  depfile = $out.d
  description = compile $out
rule link
  command = $cxx -shared $in $ldflags -o $out
  description = link $out
"""


def compiler():
    """Path of the C++ compiler: $CXX, else g++, else c++; None where there is none."""
    return shutil.which(os.environ["CXX"]) if os.environ.get("CXX") else shutil.which("g++") or shutil.which("c++")


def openmp_library():
    """The OpenMP runtime that torch itself has loaded: a second one in the process would have threads of its own."""
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    found = sorted(path for path in mapped if Path(path).name.startswith(("libgomp", "libiomp", "libomp")))
    return found[0] if found else "-fopenmp"


def place(source):
    """A source as seen from the folder of the build."""
    return f"../../{source}" if source.startswith("csrc/") else source


def write_joined(folder):
    """The files of JOINED, left alone where they are right: ninja goes by their age."""
    for name, parts in JOINED.items():
        path, text = folder / f"{name}.cpp", "".join(f'#include "plan/{part}.cpp"\n' for part in parts)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def sanitized():
    """A prefix for the folder and the flags of a build with the sanitizers that FUSEDSCHED_SANITIZE names.

    Not the check of dynamic types: plan/tensors.h reads protected fields of torch's tensors through a class of its own.
    """
    names = os.environ.get("FUSEDSCHED_SANITIZE", "")
    return ("sanitized-", f" -fsanitize={names} -fno-sanitize=vptr -fno-omit-frame-pointer -g1") if names else ("", "")


def build_file(cxx, nvcc, archs, output):
    """The text of build.ninja. Paths in the project are relative: its folder may have any name, one with spaces too."""
    import torch
    from torch.utils import cpp_extension

    includes = [*cpp_extension.include_paths(), sysconfig.get_path("include")]
    abi = int(torch.compiled_with_cxx11_abi())
    torch_flags = f"-DTORCH_EXTENSION_NAME=_C -D_GLIBCXX_USE_CXX11_ABI={abi}"
    libraries = f"-L'{cpp_extension.library_paths()[0]}' -lc10 -ltorch_cpu -ltorch_python '{openmp_library()}'"
    units = [("compile", *unit) for unit in UNITS]
    if nvcc:
        torch_flags += " " + toolchain.defines(nvcc)
        libraries += " " + toolchain.link_flags(nvcc)
        units = [("compile_cuda", *unit) for unit in toolchain.UNITS] + units  # the longest first
    lines = [
        f"cxx = {cxx}",
        f"nvcc = {nvcc}",
        f"cuda_flags = {toolchain.flags(nvcc, archs)}" if nvcc else "",
        f"cflags = {CFLAGS}{sanitized()[1]} -I../../csrc",
        f"torch = {torch_flags} " + " ".join(f"-isystem '{path}'" for path in includes),
        f"ldflags = {libraries}{sanitized()[1]}",
        RULES,
        *(f"build {name}.o: {rule} {place(source)}\n  flags = {flags}" for rule, name, source, flags in units),
        f"build {output}: link " + " ".join(f"{name}.o" for _, name, _, _ in units),
    ]
    return "\n".join(lines) + "\n"


class NinjaBuild(build_ext):
    """Builds the extension in build/, in a folder that stays, so that a second build has nothing to do."""

    def run(self):
        self.info = {}
        if os.environ.get("FUSEDSCHED_NO_EXTENSION") == "1":
            self.info["missing"] = "it was installed with FUSEDSCHED_NO_EXTENSION=1"
        elif compiler() is None:
            self.info["missing"] = "no C++ compiler was found when it was installed (looked for $CXX, g++, c++)"
        if "missing" in self.info:
            print(f"fusedsched: building without the compiled extension: {self.info['missing']}", file=sys.stderr)
            self.extensions = []
            Path(self.get_ext_fullpath("fusedsched._C")).unlink(missing_ok=True)  # of an earlier build
        super().run()
        package = ROOT / "fusedsched" if self.inplace else Path(self.build_lib, "fusedsched")
        package.mkdir(parents=True, exist_ok=True)
        (package / "_build_info.json").write_text(json.dumps(self.info, indent=1) + "\n")

    def build_extension(self, ext):
        try:
            import torch
        except ImportError:
            raise SystemExit("fusedsched: install torch first, then: pip install --no-build-isolation .") from None
        nvcc = toolchain.wanted(torch.version.cuda)
        cxx, target = compiler(), Path(self.get_ext_fullpath(ext.name))
        version = subprocess.run([cxx, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
        folder = ROOT / "build" / f"{sanitized()[0]}{sys.implementation.cache_tag}-torch-{torch.__version__}"
        for made in (folder, target.parent):
            made.mkdir(parents=True, exist_ok=True)
        archs = toolchain.archs(nvcc) if nvcc else []
        write_joined(folder)
        (folder / "build.ninja").write_text(build_file(cxx, nvcc, archs, target.name))
        ninja = [sys.executable, "-m", "ninja"] if shutil.which("ninja") is None else ["ninja"]
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        if subprocess.run([*ninja, "-C", folder, *jobs]).returncode:
            raise SystemExit(FAILED + (toolchain.FAILED if nvcc else ""))
        shutil.copy(folder / target.name, target)
        self.info.update(torch=str(torch.__version__), compiler=version, flags=CFLAGS)
        self.info.update(nvcc=toolchain.version(nvcc) if nvcc else None, archs=archs)


KINDS = (".h", ".cuh", ".cu", ".py")
HEADERS = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("csrc/**/*")) if path.suffix in KINDS]
PARTS = [f"csrc/plan/{part}.cpp" for parts in JOINED.values() for part in parts]
COMPILED = [source for _, source, _ in UNITS if source.startswith("csrc/")]
EXTENSION = Extension("fusedsched._C", sorted({*COMPILED, *PARTS}), depends=HEADERS)
setup(ext_modules=[EXTENSION], cmdclass={"build_ext": NinjaBuild})
