# SPDX-License-Identifier: Apache-2.0
"""The rules: the headers of `csrc/core` in Triton, same names, same order of operations.

`*_scalars` are float64 and work on a block of parameters; `*_update` are in the type that the kernel computes in.
`prepare` and `update` choose among them: no kernel names a rule.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .maths import bias_correction

STATES = {
    "AdamW": 2,
    "AdamWAmsgrad": 3,
    "AdamCoupled": 2,
    "AdamCoupledAmsgrad": 3,
    "SGD": 0,
    "SGDDecay": 0,
    "SGDMomentum": 1,
    "SGDMomentumDecay": 1,
    "SGDNesterov": 1,
    "SGDNesterovDecay": 1,
    "Lion": 1,
    "LionDecay": 1,
}
"""The rules, and how many state arrays each has."""


@triton.jit
def adam_scalars(hyper, gain, step):
    """hyper: where a lane's eight numbers lie. gain: the gradient is multiplied by it. step: 1 for the first update."""
    beta1 = tl.load(hyper + 1)
    beta2 = tl.load(hyper + 2)
    first = bias_correction(beta1, step)
    second_inv_sqrt = 1.0 / tl.sqrt(bias_correction(beta2, step))
    lr = tl.load(hyper)
    eps = tl.load(hyper + 3)
    decay = tl.load(hyper + 4)
    maximize = tl.load(hyper + 6) != 0.0
    decoupled = tl.load(hyper + 7) != 0.0
    gain = tl.where(maximize, -gain, gain)
    keep = tl.where(decoupled, 1.0 - lr * decay, 1.0)
    weight_decay = tl.where(decoupled, 0.0, decay)
    from_grad = tl.where(beta1 < 0.5, 1.0, lr * 0.0)
    towards_grad = tl.where(beta1 < 0.5, -beta1, 1.0 - beta1)
    return gain, keep, weight_decay, lr / first, second_inv_sqrt, towards_grad, from_grad, beta2, 1.0 - beta2, eps


@triton.jit
def sgd_scalars(hyper, gain, step):
    """As adam_scalars. step 1: the buffer is new (zeros). torch then stores the gradient itself, without dampening; as
    it does while a schedule has the momentum at zero."""
    lr = tl.load(hyper)
    momentum = tl.load(hyper + 1)
    dampening = tl.load(hyper + 2)
    weight_decay = tl.load(hyper + 3)
    maximize = tl.load(hyper + 5) != 0.0
    first = step == 1.0
    gain = tl.where(maximize, -gain, gain)
    keep = tl.where(first, 0.0, momentum)
    intake = tl.where(first | (momentum == 0.0), 1.0, 1.0 - dampening)
    return gain, weight_decay, keep, intake, momentum, lr


@triton.jit
def divided(a, b):
    """a / b, rounded once. Triton's own float32 division is 2 ulp off."""
    if a.dtype == tl.float32:
        return tl.div_rn(a, b)
    else:
        return a / b


@triton.jit
def root(a):
    """The square root, rounded once. Triton's own of float32 is an approximation."""
    if a.dtype == tl.float32:
        return tl.sqrt_rn(a)
    else:
        return tl.sqrt(a)


@triton.jit
def adam_update(
    gain, keep, weight_decay, step_size, inv_sqrt_bc2, towards_grad, from_grad, beta2, one_minus_beta2, eps,
    g, p, m, v, vmax, COUPLED: tl.constexpr, AMSGRAD: tl.constexpr,
):  # fmt: skip
    g = g * gain
    if COUPLED:
        g = g + weight_decay * p
    else:
        p = p * keep
    # Starting from the nearer end, the difference is multiplied by at most a half: beta1 = 0 gives g to the last bit.
    m = tl.where(from_grad != 0.0, g, m) + towards_grad * (g - m)
    v = beta2 * v + one_minus_beta2 * g * g
    second = v
    if AMSGRAD:
        vmax = tl.where((vmax > v) | (vmax != vmax), vmax, v)  # torch.maximum: a NaN on either side stays
        second = vmax
    p = p - divided(step_size * m, root(second) * inv_sqrt_bc2 + eps)
    return p, m, v, vmax


@triton.jit
def sgd_update(
    gain, weight_decay, keep, intake, look_ahead, lr,
    g, p, buffer, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, DECAY: tl.constexpr,
):  # fmt: skip
    g = g * gain
    if DECAY:
        g = g + weight_decay * p
    if MOMENTUM:
        buffer = keep * buffer + intake * g
        if NESTEROV:
            g = g + look_ahead * buffer
        else:
            g = buffer
    p = p - lr * g
    return p, buffer


@triton.jit
def lion_scalars(hyper, gain, step):
    """As adam_scalars."""
    lr = tl.load(hyper)
    beta1 = tl.load(hyper + 1)
    beta2 = tl.load(hyper + 2)
    maximize = tl.load(hyper + 4) != 0.0
    gain = tl.where(maximize, -gain, gain)
    return gain, lr * tl.load(hyper + 3), lr, beta1, 1.0 - beta1, beta2, 1.0 - beta2


@triton.jit
def lion_update(gain, decay, lr, beta1, one_minus_beta1, beta2, one_minus_beta2, g, p, m, DECAY: tl.constexpr):
    g = g * gain
    mixed = beta1 * m + one_minus_beta1 * g
    # The sign of zero is zero, and that of NaN is NaN: a broken gradient shows in the parameter.
    sign = tl.where(mixed > 0.0, 1.0, tl.where(mixed < 0.0, -1.0, mixed))
    change = lr * sign
    if DECAY:
        change = change + decay * p  # one rounding of p, not two
    p = p - change
    m = beta2 * m + one_minus_beta2 * g
    return p, m


@triton.jit
def prepare(hyper, gain, step, FAMILY: tl.constexpr):
    """MAX_SCALARS float64 numbers of a block of parameters; those that a rule has no use for are zero."""
    tl.static_assert(FAMILY == "adam" or FAMILY == "sgd" or FAMILY == "lion")
    none = step * 0.0
    if FAMILY == "adam":
        return adam_scalars(hyper, gain, step)
    elif FAMILY == "sgd":
        a, b, c, d, e, f = sgd_scalars(hyper, gain, step)
        return a, b, c, d, e, f, none, none, none, none
    else:
        a, b, c, d, e, f, g = lion_scalars(hyper, gain, step)
        return a, b, c, d, e, f, g, none, none, none


@triton.jit
def update(s, g, p, state0, state1, state2, RULE: tl.constexpr):
    """The parameter and its states after one update. s: where the scalars lie, the gain first."""
    if RULE == "Lion" or RULE == "LionDecay":
        p, state0 = lion_update(
            tl.load(s), tl.load(s + 1), tl.load(s + 2), tl.load(s + 3), tl.load(s + 4), tl.load(s + 5), tl.load(s + 6),
            g, p, state0, RULE == "LionDecay",
        )  # fmt: skip
    elif RULE == "AdamW" or RULE == "AdamWAmsgrad" or RULE == "AdamCoupled" or RULE == "AdamCoupledAmsgrad":
        p, state0, state1, state2 = adam_update(
            tl.load(s), tl.load(s + 1), tl.load(s + 2), tl.load(s + 3), tl.load(s + 4), tl.load(s + 5), tl.load(s + 6),
            tl.load(s + 7), tl.load(s + 8), tl.load(s + 9), g, p, state0, state1, state2,
            RULE == "AdamCoupled" or RULE == "AdamCoupledAmsgrad",
            RULE == "AdamWAmsgrad" or RULE == "AdamCoupledAmsgrad",
        )  # fmt: skip
    else:
        p, state0 = sgd_update(
            tl.load(s), tl.load(s + 1), tl.load(s + 2), tl.load(s + 3), tl.load(s + 4), tl.load(s + 5), g, p, state0,
            RULE != "SGD" and RULE != "SGDDecay", RULE == "SGDNesterov" or RULE == "SGDNesterovDecay",
            RULE == "SGDDecay" or RULE == "SGDMomentumDecay" or RULE == "SGDNesterovDecay",
        )  # fmt: skip
    return p, state0, state1, state2
