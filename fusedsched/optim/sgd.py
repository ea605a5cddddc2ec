# SPDX-License-Identifier: Apache-2.0
"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fusedsched.optim.optimizer import FusedOptimizer
from fusedsched.optim.spec import Hyperparameter, NonZero, OptimizerSpec, StateArray, flag, not_nan, not_negative
from fusedsched.reference import sgd_update_
from fusedsched.torch_originals import SGD as TorchSGD


def _choose(nonzero: NonZero) -> str:
    kind = "" if not nonzero["momentum"] else "Nesterov" if nonzero["nesterov"] else "Momentum"
    return f"SGD{kind}" + ("Decay" if nonzero["weight_decay"] else "")


def _reference(group: dict[str, Any], p: Tensor, grad: Tensor, state: dict[str, Any], step: int) -> None:
    numbers = {k: group[k] for k in ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")}
    buffer = sgd_update_(p, grad, state.get("momentum_buffer"), **numbers)
    if buffer is not None:
        state["momentum_buffer"] = buffer


SPEC = OptimizerSpec(
    name="SGD",
    family="sgd",
    hyperparameters=(
        Hyperparameter("lr", "lr", check=not_negative("learning rate")),
        Hyperparameter("momentum", "momentum", check=not_negative("momentum value")),
        Hyperparameter("dampening", "dampening", check=not_nan("dampening value"), schedulable=False),
        Hyperparameter("weight_decay", "weight_decay", check=not_negative("weight_decay value")),
        flag("nesterov"),
        flag("maximize"),
    ),
    states=(StateArray("momentum_buffer", needed=lambda nonzero: nonzero["momentum"], init="gradient"),),
    counts_steps=False,
    choose=_choose,
    reference=_reference,
    sparse_error="SGD does not support sparse gradients, please consider torch.optim.SGD instead.",
    torch_class=TorchSGD,
)


class SGD(FusedOptimizer, TorchSGD):
    """Stochastic gradient descent, with the arguments of `torch.optim.SGD`, computed in one pass over memory.

        g = -g                                              if maximize
        g = g + weight_decay * p
        buffer = momentum * buffer + (1 - dampening) * g    (the first time: buffer = g)
        p = p - lr * (g + momentum * buffer if nesterov else buffer)

    and p = p - lr * g without momentum. float16 and bfloat16 parameters are computed in float32 and rounded once.

    Args beyond torch's: `lr`, `momentum` and `weight_decay` may be schedules of `fusedsched.schedules`; then the group
    holds a 0-dim float64 tensor with the value for the next update. `backend`: "auto", or one of `backends()`.
    `foreach` and `fused` are accepted and choose nothing; `differentiable=True` runs torch's own differentiable step.

    Raises ValueError for a negative or NaN hyperparameter, RuntimeError (in `step()`, before anything is changed) for
    sparse gradients and gradients that do not fit their parameter.
    Source: Sutskever et al. 2013 (momentum); torch.optim.SGD.

    >>> import torch
    >>> p = torch.tensor([1.0], requires_grad=True)
    >>> opt = SGD([p], lr=0.25, momentum=0.5)
    >>> p.grad = torch.tensor([1.0])
    >>> opt.step(); opt.step()
    >>> p.detach(), opt.state[p]["momentum_buffer"]
    (tensor([0.3750]), tensor([1.5000]))
    """

    _spec = SPEC

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        momentum: Any = 0,
        dampening: float = 0,
        weight_decay: Any = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        backend: str = "auto",
    ) -> None:
        scalars = dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov)
        options = dict(maximize=maximize, foreach=foreach, differentiable=differentiable, fused=fused)
        self._construct(params, scalars, options, backend)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        scheduled = "momentum" in group.get("schedules", {})
        momentum = 1.0 if scheduled or group["momentum"] is None else group["momentum"]
        if group["nesterov"] and (momentum <= 0 or group["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
