# SPDX-License-Identifier: Apache-2.0
"""Adam and AdamW."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fusedsched.optim.optimizer import FusedOptimizer
from fusedsched.optim.spec import (
    Hyperparameter,
    NonZero,
    OptimizerSpec,
    StateArray,
    flag,
    not_negative,
    one_of_unit_interval,
)
from fusedsched.reference import adam_update_
from fusedsched.torch_originals import Adam as TorchAdam, AdamW as TorchAdamW


def _choose(nonzero: NonZero) -> str:
    coupled = nonzero["weight_decay"] and not nonzero["decoupled_weight_decay"]
    return ("AdamCoupled" if coupled else "AdamW") + ("Amsgrad" if nonzero["amsgrad"] else "")


def _reference(group: dict[str, Any], p: Tensor, grad: Tensor, state: dict[str, Any], step: int) -> None:
    adam_update_(
        p,
        grad,
        state["exp_avg"],
        state["exp_avg_sq"],
        state["max_exp_avg_sq"] if group["amsgrad"] else None,
        step,
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        eps=group["eps"],
        weight_decay=group["weight_decay"],
        decoupled=group["decoupled_weight_decay"],
        maximize=group["maximize"],
    )


SPEC = OptimizerSpec(
    name="Adam",
    family="adam",
    hyperparameters=(
        Hyperparameter("lr", "lr", check=not_negative("learning rate")),
        Hyperparameter("beta1", "betas", 0, one_of_unit_interval("beta parameter at index 0"), below=1.0),
        Hyperparameter("beta2", "betas", 1, one_of_unit_interval("beta parameter at index 1"), below=1.0),
        Hyperparameter("eps", "eps", check=not_negative("epsilon value"), schedulable=False),
        Hyperparameter("weight_decay", "weight_decay", check=not_negative("weight_decay value")),
        flag("amsgrad"),
        flag("maximize"),
        flag("decoupled_weight_decay"),
    ),
    states=(
        StateArray("exp_avg"),
        StateArray("exp_avg_sq"),
        StateArray("max_exp_avg_sq", needed=lambda nonzero: nonzero["amsgrad"]),
    ),
    counts_steps=True,
    choose=_choose,
    reference=_reference,
    sparse_error="Adam does not support sparse gradients, please consider SparseAdam instead.",
    torch_class=TorchAdam,
)


class Adam(FusedOptimizer, TorchAdam):
    """Adam, with the arguments of `torch.optim.Adam`, computed in one pass over memory.

        g = -g                                              if maximize
        g = g + weight_decay * p                            (AdamW instead: p = p * (1 - lr * weight_decay))
        m = m + (1 - beta1) * (g - m)
        v = beta2 * v + (1 - beta2) * g * g
        p = p - lr / (1 - beta1**t) * m / (sqrt(v) / sqrt(1 - beta2**t) + eps)

    with t = 1 for the first update of a parameter; with `amsgrad` the running maximum of v takes its place in the last
    line. float16 and bfloat16 parameters are computed in float32 and rounded once.

    Args beyond torch's: `lr`, each of `betas` and `weight_decay` may be a schedule of `fusedsched.schedules`; then the
    group holds a 0-dim float64 tensor with the value for the next update. `backend`: "auto", or one of `backends()`.
    `foreach`, `fused` and `capturable` are accepted and choose nothing; `differentiable=True` runs torch's own
    differentiable step.

    Raises ValueError for a negative or NaN hyperparameter, RuntimeError (in `step()`, before anything is changed) for
    sparse gradients and gradients that do not fit their parameter.
    Source: arXiv 1412.6980, 1904.09237 (amsgrad); torch.optim.Adam.

    >>> import torch
    >>> p = torch.tensor([1.0], requires_grad=True)
    >>> opt = Adam([p], lr=0.25, eps=0.0)
    >>> p.grad = torch.tensor([3.0])
    >>> opt.step()
    >>> p.detach()
    tensor([0.7500])
    """

    _spec = SPEC

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: Any = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Any = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        backend: str = "auto",
    ) -> None:
        scalars = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)
        options = dict(maximize=maximize, foreach=foreach, capturable=capturable, differentiable=differentiable)
        options.update(fused=fused, decoupled_weight_decay=decoupled_weight_decay)
        self._construct(params, scalars, options, backend)


class AdamW(Adam, TorchAdamW):
    """AdamW, with the arguments of `torch.optim.AdamW`: `Adam` whose weight decay shrinks the parameter directly.

    Source: arXiv 1711.05101; torch.optim.AdamW. Formula, arguments and errors: see `Adam`.

    >>> import torch
    >>> from fusedsched import schedules
    >>> p = torch.tensor([1.0], requires_grad=True)
    >>> opt = AdamW([p], lr=schedules.linear(0.5, 0.0, steps=2), eps=0.0, weight_decay=0.5)
    >>> p.grad = torch.tensor([3.0])
    >>> opt.step()
    >>> p.detach(), opt.param_groups[0]["lr"].item()
    (tensor([0.2500]), 0.25)
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: Any = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Any = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        backend: str = "auto",
    ) -> None:
        scalars = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)
        options = dict(maximize=maximize, foreach=foreach, capturable=capturable, differentiable=differentiable)
        self._construct(params, scalars, {**options, "fused": fused}, backend)
