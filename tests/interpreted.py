# SPDX-License-Identifier: Apache-2.0
"""The Triton backend under Triton's interpreter, in this process. Import it before `fusedsched.triton_kernels`.

Whether a kernel is interpreted is decided when it is defined, so the variable is set for the imports alone. Outside of
the `interpreter` fixture other tests see a machine without a GPU.
"""

import os

import pytest

_before = os.environ.get("TRITON_INTERPRET")
os.environ["TRITON_INTERPRET"] = "1"
try:
    pytest.importorskip("triton", reason="Triton is not installed")
    from fusedsched.triton_kernels import (
        maths as maths,
        metric as metric,
        rules as rules,
        schedule as schedule,
        scheduled_targets as scheduled_targets,
        step as step,
        telemetry as telemetry,
        tuning as tuning,
    )
finally:
    if _before is None:
        del os.environ["TRITON_INTERPRET"]

import numpy  # noqa: E402
import torch  # noqa: E402
from triton.runtime.interpreter import InterpretedFunction as jit  # noqa: E402, F401

import fusedsched  # noqa: E402


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    """In a module that imports this, backend="triton" takes tensors on the CPU."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert step.INTERPRETED.value, "the kernels were imported before tests/interpreted.py could ask for the interpreter"
    with numpy.errstate(all="ignore"):
        yield


def make(name, params, **options):
    """`make("AdamW", params, **options)`: an optimizer on the interpreted backend."""
    return getattr(fusedsched, name)(params, **{"backend": "triton", **options})


def evaluated(table, clocks):
    """The values of a program by the Triton evaluator."""
    program, at = torch.tensor(list(table), dtype=torch.float64), torch.tensor(clocks, dtype=torch.float64)
    out = torch.empty_like(at)
    block = 1 << max(0, len(clocks) - 1).bit_length()
    with numpy.errstate(all="ignore"):
        schedule.evaluate_kernel[(1,)](program, at, out, len(clocks), BLOCK=block)
    return out.tolist()
