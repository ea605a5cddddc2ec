# SPDX-License-Identifier: Apache-2.0
"""Every kernel compiles for each architecture, without a stack; aligned tensors move 128 bits at a time; no
float64 in the loop over elements unless a tensor is of that type. No GPU is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiers import full

pytest.importorskip("triton", reason="Triton is not installed")
ARCHITECTURES = (80, full(90), full(100))  # 90: every rule
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def kernels(request, tmp_path_factory):
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    env.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(ROOT / "tests" / "triton_compiling.py"), str(request.param)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_kernels_compile_and_keep_to_their_promises(kernels):
    mutants = {name: kernels.pop(name) for name in list(kernels) if name.startswith("mutant")}
    for name, facts in kernels.items():
        assert facts["stack"] == 0 and facts["fused"] == 0, (name, facts)
        update = not name.startswith(("prepare", "advance", "record", "rates", "observe"))
        wide = "float64" in name or not update
        assert (facts["float64"] > 0) == wide, (name, facts)
        if update and "unaligned" not in name:
            assert facts["wide_loads"] >= 2 and facts["wide_stores"] >= 1, (name, facts)
        else:  # an unaligned address must not be read by vectors; and the property above can fail
            assert facts["wide_loads"] == facts["wide_stores"] == 0, (name, facts)
    assert all(facts["stack"] > 0 for facts in mutants.values()) and mutants  # the property of the stack can fail
