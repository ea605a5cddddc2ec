# SPDX-License-Identifier: Apache-2.0
"""Lion."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fusedsched.optim.optimizer import FusedOptimizer
from fusedsched.optim.spec import (
    Hyperparameter,
    OptimizerSpec,
    StateArray,
    flag,
    not_negative,
    one_of_unit_interval,
)
from fusedsched.reference.lion import lion_update_


def _reference(group: dict[str, Any], p: Tensor, grad: Tensor, state: dict[str, Any], step: int) -> None:
    numbers = {name: group[name] for name in ("lr", "weight_decay", "maximize")}
    lion_update_(p, grad, state["exp_avg"], beta1=group["betas"][0], beta2=group["betas"][1], **numbers)


SPEC = OptimizerSpec(
    name="Lion",
    family="lion",
    hyperparameters=(
        Hyperparameter("lr", "lr", check=not_negative("learning rate")),
        Hyperparameter("beta1", "betas", 0, one_of_unit_interval("beta parameter at index 0"), below=1.0),
        Hyperparameter("beta2", "betas", 1, one_of_unit_interval("beta parameter at index 1"), below=1.0),
        Hyperparameter("weight_decay", "weight_decay", check=not_negative("weight_decay value")),
        flag("maximize"),
    ),
    states=(StateArray("exp_avg"),),
    counts_steps=False,
    choose=lambda nonzero: "LionDecay" if nonzero["weight_decay"] else "Lion",
    reference=_reference,
    sparse_error="Lion does not support sparse gradients, please consider SparseAdam instead.",
    torch_class=None,
)


class Lion(FusedOptimizer):
    """Lion: the step is the sign of a mixture of momentum and gradient, computed in one pass over memory.

        g = -g                                              if maximize
        p = p * (1 - lr * weight_decay)
        p = p - lr * sign(beta1 * m + (1 - beta1) * g)      sign(0) = 0
        m = beta2 * m + (1 - beta2) * g

    Every element moves by `lr`, so a rate three to ten times smaller than AdamW's is usual, with a weight decay as much
    larger. torch has no such class; the keywords are those that torch's optimizers have in common. float16 and bfloat16
    parameters are computed in float32 and rounded once.

    `lr`, each of `betas` and `weight_decay` may be a schedule of `fusedsched.schedules`; then the group holds a 0-dim
    float64 tensor with the value for the next update. `backend`: "auto", or one of `backends()`. `foreach`, `fused` and
    `capturable` are accepted and choose nothing.

    Raises ValueError for a negative or NaN hyperparameter and for `differentiable=True` (the derivative of a sign is
    zero), RuntimeError (in `step()`, before anything is changed) for sparse gradients and gradients that do not fit
    their parameter.
    Source: arXiv 2302.06675.

    >>> import torch
    >>> p = torch.tensor([1.0], requires_grad=True)
    >>> opt = Lion([p], lr=0.25)
    >>> p.grad = torch.tensor([3.0])
    >>> opt.step()
    >>> p.detach()
    tensor([0.7500])
    """

    _spec = SPEC

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-4,
        betas: Any = (0.9, 0.99),
        weight_decay: Any = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        backend: str = "auto",
    ) -> None:
        if differentiable:
            raise ValueError("Lion cannot be differentiable=True: the derivative of a sign is zero.")
        scalars = dict(lr=lr, betas=betas, weight_decay=weight_decay)
        options = dict(maximize=maximize, foreach=foreach, capturable=capturable, differentiable=False, fused=fused)
        self._construct(params, scalars, options, backend)
