# SPDX-License-Identifier: Apache-2.0
"""Lion: the rule in plain torch operations, a whole optimizer made of it, and how both are verified."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedsched.reference.optimizers import _Eager
from fusedsched.reference.rules import _add_scaled, _scalar, _store_, _working


def lion_update_(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    *,
    lr: float | Tensor,
    beta1: float | Tensor,
    beta2: float | Tensor,
    weight_decay: float | Tensor,
    maximize: bool,
) -> None:
    """Updates one parameter and its momentum in place by Lion.

        p = p * (1 - lr * weight_decay)
        p = p - lr * sign(beta1 * m + (1 - beta1) * g)      sign(0) = 0, sign(NaN) = NaN
        m = beta2 * m + (1 - beta2) * g

    with `m` = exp_avg. The tensors have one shape and may differ in strides and dtype. A complex parameter is a pair of
    real ones. Scalars may be 0-dim tensors.

    Source: arXiv 2302.06675, algorithm 2.

    >>> p, g, m = (torch.tensor([x]) for x in (1.0, -2.0, 0.0))
    >>> lion_update_(p, g, m, lr=0.5, beta1=0.5, beta2=0.75, weight_decay=0.5, maximize=False)
    >>> p, m
    (tensor([1.2500]), tensor([-0.5000]))
    """
    lr, beta1, beta2, weight_decay = (_scalar(x) for x in (lr, beta1, beta2, weight_decay))
    p, g, m = _working(param, grad, exp_avg)
    if maximize:
        g = -g
    mixed = _add_scaled(m * beta1, g, 1 - beta1)
    sign = torch.where(mixed.isnan(), mixed, mixed.sign())
    p = _add_scaled(p * (1 - lr * weight_decay), sign, -lr)
    _store_(param, p)  # first, so that a parameter that cannot be written raises while the state is untouched
    _store_(exp_avg, _add_scaled(m * beta2, g, 1 - beta2))


class _Plain(torch.optim.Optimizer):
    def __init__(self, params: Any, **defaults: Any) -> None:
        super().__init__(params, defaults)


class Lion(_Eager, _Plain):
    """Lion in readable PyTorch; `dtype` and schedules as in `fusedsched.reference.Adam`.

    >>> p = torch.tensor([1.0], requires_grad=True)
    >>> opt = Lion([p], lr=0.25)
    >>> p.grad = torch.tensor([3.0])
    >>> opt.step()
    >>> p.detach()
    tensor([0.7500])
    """

    _slots = {**_Eager._slots, "beta1": ("betas", 0), "beta2": ("betas", 1)}
    _numbers = ("lr", "betas", "weight_decay")

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, *, dtype=None, **options) -> None:
        scalars = dict(lr=lr, betas=betas, weight_decay=weight_decay)
        flags = dict(maximize=False, foreach=None, capturable=False, differentiable=False, fused=None)
        self._construct(dtype, params, scalars, flags | options)

    @staticmethod
    def exactly(param: Any, grad: Any, state: dict[str, Any], options: dict[str, Any]) -> Any:
        """The parameter after one update, and its state in place, in any type: what `verify.extended` runs."""
        beta1, beta2 = options["betas"]
        m = state.get("exp_avg", 0 * param)
        mixed = beta1 * m + (1 - beta1) * grad
        state["exp_avg"] = beta2 * m + (1 - beta2) * grad
        up, down = (mixed > 0) * options["lr"], (mixed < 0) * options["lr"]
        return param - options["lr"] * options["weight_decay"] * param - up + down

    def _rule(self, group: dict[str, Any], p: Tensor, grad: Tensor, state: dict[str, Any]) -> None:
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format, requires_grad=False)
        numbers = {name: group[name] for name in ("lr", "weight_decay", "maximize")}
        lion_update_(p, grad, state["exp_avg"], beta1=group["betas"][0], beta2=group["betas"][1], **numbers)
