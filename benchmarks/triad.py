# SPDX-License-Identifier: Apache-2.0
"""The loads and stores of an AdamW step and next to nothing else, in Triton: what the memory gives for that mixture."""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _walk(param, grad, first, second, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    p, g = tl.load(param + at, inside), tl.load(grad + at, inside)
    m, v = tl.load(first + at, inside), tl.load(second + at, inside)
    tl.store(param + at, p - 1e-6 * m, inside)  # each of the four arrays is used, or its load would vanish
    tl.store(first + at, m + 1e-6 * g, inside)
    tl.store(second + at, v - 1e-6 * v, inside)


def walk(param: Tensor, grad: Tensor, first: Tensor, second: Tensor, block: int) -> None:
    """Walks once over four arrays of the same length and changes three of them, a little."""
    n = param.numel()
    _walk[((n + block - 1) // block,)](param, grad, first, second, n, BLOCK=block, num_warps=8)
