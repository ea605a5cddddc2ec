# SPDX-License-Identifier: Apache-2.0
"""setup.py: a compiler that fails is an error, no compiler is not, and the copies of the kernels stay apart."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree")


@pytest.fixture
def tree(tmp_path):
    """A copy of what setup.py needs."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    (tmp_path / "fusedsched").mkdir()
    shutil.copy(ROOT / "fusedsched" / "__init__.py", tmp_path / "fusedsched")
    return tmp_path


def build(tree, **environment):
    """Runs an in-place build; returns the process and what it wrote about itself."""
    pytest.importorskip("setuptools")
    env = {**os.environ, **environment}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=300)
    written = tree / "fusedsched" / "_build_info.json"
    return done, json.loads(written.read_text()) if written.exists() else None


def test_a_compiler_that_fails_is_an_error(tree):
    broken = tree / "broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && echo broken 1.0\n[ "$1" = --version ]\n')
    broken.chmod(0o755)
    done, info = build(tree, CXX=str(broken))
    assert done.returncode != 0 and info is None
    assert "the compiler failed" in done.stderr and not list(tree.glob("fusedsched/*.so"))


def test_without_a_compiler_the_build_says_so_and_succeeds(tree):
    done, info = build(tree, CXX="", PATH=str(tree))
    assert done.returncode == 0, done.stderr
    assert "no C++ compiler was found" in info["missing"] and "no C++ compiler" in done.stderr


def test_the_extension_can_be_declined_and_an_old_one_goes(tree):
    done, _ = build(tree, FUSEDSCHED_NO_EXTENSION="1")
    assert done.returncode == 0, done.stderr
    old = tree / "fusedsched" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    old.write_text("not a library")
    done, info = build(tree, FUSEDSCHED_NO_EXTENSION="1")
    assert done.returncode == 0 and not old.exists() and "FUSEDSCHED_NO_EXTENSION" in info["missing"]


def test_no_kernel_is_shared_between_instruction_sets():
    """A weak symbol in two of these objects is one function to the linker, which keeps any one of them: an old
    processor could be handed AVX-512."""
    objects = sorted(ROOT.glob("build/*/step_*.o"))
    if not objects or shutil.which("nm") is None:
        pytest.skip("needs the objects of a build in this tree, and nm")
    for path in objects:
        symbols = subprocess.run(["nm", "-C", str(path)], capture_output=True, text=True, check=True).stdout
        shared = [line for line in symbols.splitlines() if line[17:18] in ("W", "V", "u")]
        assert not shared, f"{path.name}: {shared[:3]}"


@pytest.mark.parametrize("compiler", ["g++-11", "aarch64-linux-gnu-g++"])
@pytest.mark.parametrize("source", ["step", "dispatch"])
def test_the_kernels_compile_with_the_oldest_gcc_and_for_another_processor(compiler, source):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    isa = "generic" if compiler.startswith("aarch64") else "x86_64_v1"
    flags = ["-std=c++20", "-fopenmp", "-Wall", "-Werror", "-fsyntax-only", f"-DFS_ISA={isa}", "-I", str(ROOT / "csrc")]
    command = [compiler, *flags, str(ROOT / f"csrc/cpu/{source}.cpp")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
