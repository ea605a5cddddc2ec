# SPDX-License-Identifier: Apache-2.0
"""The compiled CUDA kernels use no memory of their own, load 16 bytes at a time, and take the registers that
csrc/cuda/resources.txt says: a change of it is to be seen in review."""

import ctypes
import difflib
import shutil
import subprocess

import cuda_report
import pytest
import test_spec
from cuda_report import toolchain

TOOL = cuda_report.cuobjdump()
NVCC = toolchain.find()
# How many arrays a rule has.
STATES = {
    spec.choose(nonzero): sum(state.needed(nonzero) for state in spec.states)
    for spec in test_spec.SPECS.values()
    for nonzero in test_spec.settings(spec)
}


@pytest.fixture(scope="module")
def objects():
    if NVCC is None:
        pytest.skip("no nvcc")
    return cuda_report.build(NVCC, cuda_report.chosen_archs())


@pytest.fixture(scope="module")
def found(objects):
    if TOOL is None:
        pytest.skip("no cuobjdump, neither beside nvcc nor in triton's wheel")
    return cuda_report.kernels(TOOL, objects)


NAME = """
#include "cuda/launch.h"
extern "C" __attribute__((visibility("default"))) const char* name() { return fs_cuda_runtime()->name; }
"""


def test_the_objects_link_and_load_without_a_gpu(objects, tmp_path):
    """As setup.py links them: with the static runtime, so that no library of CUDA has to be there."""
    made = " ".join(f"'{objects / name}.o'" for name, _, _ in toolchain.UNITS)
    (tmp_path / "name.cpp").write_text(NAME)
    command = f"g++ -std=c++20 -shared -fPIC -I'{cuda_report.ROOT / 'csrc'}' name.cpp {made}"
    subprocess.run(f"{command} {toolchain.link_flags(NVCC)} -o name.so", cwd=tmp_path, shell=True, check=True)
    name = ctypes.CDLL(str(tmp_path / "name.so")).name
    name.restype = ctypes.c_char_p
    assert name() == b"cuda"


def test_no_kernel_has_memory_of_its_own(found):
    assert len(found) >= len(cuda_report.VARIANTS) * len(cuda_report.rules())
    assert [k for k in found if k.stack or k.local] == []


@pytest.mark.parametrize("variant", range(len(cuda_report.VARIANTS)), ids=cuda_report.VARIANTS)
def test_vectors_are_loaded_and_stored_whole(objects, found, variant):
    """Of every variant, on the newest processor that was built for: parameter, gradient and each state are loaded 16
    bytes at a time, and all but the gradient stored so. (The gradient too where it is unscaled.)"""
    archs = {k.arch for k in found}
    arch = "sm_90" if "sm_90" in archs else max(archs, key=lambda a: int(a[3:].rstrip("af")))
    accesses = cuda_report.wide_accesses(TOOL, variant, arch, objects)
    assert set(accesses) == set(cuda_report.rules().values())
    for rule, (loads, stores, spills) in accesses.items():
        enough = loads >= 2 + STATES[rule] and stores >= 2 + STATES[rule]
        assert enough, f"{rule} has {loads} loads and {stores} stores of 16 bytes"
        assert spills == 0, rule


def test_registers_are_those_of_the_table(found):
    committed = cuda_report.TABLE.read_text()
    nvcc = toolchain.version(NVCC)
    if f"CUDA {nvcc}." not in committed:
        pytest.skip(f"the table was written with another nvcc than {nvcc}")
    ours = cuda_report.columns(cuda_report.table(found, nvcc))
    expected = {key: cell for key, cell in cuda_report.columns(committed).items() if key[2] in {k.arch for k in found}}
    lines = [[f"{' '.join(key)}: {cell}" for key, cell in sorted(cells.items())] for cells in (expected, ours)]
    assert ours == expected, "\n".join(difflib.unified_diff(*lines, "resources.txt", "this build", lineterm="", n=0))


def test_the_table_names_every_rule_and_loop():
    cells = cuda_report.columns(cuda_report.TABLE.read_text())
    names = {(variant, name) for variant, name, _ in cells}
    assert {(variant, name) for variant in cuda_report.VARIANTS for name in cuda_report.rules().values()} <= names
    assert all(0 < int(cell) < 256 for cell in cells.values())


SPILLING = """
__global__ void spilling_kernel(float* x, int n) {
  float mine[32];
  for (int i = 0; i < 32; ++i) mine[i] = x[i];
  for (int i = 0; i < n; ++i) mine[i % 32] += mine[(i * 7) % 32];
  for (int i = 0; i < 32; ++i) x[i] = mine[i];
}
"""


def test_the_properties_can_fail(tmp_path):
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None or TOOL is None:
        pytest.skip("needs nvcc and cuobjdump")
    (tmp_path / "spilling.cu").write_text(SPILLING)
    command = [nvcc, "-gencode", "arch=compute_80,code=sm_80", "-c", "spilling.cu", "-o", "cuda_launches.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    (kernel,) = cuda_report.kernels(TOOL, tmp_path)
    assert kernel.name == "spilling_kernel" and kernel.arch == "sm_80" and kernel.stack >= 128
    text = cuda_report.table([kernel], "13.0")
    changed = cuda_report.columns(cuda_report.table([kernel._replace(registers=kernel.registers + 1)], "13.0"))
    assert cuda_report.columns(text) != changed and changed.keys() == {("-", "spilling_kernel", "sm_80")}
