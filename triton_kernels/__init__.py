# SPDX-License-Identifier: Apache-2.0
"""The Triton backend: schedules and rules as in `csrc/core`, for GPUs where no compiler is at hand.

`schedule` and `maths` evaluate programs, `rules` updates elements, `step` has the kernels, `tuning` the launch numbers.
The host's side is `fusedsched.optim.triton_plan`. Importing this package imports neither torch nor Triton.
"""

import os

OLDEST = (3, 6)
"""The oldest release of Triton that this is written for."""


def reason() -> str | None:
    """Why the Triton backend cannot be used here; None where it can. Imports Triton."""
    try:
        import triton
    except ImportError:
        return f"Triton is not installed. Install it with: pip install 'triton>={OLDEST[0]}.{OLDEST[1]}'"
    version = getattr(triton, "__version__", "0")
    if _release(version) < OLDEST:
        return f"Triton {version} is too old: {OLDEST[0]}.{OLDEST[1]} or newer is needed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    import torch

    return None if torch.cuda.is_available() else "torch finds no GPU (TRITON_INTERPRET=1 runs the kernels without one)"


def _release(version: str) -> tuple[int, ...]:
    """The first two numbers of a version.

    >>> _release("3.7.1+git1234") >= OLDEST, _release("3.10") > (3, 9), _release("unknown")
    (True, True, (0, 0))
    """
    numbers = (version.split("+")[0].split(".") + ["0", "0"])[:2]
    return tuple(int(n) if n.isdigit() else 0 for n in numbers)
