# SPDX-License-Identifier: Apache-2.0
"""Tables of the CUDA kernels' properties: rules, storage variants, lengths; and what one update is in float64."""

from itertools import pairwise
from typing import Any, NamedTuple

import core_rules
import torch
from emulation.driver import TILE, Tensors
from torch import Tensor

from fusedsched import optim
from fusedsched.optim import adam, sgd
from fusedsched.optim.spec import OptimizerSpec
from fusedsched.verify.table import VISIBLE

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16


class RuleCase(NamedTuple):
    """`values`: the hyperparameters of a group, in the order of the spec."""

    spec: OptimizerSpec
    values: tuple[float, ...]

    @property
    def number(self) -> int:
        """Its place in FS_RULES."""
        return [rule.name for rule in core_rules.rules()].index(self.spec.choose(self._nonzero()))

    @property
    def states(self) -> int:
        """How many arrays."""
        return sum(state.needed(self._nonzero()) for state in self.spec.states)

    def _nonzero(self) -> dict[str, bool]:
        names = [hyper.name for hyper in self.spec.hyperparameters]
        return {name: value != 0.0 for name, value in zip(names, self.values, strict=True)}

    def group(self, values) -> dict[str, Any]:
        """A group with these numbers."""
        group = {}
        for hyper, value in zip(self.spec.hyperparameters, values, strict=True):
            group[hyper.key] = value if hyper.item is None else (*group.get(hyper.key, ()), value)
        return group


_LR, _WD, _MOMENTUM, _DAMPENING = 0.1, 0.5, 0.6, 0.25


def _adam(decoupled, amsgrad, maximize=0):
    return RuleCase(adam.SPEC, (_LR, 0.6, 0.7, 1e-2, _WD, amsgrad, maximize, decoupled))


def _sgd(momentum, weight_decay, nesterov=0, maximize=0):
    dampening = 0.0 if nesterov else _DAMPENING
    return RuleCase(sgd.SPEC, (_LR, momentum, dampening, weight_decay, nesterov, maximize))


def _visible(name):
    """An optimizer of one rule, with the numbers that show a wrong line."""
    spec = getattr(optim, name)._spec
    group = getattr(optim, name)([torch.zeros(1)], **VISIBLE[name]).param_groups[0]
    return RuleCase(spec, tuple(float(hyper.read(group)) for hyper in spec.hyperparameters))


RULES = {
    "adamw": _adam(1, 0),
    "adamw, amsgrad": _adam(1, 1, maximize=1),
    "adam, coupled": _adam(0, 0),
    "adam, coupled, amsgrad": _adam(0, 1),
    "sgd": _sgd(0.0, 0.0),
    "sgd, decay": _sgd(0.0, _WD, maximize=1),
    "sgd, momentum": _sgd(_MOMENTUM, 0.0),
    "sgd, momentum, decay": _sgd(_MOMENTUM, _WD),
    "sgd, nesterov": _sgd(_MOMENTUM, 0.0, nesterov=1),
    "sgd, nesterov, decay": _sgd(_MOMENTUM, _WD, nesterov=1),
    **{name.lower(): _visible(name) for name in optim.OPTIMIZERS if not hasattr(torch.optim, name)},
}

# fs::kVariants, and the types of parameter, gradient and states; of each mixed variant, all types in all places.
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


class Buffer(NamedTuple):
    """A tensor amid others' memory. `shift` elements after an aligned address."""

    whole: Tensor
    inner: Tensor

    def untouched_outside(self):
        start = self.inner.storage_offset()
        outside = torch.cat([self.whole[:start], self.whole[start + self.inner.numel() :]])
        return bool((outside == FILLED).all())


def buffer(values: Tensor, dtype: torch.dtype, shift: int = 0) -> Buffer:
    whole = torch.full((values.numel() + 2 * MARGIN + shift,), FILLED, dtype=dtype)
    inner = whole[MARGIN + shift : MARGIN + shift + values.numel()]
    inner.copy_(values)
    return Buffer(whole, inner)


def tensors(rule: RuleCase, dtypes, n: int, seed: int = 0, shifts=(0, 0, 0, 0, 0), group: int = 0):
    """Random `Tensors` of one parameter, and the buffers that they lie in."""
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(n, generator=generator, dtype=F64) for _ in range(2)]
    values = [*draw, *(torch.zeros(n) for _ in range(rule.states))]
    buffers = [buffer(v, d, s) for v, d, s in zip(values, dtypes, shifts, strict=False)]
    param, grad, *state = (r.inner for r in buffers)
    step = torch.zeros(1) if rule.spec.counts_steps else None
    return Tensors(param, grad, state, torch.zeros(1, dtype=torch.int64), step, group), buffers


def updated(rule: RuleCase, t: Tensors, values=None, gain: float = 1.0) -> list[Tensor]:
    """Parameter and states after one more update, in float64."""
    p, g, *arrays = (x.to(F64, copy=True) for x in (t.param, t.grad, *t.state))
    step = int(t.count) + 1
    specs = rule.spec.states[: len(arrays)]
    state = {s.name: x for s, x in zip(specs, arrays, strict=True) if step > 1 or s.init == "zeros"}
    rule.spec.reference(rule.group(rule.values if values is None else values), p, g * gain, state, step)
    return [p, *state.values()]


def evenly(numbers, parts):
    """The numbers in so many runs: where each begins and how long it is."""
    ends = [len(numbers) * k // parts for k in range(parts + 1)]
    return [(a, b - a) for a, b in pairwise(ends)]
