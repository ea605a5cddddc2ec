# SPDX-License-Identifier: Apache-2.0
"""One row of telemetry: what the step that is launched next is about to use. The ring: csrc/core/telemetry.h."""

import triton
import triton.language as tl

from .. import _layouts
from .step import UPDATES, resolve

HEAD: tl.constexpr = tl.constexpr(len(_layouts.TELEMETRY_HEAD))


@triton.jit(do_not_specialize=["rows", "n_numbers", "found_inf"])
def record_kernel(
    ring, rows, clocks, sources, values, n_numbers, found_inf, CHECKED: tl.constexpr, BLOCK: tl.constexpr
):
    """`rows`: how many the ring has, its header not counted. One program."""
    written = tl.load(ring)
    norm = tl.load(ring + 1)
    row = ring + (1 + written.to(tl.int64) % rows) * (HEAD + n_numbers)
    skipped = written * 0.0
    if CHECKED:
        skipped = tl.where(tl.load(found_inf) != 0.0, skipped + 1.0, skipped)
    tl.debug_barrier()  # every thread has read what is overwritten now
    resolve(sources, values, row + HEAD, n_numbers, BLOCK)
    tl.store(row, tl.load(clocks + UPDATES).to(tl.float64))
    tl.store(row + 1, skipped)
    tl.store(row + 2, norm)
    tl.store(ring + 1, tl.full((), float("nan"), tl.float64))
    tl.store(ring, written + 1.0)
