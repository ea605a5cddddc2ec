# SPDX-License-Identifier: Apache-2.0
"""The kernels of a step: one program prepares the scalars, then persistent programs update all tensors.

Two launches, where CUDA needs one: in Triton every thread of a program computes every scalar, so float64 evaluation
inside the update would be paid by all of them, in registers too. The first launch, one program, resolves the
hyperparameters, forms the scalars of each parameter, advances clocks and counts, and evaluates the native schedules for
the next step. The second reads a few rounded scalars per tile. What the first launch costs has not been measured: it is
one launch more, and the time of one program, which grows with the number of parameters (256 side by side) and of
schedules (one by one).

Whether a step is skipped (`found_inf`) is decided once, by the first, and read by the second from `control`.

Tables are int64 tensors on the device, so that addresses and sizes of any magnitude fit:

- arrays: one row per tensor: parameter, gradient, three states, length in real numbers, row of its scalars.
- chunks: pairs (row of arrays, tile).
- sources: one pair per hyperparameter of each group: where its number is (`VALUE`: in `values`; otherwise the dtype of
  the tensor at the address that follows), the address.
- programs: how many there are, in a row of its own; then one row per scheduled hyperparameter: address of the table,
  clock, address of the tensor that shows the value.
- entries: one row per parameter: group, address of its shown float32 step, 0 if it has none.
"""

import triton
import triton.language as tl

from .. import _layouts
from .rules import prepare, update
from .schedule import HORIZON, evaluate

MAX_HYPERPARAMETERS: tl.constexpr = tl.constexpr(_layouts.MAX_HYPERPARAMETERS)
MAX_SCALARS: tl.constexpr = tl.constexpr(_layouts.MAX_SCALARS)
ARRAY_WIDTH: tl.constexpr = tl.constexpr(len(_layouts.UPDATE_ARRAY))
STATE0: tl.constexpr = tl.constexpr(_layouts.UPDATE_ARRAY.index("state0"))
NUMEL: tl.constexpr = tl.constexpr(_layouts.UPDATE_ARRAY.index("numel"))
SCALARS: tl.constexpr = tl.constexpr(_layouts.UPDATE_ARRAY.index("scalars"))
PROGRAM_WIDTH: tl.constexpr = tl.constexpr(3)
ENTRY_WIDTH: tl.constexpr = tl.constexpr(2)
VALUE: tl.constexpr = tl.constexpr(_layouts.NUMBER_SOURCES.index("value"))
FLOAT32: tl.constexpr = tl.constexpr(_layouts.NUMBER_SOURCES.index("float32"))
FLOAT64: tl.constexpr = tl.constexpr(_layouts.NUMBER_SOURCES.index("float64"))
UPDATES: tl.constexpr = tl.constexpr(_layouts.CLOCKS.index("updates"))
SKIPPED: tl.constexpr = tl.constexpr(_layouts.CLOCKS.index("skipped"))
TAIL: tl.constexpr = tl.constexpr(16)  # 128 bits of every type divide this many elements
TYPES = {
    "torch.float32": tl.float32,
    "torch.float64": tl.float64,
    "torch.bfloat16": tl.bfloat16,
    "torch.float16": tl.float16,
}
"""The kernels' constants for torch's types."""
INTERPRETED: tl.constexpr = tl.constexpr(not isinstance(evaluate, triton.JITFunction))


@triton.jit
def widen(x, A: tl.constexpr):
    """To the type that is computed in."""
    if x.dtype == tl.bfloat16:
        x = x.to(tl.float32)
    return x.to(A)


@triton.jit
def rounded(x, T: tl.constexpr):
    """To the type that is stored, to nearest, ties to even."""
    if T == tl.bfloat16:
        x = x.to(tl.float32)
        if INTERPRETED:
            # Its own conversion rounds ties up and loses carries. The upper half is the number; see core/convert.h.
            bits = x.to(tl.uint32, bitcast=True)
            bits = tl.where(x != x, 0x7FC00000, bits + 0x7FFF + ((bits >> 16) & 1))
            return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return x.to(T)


@triton.jit
def write_current(programs, written, edited, clocks, past_horizon, n_programs, coming):
    """Stores the values of all schedules for the next update. One that was written to is left alone from then on.

    past_horizon: set to 1 for a schedule that has ended and must not go on; its last value stands until the host looks.
    coming: 1 if the update clock is about to advance.
    """
    for i in range(n_programs):
        row = programs + (i + 1) * PROGRAM_WIDTH
        program = tl.load(row).to(tl.pointer_type(tl.float64))
        lane = tl.arange(0, 1)  # the evaluator takes a block
        unit = tl.load(row + 1)
        clock = (tl.load(clocks + unit) + tl.where(unit == UPDATES, coming, 0) + lane).to(tl.float64)
        horizon = tl.load(program + HORIZON)
        past = tl.where(horizon >= 0.0, clock, -1.0) > horizon
        value = evaluate(program, tl.where(past, horizon, clock))
        tl.debug_barrier()  # loads stay below it: numbers that wait through the evaluator would be spilled
        shown = tl.load(row + 2).to(tl.pointer_type(tl.float64))
        is_edited = (tl.load(edited + i) != 0) | (tl.load(shown) != tl.load(written + i))
        tl.debug_barrier()  # every thread has read what is overwritten now
        tl.store(edited + i, is_edited.to(tl.int32))
        keep = lane * 0 + is_edited.to(tl.int32) == 0
        tl.store(shown + lane, value, mask=keep)
        tl.store(written + i + lane, value, mask=keep)
        tl.store(past_horizon + i + lane, lane + 1, mask=keep & past)


# Neither 1 nor multiples of 16 are special: each special case would be one more compilation.
@triton.jit(do_not_specialize=["unit", "amount"])
def advance_kernel(programs, written, edited, clocks, past_horizon, unit, amount):
    """Advances one clock and evaluates the native schedules."""
    clock = tl.load(clocks + unit)
    tl.debug_barrier()
    tl.store(clocks + unit, clock + amount)
    tl.debug_barrier()
    write_current(programs, written, edited, clocks, past_horizon, tl.load(programs).to(tl.int32), 0)


@triton.jit(do_not_specialize=["unit", "negative", "past_horizon"])
def advance_by_kernel(programs, written, edited, clocks, past_horizon, unit, by, negative):
    """The same by a number on the device. A negative one advances nothing and sets `negative` for the host."""
    amount = tl.load(by).to(tl.int64)
    clock = tl.load(clocks + unit)
    tl.debug_barrier()
    tl.store(clocks + unit, clock + tl.maximum(amount, 0))
    tl.store(negative, 1, mask=amount < 0)
    tl.debug_barrier()
    write_current(programs, written, edited, clocks, past_horizon, tl.load(programs).to(tl.int32), 0)


@triton.jit
def resolve(sources, values, resolved, n_numbers, BLOCK: tl.constexpr):
    """The present value of every hyperparameter of every group."""
    for begin in range(0, n_numbers, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        mask = at < n_numbers
        kind = tl.load(sources + 2 * at, mask=mask, other=VALUE)
        address = tl.load(sources + 2 * at + 1, mask=mask, other=0)
        single = tl.load(address.to(tl.pointer_type(tl.float32)), mask=mask & (kind == FLOAT32), other=0.0)
        double = tl.load(address.to(tl.pointer_type(tl.float64)), mask=mask & (kind == FLOAT64), other=0.0)
        value = tl.load(values + at, mask=mask, other=0.0)
        value = tl.where(kind == FLOAT32, single.to(tl.float64), tl.where(kind == FLOAT64, double, value))
        tl.store(resolved + at, value, mask=mask)


@triton.jit
def store_scalar(doubles, singles, at, k: tl.constexpr, value, mask):
    tl.store(doubles + at + k, value, mask=mask)
    tl.store(singles + at + k, value.to(tl.float32), mask=mask)


@triton.jit
def write_scalars(
    resolved, gain, active, n_active, entries, counts, doubles, singles, FAMILY: tl.constexpr, BLOCK: tl.constexpr
):
    """The scalars of every parameter that has a gradient; its count and the step that users see advance by one."""
    for begin in range(0, n_active, BLOCK):
        lane = begin + tl.arange(0, BLOCK)
        mask = lane < n_active
        entry = tl.load(active + lane, mask=mask, other=0)
        hyper = resolved + tl.load(entries + entry * ENTRY_WIDTH) * MAX_HYPERPARAMETERS
        address = tl.load(entries + entry * ENTRY_WIDTH + 1)
        seen = mask & (address != 0)
        shown_step = address.to(tl.pointer_type(tl.float32))
        count = tl.load(counts + entry)
        shown = tl.load(shown_step, mask=seen, other=0.0)
        # The tensor that users see may have been written to: then it is the count.
        count = tl.where(seen & (count.to(tl.float32) != shown), shown.to(tl.int64), count) + 1
        step = count.to(tl.float64)
        at = entry * MAX_SCALARS
        tl.debug_barrier()
        a, b, c, d, e, f, g, h, i, j = prepare(hyper, step * 0.0 + gain, step, FAMILY)
        store_scalar(doubles, singles, at, 0, a, mask)
        store_scalar(doubles, singles, at, 1, b, mask)
        store_scalar(doubles, singles, at, 2, c, mask)
        store_scalar(doubles, singles, at, 3, d, mask)
        store_scalar(doubles, singles, at, 4, e, mask)
        store_scalar(doubles, singles, at, 5, f, mask)
        store_scalar(doubles, singles, at, 6, g, mask)
        store_scalar(doubles, singles, at, 7, h, mask)
        store_scalar(doubles, singles, at, 8, i, mask)
        store_scalar(doubles, singles, at, 9, j, mask)
        tl.store(counts + entry, count, mask=mask)
        tl.store(shown_step, count.to(tl.float32), mask=seen)


@triton.jit(do_not_specialize=["n_numbers", "n_active", "grad_scale", "found_inf", "past_horizon"])
def prepare_kernel(
    control, clocks, sources, values, resolved, n_numbers, active, n_active, entries, counts, doubles, singles,
    programs, written, edited, past_horizon, grad_scale, found_inf,
    FAMILY: tl.constexpr, SCALED: tl.constexpr, CHECKED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Everything of a step but the elements. One program: nobody else reads or writes what it advances."""
    applied = n_active >= 0
    if CHECKED:
        applied = tl.load(found_inf) == 0.0
    gain = tl.full((), 1.0, tl.float64)
    if SCALED:
        gain = 1.0 / tl.load(grad_scale).to(tl.float64)
    tl.store(control, applied.to(tl.int32))
    n_numbers = tl.where(applied, n_numbers, 0)  # not a branch: one around all of this costs a stack frame
    n_active = tl.where(applied, n_active, 0)
    n_programs = tl.where(applied, tl.load(programs), 0).to(tl.int32)
    resolve(sources, values, resolved, n_numbers, BLOCK)
    tl.debug_barrier()  # what was resolved is read by other threads
    write_scalars(resolved, gain, active, n_active, entries, counts, doubles, singles, FAMILY, BLOCK)
    tl.debug_barrier()
    write_current(programs, written, edited, clocks, past_horizon, n_programs, 1)
    applied = tl.load(control)  # read again: what lives through all of the above would be spilled
    counter = clocks + tl.where(applied != 0, UPDATES, SKIPPED)
    count = tl.load(counter)
    tl.debug_barrier()  # every thread has read what is overwritten now
    tl.store(counter, count + 1)


@triton.jit
def update_elements(
    param, grad, state0, state1, state2, scalars, offsets, mask,
    RULE: tl.constexpr, STATES: tl.constexpr, A: tl.constexpr, WRITE_GRAD: tl.constexpr,
):  # fmt: skip
    """One tile. No array is named twice, so all loads may go out before the first store."""
    p = widen(tl.load(param + offsets, mask=mask), A)
    g = widen(tl.load(grad + offsets, mask=mask), A)
    if WRITE_GRAD:  # users find unscaled gradients after the step, as with torch's fused optimizers
        gain = tl.abs(tl.load(scalars))
        tl.store(grad + offsets, rounded(g * gain, grad.dtype.element_ty), mask=mask)
    s0, s1, s2 = p, p, p
    if STATES > 0:
        s0 = widen(tl.load(state0 + offsets, mask=mask), A)
    if STATES > 1:
        s1 = widen(tl.load(state1 + offsets, mask=mask), A)
    if STATES > 2:
        s2 = widen(tl.load(state2 + offsets, mask=mask), A)
    p, s0, s1, s2 = update(scalars, g, p, s0, s1, s2, RULE)
    if STATES > 0:
        tl.store(state0 + offsets, rounded(s0, state0.dtype.element_ty), mask=mask)
    if STATES > 1:
        tl.store(state1 + offsets, rounded(s1, state1.dtype.element_ty), mask=mask)
    if STATES > 2:
        tl.store(state2 + offsets, rounded(s2, state2.dtype.element_ty), mask=mask)
    tl.store(param + offsets, rounded(p, param.dtype.element_ty), mask=mask)


@triton.jit
def first_element(row, k: tl.constexpr, begin, T: tl.constexpr, ALIGNED: tl.constexpr):
    start = tl.load(row + k).to(tl.pointer_type(T))
    if ALIGNED:  # addresses out of a table carry no promise of their own
        start = tl.multiple_of(start, 16)
    return start + begin


@triton.jit(do_not_specialize=["n_chunks"])
def update_kernel(
    control, arrays, grads, chunks, n_chunks, scalars,
    RULE: tl.constexpr, STATES: tl.constexpr, P: tl.constexpr, G: tl.constexpr,
    S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr, A: tl.constexpr, ALIGNED: tl.constexpr,
    WRITE_GRAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """All tensors of one rule and one mixture of types. Of n programs, number i takes the tiles i, i + n, i + 2n ..."""
    n_chunks = tl.where(tl.load(control) != 0, n_chunks, 0)
    for chunk in range(tl.program_id(0), n_chunks, tl.num_programs(0)):
        pair = chunks + chunk * 2
        array = tl.load(pair)
        begin = tl.load(pair + 1) * BLOCK
        row = arrays + array * ARRAY_WIDTH
        numel = tl.load(row + NUMEL)
        own = scalars + tl.load(row + SCALARS) * MAX_SCALARS
        param = first_element(row, 0, begin, P, ALIGNED)
        grad = first_element(grads + array, 0, begin, G, ALIGNED)
        state0 = first_element(row, STATE0, begin, S0, ALIGNED)
        state1 = first_element(row, STATE0 + 1, begin, S1, ALIGNED)
        state2 = first_element(row, STATE0 + 2, begin, S2, ALIGNED)
        left = tl.minimum(numel - begin, BLOCK).to(tl.int32)
        offsets = tl.arange(0, BLOCK)
        if ALIGNED:
            # A mask that may end anywhere would break the vectors: the last few elements go by themselves.
            whole = tl.multiple_of(left // TAIL * TAIL, 16)
            update_elements(
                param, grad, state0, state1, state2, own, offsets, offsets < whole, RULE, STATES, A, WRITE_GRAD
            )
            if whole < left:
                rest = whole + tl.arange(0, TAIL)
                update_elements(
                    param, grad, state0, state1, state2, own, rest, rest < left, RULE, STATES, A, WRITE_GRAD
                )
        else:
            update_elements(
                param, grad, state0, state1, state2, own, offsets, offsets < left, RULE, STATES, A, WRITE_GRAD
            )
