# SPDX-License-Identifier: Apache-2.0
"""How setup.py builds for CUDA: which nvcc, which processors, and what it says when nvcc fails. No nvcc is needed."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the source tree")

NVCC = """#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release 12.4, V12.4.131" ;;
  --list-gpu-arch) echo compute_80 compute_86 compute_89 compute_90 compute_90a ;;
  --dryrun) echo "#$ TOP=$(dirname "$0")/.." >&2 ;;
  *) echo "this nvcc cannot compile" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def toolchain():
    spec = importlib.util.spec_from_file_location("toolchain", ROOT / "csrc" / "cuda" / "toolchain.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A CUDA_HOME with an nvcc that knows what it is asked, and compiles nothing."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / "libcudart_static.a").touch()
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.write_text(NVCC)
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.delenv("FUSEDSCHED_CUDA", raising=False)
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    smi = tmp_path / "bin" / "nvidia-smi"  # of a machine without a GPU
    smi.write_text("#!/bin/sh\nexit 1\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return tmp_path


@pytest.mark.parametrize("torch_cuda", [None, "13.0"])
@pytest.mark.parametrize("asked", [None, "", "0", "1"])
def test_cuda_is_compiled_where_torch_is_a_cuda_build_or_where_it_is_asked_for(
    toolchain, home, monkeypatch, torch_cuda, asked
):
    if asked is not None:
        monkeypatch.setenv("FUSEDSCHED_CUDA", asked)
    compiled = asked == "1" or (asked != "0" and torch_cuda is not None)
    assert toolchain.wanted(torch_cuda) == (str(home / "bin" / "nvcc") if compiled else None)


def test_without_nvcc_only_a_build_that_asks_for_cuda_fails(toolchain, monkeypatch):
    monkeypatch.setattr(toolchain, "find", lambda: None)
    monkeypatch.delenv("FUSEDSCHED_CUDA", raising=False)
    assert toolchain.wanted("13.0") is None
    monkeypatch.setenv("FUSEDSCHED_CUDA", "1")
    with pytest.raises(SystemExit, match="FUSEDSCHED_CUDA=1 needs nvcc"):
        toolchain.wanted("13.0")


def test_another_word_than_one_or_zero_is_refused(toolchain, monkeypatch):
    monkeypatch.setenv("FUSEDSCHED_CUDA", "yes")
    with pytest.raises(SystemExit, match="FUSEDSCHED_CUDA is 'yes'"):
        toolchain.wanted(None)


@pytest.mark.parametrize(
    "listed, expected",
    [("9.0\n9.0\n8.0\n", ["8.0", "9.0"]), ("10.3\n", None), ("No devices were found\n", None)],
    ids=["those that are here", "unknown to nvcc", "none"],
)
def test_the_gpus_of_the_machine_are_compiled_for(toolchain, home, monkeypatch, listed, expected):
    smi = home / "bin" / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\nprintf '{listed}'\n")
    assert toolchain.archs(toolchain.find()) == (expected or ["8.0", "8.6", "8.9", "9.0+PTX"])


@pytest.mark.parametrize(
    "wanted, expected",
    [
        ("", ["8.0", "8.6", "8.9", "9.0+PTX"]),  # those of the default that this nvcc knows, and PTX for later ones
        ("8.0;9.0+PTX", ["8.0", "9.0+PTX"]),
        ("8.0 9.0", ["8.0", "9.0"]),
        ("7.5, 9.0a;", ["7.5", "9.0a"]),
        ("native", ["native"]),
    ],
)
def test_processors_are_chosen_as_torch_does(toolchain, home, monkeypatch, wanted, expected):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wanted)
    assert toolchain.archs(toolchain.find()) == expected


def test_flags(toolchain, home):
    nvcc = toolchain.find()
    flags = toolchain.flags(nvcc, ["8.0", "9.0+PTX"])
    assert flags.count("-gencode") == 3 and "arch=compute_90,code=compute_90" in flags and "--fmad=false" in flags
    assert "-arch=native" in toolchain.flags(nvcc, ["native"])
    assert f"-L'{home.resolve() / 'lib64'}'" in toolchain.link_flags(nvcc)
    assert "FS_SMALL_ARGUMENTS" not in toolchain.defines(nvcc)
    nvcc = home / "bin" / "nvcc"
    nvcc.write_text(NVCC.replace("12.4", "12.0"))
    assert "FS_SMALL_ARGUMENTS" in toolchain.defines(str(nvcc))


def test_a_word_for_a_processor_is_refused(toolchain, home, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;Hopper")
    with pytest.raises(SystemExit, match="TORCH_CUDA_ARCH_LIST has 'Hopper'. Write numbers"):
        toolchain.archs(toolchain.find())


def test_an_nvcc_that_cannot_be_asked_is_an_error_that_says_how_to_do_without(toolchain, home):
    (home / "bin" / "nvcc").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(SystemExit, match="FUSEDSCHED_CUDA=0 builds without CUDA"):
        toolchain.archs(toolchain.find())


def test_an_nvcc_that_fails_is_an_error_that_says_how_to_do_without(home, tmp_path_factory):
    pytest.importorskip("setuptools")
    tree = tmp_path_factory.mktemp("tree")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "csrc", tree / "csrc")
    (tree / "fusedsched").mkdir()
    shutil.copy(ROOT / "fusedsched" / "__init__.py", tree / "fusedsched")
    broken = tree / "broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && echo broken 1.0\n[ "$1" = --version ]\n')
    broken.chmod(0o755)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    env = {**os.environ, "CXX": str(broken), "FUSEDSCHED_CUDA": "1"}
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "FUSEDSCHED_CUDA=0 builds without CUDA" in done.stderr
    assert not (tree / "fusedsched" / "_build_info.json").exists()


def test_the_build_says_what_it_was_built_with():
    path = ROOT / "fusedsched" / "_build_info.json"
    info = json.loads(path.read_text()) if path.exists() else {}
    if "compiler" not in info or "nvcc" not in info:
        pytest.skip("needs a build of this tree")
    assert (info["nvcc"] is None) == (info["archs"] == [])
