# SPDX-License-Identifier: Apache-2.0
"""`make check-gpu` without a GPU: what it collects, how it ends, and what one failing part leaves to the others."""

import json
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path

import pytest
import torch
from tiers import full

ROOT = Path(__file__).resolve().parents[1]
GPU = ROOT / "tests" / "gpu"
sys.path.insert(0, str(GPU))

import machines  # noqa: E402
import stages  # noqa: E402

# A process that finds a GPU, as far as collecting goes.
COLLECT = """
import sys, torch, pytest
torch.cuda.is_available = lambda: True
status = pytest.main(["tests/gpu", "--collect-only", "-q", "-p", "no:cacheprovider", *sys.argv[1:]])
step = sys.modules.get("fusedsched.triton_kernels.step")
print("interpreted:", step is not None and bool(step.INTERPRETED.value))
sys.exit(status)
"""


def collected(*before):
    command = [sys.executable, "-c", "".join(before) + COLLECT]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_tests_of_a_gpu_are_collected_without_interpreted_kernels():
    done = collected()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_backends_agree" in done.stdout and "interpreted: False" in done.stdout


def test_interpreted_kernels_end_the_run_at_once():
    """Had another module imported them for the interpreter, they would read device addresses on the host."""
    pytest.importorskip("triton")
    interpreted = "import sys; sys.path.insert(0, 'tests'); import interpreted\n"
    done = collected(interpreted)
    assert done.returncode != 0 and "without TRITON_INTERPRET" in done.stdout + done.stderr


class SyncMode:
    """torch's switch, which warns once, after the mode is set."""

    def __init__(self):
        self.mode, self.warned = "default", False

    def __call__(self, mode):
        self.mode = mode
        if not self.warned:
            self.warned = True
            warnings.warn("Synchronization debug mode is a prototype feature", UserWarning, stacklevel=2)


@pytest.mark.parametrize("fails", (False, True))
def test_the_sync_mode_is_reset_whatever_happens(fails, monkeypatch):
    switch, seen = SyncMode(), None
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", switch)
    try:
        with machines.errors_at_waits():
            seen = switch.mode
            if fails:
                raise RuntimeError("called a synchronizing CUDA operation")
    except RuntimeError:
        assert fails
    assert seen == "error" and switch.mode == "default" and switch.warned


def part(name, code, seconds=20):
    return stages.Part(name, seconds, [sys.executable, "-c", code], dry=[sys.executable, "-c", code])


def test_a_part_that_fails_or_hangs_leaves_the_others(tmp_path, monkeypatch):
    parts = [
        part("fails", "print('why'); raise SystemExit(3)"),
        part("hangs", "import time; print('on', flush=True); time.sleep(60)", 1),
        part("works", "print('done')"),
        stages.Part("missing", 5, ["no-such-program"], "no-such-program"),
    ]
    monkeypatch.setattr(stages, "stages", lambda folder: {1: parts})
    assert stages.run(1, tmp_path, dry=False) == 1
    rows = json.loads((tmp_path / "stage1.json").read_text())
    results = {name: row["result"] for name, row in rows.items()}
    assert results == {
        "fails": "failed: exit status 3",
        "hangs": "too slow",
        "works": "ok",
        "missing": "skipped: there is no no-such-program",
    }
    assert rows["fails"]["last"] == ["why"]
    with tarfile.open(tmp_path / "stage1.tar.gz") as archive:
        assert {"logs/fails.txt", "logs/hangs.txt", "logs/works.txt"} <= set(archive.getnames())


def test_no_stage_takes_longer_or_leaves_more_than_it_may(tmp_path):
    limits = {1: 240, 2: 180, 3: 180}
    for stage, parts in stages.stages(tmp_path).items():
        assert sum(part.seconds for part in parts) <= limits[stage]
        written = {Path(word).name for part in parts for word in part.command if word.startswith(str(tmp_path))}
        assert len(written) + 2 <= 6


@pytest.mark.parametrize("stage", (1, full(2), full(3)))
def test_a_dry_run_of_each_stage(stage, tmp_path):
    if machines.machine() is None or machines.machine().real:
        pytest.skip("the dry run needs the extension, and no GPU")
    assert stages.run(stage, tmp_path, dry=True, factor=10) == 0, (tmp_path / f"stage{stage}.json").read_text()
    rows = json.loads((tmp_path / f"stage{stage}.json").read_text())
    assert "ok" in {row["result"] for row in rows.values()}
