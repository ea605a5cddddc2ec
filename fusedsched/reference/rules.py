# SPDX-License-Identifier: Apache-2.0
"""One update of one parameter, by Adam(W) and by SGD, in plain torch operations."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

# float16 and bfloat16 are widened for the arithmetic and rounded once, at the end, as the kernels do.
_COMPUTE_DTYPE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def adam_update_(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    max_exp_avg_sq: Tensor | None,
    step: int,
    *,
    lr: float | Tensor,
    beta1: float | Tensor,
    beta2: float | Tensor,
    eps: float,
    weight_decay: float | Tensor,
    decoupled: bool,
    maximize: bool,
) -> None:
    """Updates one parameter and its moments in place by Adam, or by AdamW if `decoupled`.

    With `m` = exp_avg, `v` = exp_avg_sq, `t` = step (1 for the first update of this parameter):

        p = p * (1 - lr * weight_decay)                    if decoupled, else g = g + weight_decay * p
        m = m + (1 - beta1) * (g - m)
        v = beta2 * v + (1 - beta2) * g * g
        p = p - lr / (1 - beta1**t) * m / (sqrt(v) / sqrt(1 - beta2**t) + eps)

    `max_exp_avg_sq`: the running maximum of v that takes its place in the last line (AMSGrad), or None.
    The tensors have one shape and may differ in strides and dtype. A complex parameter is a pair of real ones.
    Scalars may be 0-dim tensors; those that require grad stay in the graph (`differentiable=True`).

    Sources: arXiv 1412.6980, 1711.05101, 1904.09237; torch.optim.Adam and AdamW with `foreach=False, fused=False`.

    >>> import torch
    >>> p, g, m, v = (torch.tensor([x]) for x in (1.0, 2.0, 0.0, 0.0))
    >>> scalars = dict(lr=0.5, beta1=0.5, beta2=0.75, eps=0.0, weight_decay=0.5, decoupled=True, maximize=False)
    >>> adam_update_(p, g, m, v, None, 1, **scalars)
    >>> p, m, v
    (tensor([0.2500]), tensor([1.]), tensor([1.]))
    """
    lr, beta1, beta2, weight_decay = (_scalar(x) for x in (lr, beta1, beta2, weight_decay))
    largest = () if max_exp_avg_sq is None else (max_exp_avg_sq,)
    p, g, m, v, *largest = _working(param, grad, exp_avg, exp_avg_sq, *largest)
    if maximize:
        g = -g
    if decoupled:
        p = p * (1 - lr * weight_decay)  # decay first: afterwards it would shrink the update too
    elif _nonzero(weight_decay):
        g = _add_scaled(g, p, weight_decay)
    m = _towards(m, g, 1 - beta1)
    v = _add_scaled_square(v * beta2, g, 1 - beta2)
    second_moment = torch.maximum(*largest, v) if largest else v
    denominator = second_moment.sqrt() / (1 - beta2**step) ** 0.5 + eps
    p = _add_scaled_quotient(p, m, denominator, -lr / (1 - beta1**step))
    _store_(param, p)  # first, so that a parameter that cannot be written raises while the state is untouched
    _store_(exp_avg, m)
    _store_(exp_avg_sq, v)
    if max_exp_avg_sq is not None:
        _store_(max_exp_avg_sq, second_moment)


def sgd_update_(
    param: Tensor,
    grad: Tensor,
    momentum_buffer: Tensor | None,
    *,
    lr: float | Tensor,
    momentum: float | Tensor,
    dampening: float,
    weight_decay: float | Tensor,
    nesterov: bool,
    maximize: bool,
) -> Tensor | None:
    """Updates one parameter in place by SGD and returns its momentum buffer, a new one at the first update.

        g = g + weight_decay * p
        b = momentum * b + (1 - dampening) * g             b = g at the first update
        p = p - lr * (g + momentum * b if nesterov else b)

    Without momentum, `b` is neither read nor written: p = p - lr * g.

    Source: torch.optim.SGD with `foreach=False, fused=False`.

    >>> p, g, b = torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([4.0])
    >>> scalars = dict(momentum=0.5, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False)
    >>> sgd_update_(p, g, b, lr=0.25, **scalars), p
    (tensor([4.]), tensor([0.]))
    """
    lr, momentum, weight_decay = (_scalar(x) for x in (lr, momentum, weight_decay))
    p, g, *b = _working(param, grad, *(() if momentum_buffer is None else (momentum_buffer,)))
    if maximize:
        g = -g
    if _nonzero(weight_decay):
        g = _add_scaled(g, p, weight_decay)
    if not _nonzero(momentum):
        _store_(param, _add_scaled(p, g, -lr))
        return momentum_buffer
    b = _add_scaled(b[0] * momentum, g, 1 - dampening) if b else g
    p = _add_scaled(p, _add_scaled(g, b, momentum) if nesterov else b, -lr)
    _store_(param, p)
    if momentum_buffer is None:
        momentum_buffer = torch.empty_like(param, requires_grad=False)
    _store_(momentum_buffer, b)
    return momentum_buffer


def _scalar(x: float | Tensor) -> float | Tensor:
    # A Python float is exact: no rounding of 1 - beta2 to float32. Only a scalar to differentiate stays a tensor.
    if type(x) is Tensor and not x.requires_grad:
        with torch._C._DisableTorchDispatch():  # a real number, also where the others are fake
            return x.item()
    if isinstance(x, Tensor):
        return x.squeeze() if x.requires_grad else x.item()
    return x


def _nonzero(x: float | Tensor) -> bool:
    return isinstance(x, Tensor) or x != 0


def _working(*tensors: Tensor) -> list[Tensor]:
    # As real numbers of one dtype, wide enough for all. With grad enabled they are copies: the originals are about to
    # be overwritten while the graph still needs their values.
    dtype = reduce(torch.promote_types, (x.dtype for x in tensors))
    dtype = dtype.to_real() if dtype.is_complex else _COMPUTE_DTYPE.get(dtype, dtype)
    real = (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x for x in tensors)
    return [x.to(dtype, copy=torch.is_grad_enabled()) for x in real]


def _store_(target: Tensor, value: Tensor) -> None:
    target.copy_(torch.view_as_complex(value.contiguous()) if target.is_complex() else value)


# With a Python scalar these are one torch op each, rounded once where the hardware has a fused multiply-add.


def _add_scaled(x: Tensor, y: Tensor, scale: float | Tensor) -> Tensor:
    return x + scale * y if isinstance(scale, Tensor) else torch.add(x, y, alpha=scale)


def _add_scaled_square(x: Tensor, y: Tensor, scale: float | Tensor) -> Tensor:
    return x + scale * y * y if isinstance(scale, Tensor) else torch.addcmul(x, y, y, value=scale)


def _add_scaled_quotient(x: Tensor, y: Tensor, z: Tensor, scale: float | Tensor) -> Tensor:
    return x + scale * y / z if isinstance(scale, Tensor) else torch.addcdiv(x, y, z, value=scale)


def _towards(x: Tensor, y: Tensor, weight: float | Tensor) -> Tensor:
    return x + weight * (y - x) if isinstance(weight, Tensor) else torch.lerp(x, y, weight)
