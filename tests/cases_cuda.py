# SPDX-License-Identifier: Apache-2.0
"""Tables for the laws about the CUDA kernels: rules, loops, lengths; and what one update is in float64."""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from emulation.driver import TILE, Tensors
from torch import Tensor

from fusedsched.reference import adam_update_, sgd_update_

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16


class RuleCase(NamedTuple):
    """`number`: its place in FS_RULES. `slots`: in the order of AdamSlot or SGDSlot. `states`: how many arrays."""

    number: int
    adam: bool
    states: int
    slots: tuple[float, ...]


_LR, _WD, _MOMENTUM, _DAMPENING = 0.1, 0.5, 0.6, 0.25


def _adam(number, decoupled, amsgrad, maximize=0):
    return RuleCase(number, True, 2 + amsgrad, (_LR, 0.6, 0.7, 1e-2, _WD, amsgrad, maximize, decoupled))


def _sgd(number, momentum, weight_decay, nesterov=0, maximize=0):
    dampening = 0.0 if nesterov else _DAMPENING
    return RuleCase(number, False, int(momentum > 0), (_LR, momentum, dampening, weight_decay, nesterov, maximize))


RULES = {
    "adamw": _adam(0, 1, 0),
    "adamw, amsgrad": _adam(1, 1, 1, maximize=1),
    "adam, coupled": _adam(2, 0, 0),
    "adam, coupled, amsgrad": _adam(3, 0, 1),
    "sgd": _sgd(4, 0.0, 0.0),
    "sgd, decay": _sgd(5, 0.0, _WD, maximize=1),
    "sgd, momentum": _sgd(6, _MOMENTUM, 0.0),
    "sgd, momentum, decay": _sgd(7, _MOMENTUM, _WD),
    "sgd, nesterov": _sgd(8, _MOMENTUM, 0.0, nesterov=1),
    "sgd, nesterov, decay": _sgd(9, _MOMENTUM, _WD, nesterov=1),
}

# fs::kLoops, and the types of parameter, gradient and states; of each mixed loop, all types in all places.
LOOPS: dict[str, tuple[int, tuple[Any, ...]]] = {
    "float32": (0, (F32, F32, F32, F32, F32)),
    "float64": (1, (F64, F64, F64, F64, F64)),
    "bfloat16": (2, (BF16, BF16, BF16, BF16, BF16)),
    "float16": (3, (F16, F16, F16, F16, F16)),
    "bfloat16 with float32 states": (4, (BF16, BF16, F32, F32, F32)),
    "float32 with all smaller ones": (4, (F32, F16, F16, BF16, F32)),
    "float16 with float32 gradient": (4, (F16, F32, BF16, F16, BF16)),
    "float64 with all others": (5, (F64, F32, BF16, F16, F64)),
    "all others with float64": (5, (BF16, F64, F32, F64, F16)),
}

DTYPES_OF_TENSORS = (F32, F64, BF16, F16)

# Twice the longest vector and one more, and around one and two tiles.
LENGTHS = (*range(18), 33, TILE - 1, TILE, TILE + 1, 2 * TILE + 5)

MARGIN, FILLED = 16, 7.0  # elements around each array that must stay as they are


class Room(NamedTuple):
    """A tensor amid others' memory. `shift` elements after an aligned address."""

    whole: Tensor
    inner: Tensor

    def untouched_outside(self):
        start = self.inner.storage_offset()
        outside = torch.cat([self.whole[:start], self.whole[start + self.inner.numel() :]])
        return bool((outside == FILLED).all())


def room(values: Tensor, dtype: torch.dtype, shift: int = 0) -> Room:
    whole = torch.full((values.numel() + 2 * MARGIN + shift,), FILLED, dtype=dtype)
    inner = whole[MARGIN + shift : MARGIN + shift + values.numel()]
    inner.copy_(values)
    return Room(whole, inner)


def tensors(rule: RuleCase, dtypes, n: int, seed: int = 0, shifts=(0, 0, 0, 0, 0), group: int = 0):
    """Random `Tensors` of one parameter, and the rooms that they lie in."""
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(n, generator=generator, dtype=F64) for _ in range(2)]
    values = [*draw, *(torch.zeros(n) for _ in range(rule.states))]
    rooms = [room(v, d, s) for v, d, s in zip(values, dtypes, shifts, strict=False)]
    param, grad, *state = (r.inner for r in rooms)
    step = torch.zeros(1) if rule.adam else None
    return Tensors(param, grad, state, torch.zeros(1, dtype=torch.int64), step, group), rooms


def updated(rule: RuleCase, t: Tensors, slots=None, gain: float = 1.0) -> list[Tensor]:
    """Parameter and states after one more update, in float64."""
    slots = rule.slots if slots is None else slots
    p, g, *s = (x.to(F64, copy=True) for x in (t.param, t.grad, *t.state))
    g = g * gain
    step = int(t.count) + 1
    if rule.adam:
        lr, beta1, beta2, eps, weight_decay, _, maximize, decoupled = slots
        options = dict(lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)
        largest = s[2] if rule.states > 2 else None
        adam_update_(p, g, s[0], s[1], largest, step, decoupled=bool(decoupled), maximize=bool(maximize), **options)
        return [p, *s]
    lr, momentum, dampening, weight_decay, nesterov, maximize = slots
    options = dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay)
    buffer = s[0] if s and step > 1 else None
    buffer = sgd_update_(p, g, buffer, nesterov=bool(nesterov), maximize=bool(maximize), **options)
    return [p] if buffer is None else [p, buffer]


def evenly(numbers, parts):
    """The numbers in so many runs: where each begins and how long it is."""
    ends = [len(numbers) * k // parts for k in range(parts + 1)]
    return [(a, b - a) for a, b in pairwise(ends)]
