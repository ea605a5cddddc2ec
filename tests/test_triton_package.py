# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels as a package: found in a source tree and in a wheel, imported late, missed politely."""

import re
import sys
import types
from pathlib import Path

import pytest
from setuptools import find_packages
from test_import import run

ROOT = Path(__file__).parents[1]


def test_the_kernels_are_found_where_they_are_and_import_nothing():
    done = run(
        "import sys, fusedsched, fusedsched.triton_kernels as kernels\n"
        "print(kernels.__name__, 'triton' in sys.modules, 'torch' in sys.modules)"
    )
    assert done.stdout == "fusedsched.triton_kernels False False\n", done.stderr


def test_the_wheel_has_every_package():
    """The list in pyproject.toml is written by hand, since the kernels' folder lies outside of the package's."""
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.findall(r'"([\w.]+)"', re.search(r"^packages = \[(.*?)\]", text, re.DOTALL | re.MULTILINE).group(1))
    beside = ["fusedsched.benchmarks", "fusedsched.triton_kernels"]
    assert sorted(listed) == sorted([*find_packages(str(ROOT), include=["fusedsched*"]), *beside])
    assert all(f'"{name}" = "{name.split(".")[1]}"' in text for name in beside)


def test_the_reason_names_what_is_missing(monkeypatch):
    from fusedsched.triton_kernels import reason

    monkeypatch.setitem(sys.modules, "triton", None)
    assert "Triton is not installed. Install it with: pip install 'triton>=3.6'" in reason()
    old = types.SimpleNamespace(__version__="3.5.1")
    monkeypatch.setitem(sys.modules, "triton", old)
    assert "Triton 3.5.1 is too old: 3.6 or newer is needed" in reason()
    old.__version__ = "3.10.0+git"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert reason() is None
    monkeypatch.delenv("TRITON_INTERPRET")
    import torch

    if not torch.cuda.is_available():
        assert "torch finds no GPU" in reason()


@pytest.mark.parametrize("path", sorted((ROOT / "triton_kernels").glob("*.py")), ids=lambda p: p.name)
def test_kernels_know_triton_and_each_other_alone(path):
    """They get addresses and numbers. torch and the optimizers are on the other side."""
    top = [line for line in path.read_text().splitlines() if re.match(r"(from|import) ", line)]
    allowed = r"(from __future__|from typing|import os$|import triton|from triton)"
    allowed += r"|from \.\w+ import|from \.\. import _layouts$"
    assert [line for line in top if not re.match(allowed, line)] == [] or path.name == "ops.py"
