# SPDX-License-Identifier: Apache-2.0
"""No tensor that keeps its values elsewhere ends the process. In every place of a step it has torch's effect, or
raises and changes nothing. The rows run in processes of their own, since a null address would end this one."""

import json
import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from cases import BACKENDS
from subclass_runs import CASES, NUMBERS, READABLE

HERE = Path(__file__).resolve().parent
TRITON = find_spec("triton") is not None
EVERY = list(dict.fromkeys([*BACKENDS, *(["triton"] if TRITON else [])]))
ROWS = {"/".join(case.split("/")[:2]) for case in CASES}


def outcomes(backend, rows):
    """What came of each case of these rows; of one that ended its process, the signal."""
    found, left = {}, [case for case in CASES if "/".join(case.split("/")[:2]) in rows]
    while left:
        done = subprocess.run(
            [sys.executable, str(HERE / "subclass_runs.py"), backend],
            input="\n".join(left), capture_output=True, text=True, cwd=HERE.parent, timeout=600,
        )  # fmt: skip
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        found |= {row["case"]: row for row in rows}
        left = left[len(rows) :]
        if left:
            assert done.returncode < 0, done.stderr
            found[left.pop(0)] = {"signal": -done.returncode}
    return found


@pytest.fixture(scope="module", params=EVERY)
def found(request):
    calls = [getattr(item, "callspec", None) for item in request.session.items if item.path == request.path]
    asked = [call.params for call in calls if call and call.params.get("found") == request.param]
    return outcomes(request.param, {params["row"] for params in asked})  # those of this tier


def close(a, b):
    if isinstance(a, list):
        return len(a) == len(b) and all(map(close, a, b))
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6)


def judgement(case, row):
    """What is wrong; None: nothing."""
    if "signal" in row:
        return f"ended the process by signal {row['signal']}"
    place, kind, _ = case.split("/")
    ours, raised = row["ours"], [run for run in row["torch"] if "error" in run]
    if "params" in ours:
        expected = [run for run in row["torch"] if "params" in run]
        # torch's in-place operations on plain tensors run once for each half of a TwoTensor; here it is read once. And
        # a number may be read where torch's operations do not mix it with plain tensors.
        if kind == "two" or (not expected and place in NUMBERS):
            expected.append(row["plain"])
        return None if any(close(ours["params"], run["params"]) for run in expected) else "other values than torch's"
    if place == "state" and not ours["changed"] and 'Use backend="auto"' in ours["said"]:
        return None  # as a named backend refuses a parameter that is not native; "auto" leaves it to torch's operations
    if kind in READABLE:
        return f"raised {ours['error']}: {ours['said']}"
    if ours["changed"]:
        return f"raised {ours['error']} and changed something before"
    if row["torch"] and not raised:
        return f"raised {ours['error']} where torch steps: {ours['said']}"
    return None


@pytest.mark.parametrize("row", sorted(ROWS))
def test_tensors_that_are_not_native_have_torchs_effect(found, row):
    cases = [case for case in CASES if case.startswith(row + "/")]
    wrong = {case: words for case in cases if (words := judgement(case, found[case])) is not None}
    assert wrong == {}


def test_the_judgement_can_fail():
    steps = {"params": [[1.0]]}
    other, raised = {"params": [[2.0]]}, {"error": "TypeError", "changed": False, "said": "no"}
    assert judgement("gradient/wrapper/SGD", {"signal": 11}) == "ended the process by signal 11"
    assert judgement("gradient/wrapper/SGD", {"ours": steps, "torch": [other], "plain": steps}) is not None
    assert judgement("gradient/two/SGD", {"ours": steps, "torch": [other], "plain": steps}) is None
    assert judgement("gradient/wrapper/SGD", {"ours": raised, "torch": [raised], "plain": steps}) is not None
    assert judgement("gradient/fake/SGD", {"ours": raised, "torch": [raised], "plain": steps}) is None
    assert judgement("gradient/fake/SGD", {"ours": {**raised, "changed": True}, "torch": [raised], "plain": steps})
    assert judgement("gradient/fake/SGD", {"ours": raised, "torch": [steps], "plain": steps}) is not None
