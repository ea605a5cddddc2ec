# SPDX-License-Identifier: Apache-2.0
"""What importing costs, and what happens without the compiled extension. Each case has a process of its own."""

import json
import os
import subprocess
import sys

import pytest

import fusedsched as fs
from fusedsched import _native


def run(code, **environment):
    """Runs `code` in a fresh Python; returns the finished process."""
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)


@pytest.mark.parametrize("module", ["fusedsched", "fusedsched.schedules", "fusedsched.cli"])
def test_importing_this_does_not_import_torch(module):
    done = run(f"import sys, {module}; print('torch' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


def test_importing_everything_imports_neither_triton_nor_cuda():
    done = run(
        "import sys, torch\nbefore = set(sys.modules)\nimport fusedsched as fs\n"
        "fs.AdamW, fs.lr_scheduler.StepLR, fs.schedules, fs.reference\n"
        "print('triton' in set(sys.modules) - before, torch.cuda.is_initialized())"
    )
    assert done.stdout == "False False\n", done.stderr


def test_the_check_above_can_fail():
    assert run("import sys, torch; print('torch' in sys.modules)").stdout == "True\n"


def test_public_names_are_there():
    assert all(hasattr(fs, name) for name in fs.__all__) and set(fs.__all__) <= set(dir(fs))
    with pytest.raises(AttributeError, match="no attribute 'AdamX'"):
        _ = fs.AdamX


USE = """
import json, warnings, torch
import fusedsched as fs
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    weights = []
    for _ in range(2):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 50))
        opt = fs.AdamW([p], lr=0.1, weight_decay=0.5)
        sched = fs.lr_scheduler.StepLR(opt, 1, 0.5)
        for _ in range(3):
            p.grad = p.detach().cos()
            opt.step(); sched.step()
        weights.append(p.tolist())
print(json.dumps({"warnings": [str(w.message) for w in seen], "weights": weights, "backend": str(opt.backend)}))
"""


def test_without_the_extension_everything_runs_and_one_warning_says_why():
    done = run(USE, FUSEDSCHED_NO_EXTENSION="1")
    assert done.returncode == 0, done.stderr
    without, native = json.loads(done.stdout), json.loads(run(USE).stdout)
    assert without["backend"] == "reference"
    assert len(without["warnings"]) == 1 and "FUSEDSCHED_NO_EXTENSION=1 is set" in without["warnings"][0]
    for a, b in zip(without["weights"], native["weights"], strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"missing": "no compiler was found"}, "no compiler was found. Build it with"),
        ({"torch": "2.0.0"}, "built for torch 2.0.0, this is torch"),
    ],
)
def test_the_reason_for_a_missing_extension_is_named(info, words, monkeypatch):
    monkeypatch.delenv("FUSEDSCHED_NO_EXTENSION", raising=False)
    monkeypatch.setattr(_native, "build_info", lambda: info)
    module, reason = _native._load.__wrapped__()
    assert module is None and words in reason
