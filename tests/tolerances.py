# SPDX-License-Identifier: Apache-2.0
"""The comparisons of `fusedsched.verify`, as assertions. Every number that they compare with stands in its `bounds.py`,
and where it comes from.

A failing test is not mended there: each number follows from a count of roundings.
"""

from fusedsched.verify import bounds
from fusedsched.verify.bounds import (
    EVALUATOR_ULPS as EVALUATOR_ULPS,
    ROUNDINGS_PER_UPDATE as ROUNDINGS_PER_UPDATE,
    SCHEDULER_ERROR as SCHEDULER_ERROR,
    TORCH_ERRORS as TORCH_ERRORS,
)


def close(ours, torchs, updates: int, what: str = "value") -> None:
    """Asserts that two tensors agree as two orders of the same roundings do after so many updates."""
    verdict = bounds.close(ours, torchs, updates, what)
    assert verdict.passed, f"{verdict.what}: differs by {verdict.error:.3g}, more than {verdict.allowed:.3g}"
