# SPDX-License-Identifier: Apache-2.0
"""What the C++ files include of torch, since that is what a build takes its time and memory for."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh"))
BRIDGE = "plan/bridge.cpp"
# Beside c10, 1 to 2 seconds each. Not ATen/ops, which includes ATen/Context.h, and not ATen/ExpandUtils.h.
LIGHT = {"ATen/core/Tensor.h", "ATen/core/grad_mode.h", "ATen/MemoryOverlap.h", "ATen/Parallel.h"}
LIGHT |= {"pybind11/pytypes.h", "pybind11/cast.h"}  # not gil.h: it needs the definitions of pybind11.h
HEAVY = re.compile(r"^(torch|ATen|caffe2|pybind11)/")


def heavy_includes(text, name):
    """Includes that this file may not have."""
    found = set(re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', text, re.MULTILINE))
    allowed = LIGHT | ({"pybind11/pybind11.h", "pybind11/stl.h"} if name.startswith("bindings/") else set())
    if name == BRIDGE:
        return sorted(found & {"torch/extension.h", "torch/torch.h", "torch/all.h"})
    return sorted(include for include in found - allowed if HEAVY.match(include))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_only_the_bridge_includes_what_is_heavy(path):
    assert heavy_includes(path.read_text(), path.relative_to(ROOT / "csrc").as_posix()) == []


def test_an_address_is_taken_in_one_place():
    """`unwrap` refuses tensors that have none; nothing else may ask a tensor where it lies."""
    takers = re.compile(r"\bdata_ptr\b|->data\(\)|mutable_data\b|_data_ptr")
    places = {path.name for path in FILES if takers.search(re.sub(r"//.*", "", path.read_text()))}
    assert places == {"tensors.h"}
    python = [p for top in ("fusedsched", "triton_kernels") for p in (ROOT / top).rglob("*.py")]
    assert {p.name for p in python if "data_ptr" in p.read_text()} == {"addresses.py"}


def test_the_properties_can_fail():
    assert heavy_includes("#include <torch/extension.h>\n", BRIDGE) == ["torch/extension.h"]
    assert heavy_includes("#include <torch/csrc/autograd/python_variable.h>\n", "plan/plan.h") != []
    assert heavy_includes("#include <ATen/ops/empty.h>\n#include <c10/core/Device.h>\n", "plan/a.cpp") != []
