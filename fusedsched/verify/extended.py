# SPDX-License-Identifier: Apache-2.0
"""The updates in long double, to judge float64. An independent implementation that uses no maths of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedsched import reference
from fusedsched.verify.bounds import Exact, flat

try:
    import numpy as np
except ImportError:  # numpy is not among what the package needs
    np = None


def reason() -> str | None:
    """Why there is no extended precision here; None if there is."""
    if np is None:
        return "numpy is not installed"
    if np.finfo(np.longdouble).nmant <= 52:
        return "this machine's long double is float64"
    return None


def widen(value: Tensor | float) -> Any:
    return np.longdouble(value) if not isinstance(value, Tensor) else flat(value).numpy().astype(np.longdouble)


def split(value: Any) -> Exact:
    """Splits a long double into two float64 that add up to it."""
    high = value.astype(np.float64)
    return Exact(torch.from_numpy(high), torch.from_numpy((value - high).astype(np.float64)))


class Extended:
    """One parameter and its state, flat, in long double. `options` are those of the optimizer, all of them numbers."""

    def __init__(self, optimizer: str, param: Tensor) -> None:
        self.optimizer = optimizer
        self.param = widen(param)
        self.state: dict[str, Any] = {}
        self.count = 0

    def step(self, grad: Tensor, options: dict[str, Any]) -> None:
        wide = {k: widen(x) if isinstance(x, float) else x for k, x in options.items()}
        wide["betas"] = [widen(x) for x in options.get("betas", ())]
        g = -widen(grad) if options["maximize"] else widen(grad)
        self.count += 1
        if self.optimizer == "SGD":
            self._sgd(g, wide)
        elif self.optimizer in ("Adam", "AdamW"):
            self._adam(g, wide, *wide["betas"])
        else:
            self.param = getattr(reference, self.optimizer).exactly(self.param, g, self.state, wide)

    def _adam(self, g: Any, o: dict[str, Any], beta1: Any, beta2: Any) -> None:
        zeros = np.zeros_like(self.param)
        p, m, v = self.param, self.state.get("exp_avg", zeros), self.state.get("exp_avg_sq", zeros)
        if o["decoupled_weight_decay"]:
            p = p - o["lr"] * o["weight_decay"] * p
        else:
            g = g + o["weight_decay"] * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        self.state.update(exp_avg=m, exp_avg_sq=v)
        if o["amsgrad"]:
            v = self.state["max_exp_avg_sq"] = np.maximum(self.state.get("max_exp_avg_sq", zeros), v)
        corrected_m = m / (1 - beta1**self.count)
        corrected_v = v / (1 - beta2**self.count)
        self.param = p - o["lr"] * corrected_m / (np.sqrt(corrected_v) + o["eps"])

    def _sgd(self, g: Any, o: dict[str, Any]) -> None:
        g = g + o["weight_decay"] * self.param
        if o["momentum"] != 0:
            b = self.state.get("momentum_buffer")
            b = g if b is None else o["momentum"] * b + (1 - o["dampening"]) * g
            self.state["momentum_buffer"] = b
            g = g + o["momentum"] * b if o["nesterov"] else b
        self.param = self.param - o["lr"] * g
