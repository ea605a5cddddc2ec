# SPDX-License-Identifier: Apache-2.0
"""Every number that a test compares with, and where it comes from. The bounds that users rely on are in fusedsched.

A failing test is not mended here: each number follows from a count of roundings.
"""

import torch

from fusedsched.verify.bounds import (
    EVALUATOR_ULPS as EVALUATOR_ULPS,
    SCHEDULER_ERROR as SCHEDULER_ERROR,
    TORCH_ERRORS as TORCH_ERRORS,
)

# One update of one element is a chain of about 10 operations; two orders of them differ by at most that many ulps, and
# the differences of the updates add up.
ROUNDINGS_PER_UPDATE = 10

# float16 and bfloat16: torch rounds after every operation, we round once. Of values near 1 that moves a result by
# about 10 half ulps an update, and an error of a moment is divided by its root: twice that.
ROUNDINGS_PER_UPDATE_LOW = 20


# A parameter is changed by numbers of the size lr * 1, whatever its own size; and torch's 1 - beta2**step has lost the
# digits that 1 / (1 - beta2) asks for.
SMALLEST_SCALE = 0.1


def close(ours, torchs, updates: int, what: str = "value") -> None:
    """Asserts that two tensors agree as two orders of the same roundings do after so many updates.

    The scale is the largest magnitude among them: an update subtracts numbers of that size.
    """
    assert ours.dtype == torchs.dtype, f"{what}: {ours.dtype} instead of {torchs.dtype}"
    assert ours.shape == torchs.shape, f"{what}: shape {tuple(ours.shape)} instead of {tuple(torchs.shape)}"
    if ours.numel() == 0:
        return
    roundings = ROUNDINGS_PER_UPDATE_LOW if torchs.dtype.itemsize == 2 else ROUNDINGS_PER_UPDATE
    scale = max(float(torchs.detach().abs().max()), SMALLEST_SCALE if what.startswith("param") else 0.0)
    limit = max(updates, 1) * roundings * torch.finfo(torchs.dtype).eps * scale
    worst = float((ours.detach() - torchs.detach()).abs().max())
    assert worst <= limit, f"{what}: differs by {worst:.3g}, more than {limit:.3g}"
