# SPDX-License-Identifier: Apache-2.0
"""The rules: `csrc/core/adam.h`, `sgd.h` and `rules.h` in Triton, same names, same order of operations.

`*_scalars` are float64 and work on a block of parameters; `*_update` are in the type that the kernel computes in.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .maths import bias_correction

# The list of rules, in the order of csrc/core/rules.h.
RULES = (
    "AdamW",
    "AdamWAmsgrad",
    "AdamCoupled",
    "AdamCoupledAmsgrad",
    "SGD",
    "SGDDecay",
    "SGDMomentum",
    "SGDMomentumDecay",
    "SGDNesterov",
    "SGDNesterovDecay",
)
STATES = (2, 3, 2, 3, 0, 0, 1, 1, 1, 1)
"""How many state tensors each rule has."""

FIRST_SGD: tl.constexpr = tl.constexpr(4)
FIRST_MOMENTUM: tl.constexpr = tl.constexpr(6)
FIRST_NESTEROV: tl.constexpr = tl.constexpr(8)
MAX_SCALARS: tl.constexpr = tl.constexpr(10)
MAX_SLOTS: tl.constexpr = tl.constexpr(8)

# The numbers of a group: (name, key, item of the key or None). The order is that of AdamSlot and SGDSlot.
ADAM_SLOTS = (
    ("lr", "lr", None),
    ("beta1", "betas", 0),
    ("beta2", "betas", 1),
    ("eps", "eps", None),
    ("weight_decay", "weight_decay", None),
    ("amsgrad", "amsgrad", None),
    ("maximize", "maximize", None),
    ("decoupled_weight_decay", "decoupled_weight_decay", None),
)
SGD_SLOTS = (
    ("lr", "lr", None),
    ("momentum", "momentum", None),
    ("dampening", "dampening", None),
    ("weight_decay", "weight_decay", None),
    ("nesterov", "nesterov", None),
    ("maximize", "maximize", None),
)


def rule_of(adam: bool, on: dict[str, bool]) -> int:
    """The rule of a group. `on`: for each slot, whether its number is other than zero, or not known on the host.

    >>> RULES[rule_of(True, {"decoupled_weight_decay": False, "weight_decay": True, "amsgrad": False})]
    'AdamCoupled'
    """
    if adam:
        coupled = not on["decoupled_weight_decay"] and on["weight_decay"]
        return 2 * coupled + on["amsgrad"]
    if not on["momentum"]:
        return 4 + on["weight_decay"]
    return 6 + 2 * on["nesterov"] + on["weight_decay"]


@triton.jit
def adam_scalars(slots, gain, step):
    """slots: where a lane's eight numbers lie. gain: the gradient is multiplied by it. step: 1 for the first update."""
    beta1 = tl.load(slots + 1)
    beta2 = tl.load(slots + 2)
    first = bias_correction(beta1, step)
    second_inv_sqrt = 1.0 / tl.sqrt(bias_correction(beta2, step))
    lr = tl.load(slots)
    eps = tl.load(slots + 3)
    decay = tl.load(slots + 4)
    maximize = tl.load(slots + 6) != 0.0
    decoupled = tl.load(slots + 7) != 0.0
    gain = tl.where(maximize, -gain, gain)
    keep = tl.where(decoupled, 1.0 - lr * decay, 1.0)
    weight_decay = tl.where(decoupled, 0.0, decay)
    from_grad = tl.where(beta1 < 0.5, 1.0, lr * 0.0)
    towards_grad = tl.where(beta1 < 0.5, -beta1, 1.0 - beta1)
    return gain, keep, weight_decay, lr / first, second_inv_sqrt, towards_grad, from_grad, beta2, 1.0 - beta2, eps


@triton.jit
def sgd_scalars(slots, gain, step):
    """As adam_scalars. step 1: the buffer is new (zeros). torch then stores the gradient itself, without dampening; as
    it does while a schedule has the momentum at zero."""
    lr = tl.load(slots)
    momentum = tl.load(slots + 1)
    dampening = tl.load(slots + 2)
    weight_decay = tl.load(slots + 3)
    maximize = tl.load(slots + 5) != 0.0
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
