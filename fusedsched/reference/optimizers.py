# SPDX-License-Identifier: Apache-2.0
"""Whole optimizers made of the rules: groups, state, native schedules, a wider type on demand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fusedsched.reference.arguments import check_group, first_fault, naming_faults, read_texts, with_floats
from fusedsched.reference.rules import adam_update_, sgd_update_
from fusedsched.torch_originals import SGD as TorchSGD, Adam as TorchAdam, AdamW as TorchAdamW


def _is_schedule(x: Any) -> bool:
    return callable(x) and not isinstance(x, Tensor)


class _Eager:
    """What the three classes share: native schedules, the loop over parameters, wider copies."""

    _dtype: torch.dtype | None = None  # and so in what comes out of a pickle, with the two below
    _updates = 0
    _default_schedules: dict[str, Callable[[int], float]] = {}
    # The hyperparameters that may be scheduled: name -> (key, index in the pair or None).
    _slots: dict[str, tuple[str, int | None]] = {"lr": ("lr", None), "weight_decay": ("weight_decay", None)}
    _numbers: tuple[str, ...]  # the keys of all of a group's numbers

    def _construct(self, dtype: torch.dtype | None, params: Any, scalars: dict[str, Any], options: dict[str, Any]):
        self._dtype = dtype
        self._updates = 0
        self._default_schedules = self._take_schedules(scalars)
        read_texts(scalars, self._numbers)
        with naming_faults(scalars, self._numbers):
            super().__init__(params, **scalars, **options)
        self._step_supports_amp_scaling = False  # GradScaler then unscales and skips on its own

    def _take_schedules(self, group: dict[str, Any]) -> dict[str, Callable[[int], float]]:
        # Puts the value of update 0 where a schedule stood: torch's own checks then see a number.
        taken = {}
        for name, (key, index) in self._slots.items():
            value = group.get(key)
            if index is not None:
                value = value[index] if isinstance(value, (tuple, list)) and len(value) > index else None
            if _is_schedule(value):
                taken[name] = value
                _put(group, key, index, float(value(self._updates)))
        return taken

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        own = self._take_schedules(param_group)
        read_texts(param_group, self._numbers)
        given = {**self.defaults, **param_group}
        fault = first_fault(given, [key for key in self._numbers if given[key] is not None])
        if fault:
            raise TypeError(f"Group {len(self.param_groups)}: {fault}")
        inherited = {n: s for n, s in self._default_schedules.items() if self._slots[n][0] not in param_group}
        super().add_param_group(param_group)
        if own or inherited:
            param_group["schedules"] = {**param_group.get("schedules", {}), **inherited, **own}
            self._write_scheduled()

    def _write_scheduled(self) -> None:
        for group in self.param_groups:
            for name, schedule in group.get("schedules", {}).items():
                value = schedule(self._updates)
                if not math.isfinite(value):
                    raise ValueError(f"Invalid {name}: its schedule is {value} at update {self._updates}.")
                _put(group, *self._slots[name], torch.tensor(value, dtype=torch.float64))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None and float(found_inf) != 0:
            return loss
        for index, group in enumerate(self.param_groups):
            check_group(group, index, self._numbers)
        groups = [with_floats(group, self._numbers) for group in self.param_groups]
        work = [(group, p) for group in groups for p in group["params"] if p.grad is not None]
        for _, p in work:
            if p.grad.is_sparse:
                other = "torch.optim.SGD" if isinstance(self, TorchSGD) else "SparseAdam"
                raise RuntimeError(
                    f"{type(self).__name__} does not support sparse gradients, please consider {other} instead"
                )
        counts = self._counts([p.grad for _, p in work])
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            for group, p in work:
                self._update(group, p)
            self._updates += counts
            self._write_scheduled()
        return loss

    def _counts(self, grads: list[Tensor]) -> bool:
        """Whether this step moves schedules: not a call before there is anything to do, in a process alone, nor the
        step with zeros by which checkpoint libraries create the state."""
        if not grads:
            distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
            return distributed or bool(self.state) or self._updates > 0
        probing = not self.state and all(_value(group["lr"]) == 0.0 for group in self.param_groups)
        return not probing or any(bool(grad.detach().any()) for grad in grads)

    def _update(self, group: dict[str, Any], p: Tensor) -> None:
        grad_scale = getattr(self, "grad_scale", None)
        grad = p.grad if grad_scale is None else p.grad / grad_scale
        if self._dtype is None:
            return self._rule(group, p, grad, self.state[p])
        state = self.state[p]
        wide = self._dtype.to_complex() if p.is_complex() else self._dtype
        master = state.get("master")
        if master is None or not torch.equal(master.to(p.dtype), p.detach()):  # somebody wrote the parameter
            master = state["master"] = p.detach().to(wide, copy=True)
        self._rule(group, master, grad.to(wide), state)
        p.copy_(master)

    def _rule(self, group: dict[str, Any], p: Tensor, grad: Tensor, state: dict[str, Any]) -> None:
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)  # casts floating-point state to the parameter's dtype
        if self._dtype is None:
            return
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(ids, params, strict=True):
            for key, value in state_dict["state"].get(i, {}).items():
                self.state[p][key] = value.clone() if isinstance(value, Tensor) else value


def _value(number: Any) -> float:
    return float(number.detach() if isinstance(number, Tensor) else number)


def _put(group: dict[str, Any], key: str, index: int | None, value: Any) -> None:
    if index is None:
        group[key] = value
    else:
        group[key] = tuple(value if i == index else x for i, x in enumerate(group[key]))


class Adam(_Eager, TorchAdam):
    """Adam in readable PyTorch, with the arguments of `torch.optim.Adam`.

    `lr`, each of `betas` and `weight_decay` may be a schedule, a callable of the update's index.
    `dtype`: compute in this type, in copies of parameters and state, and round back. `foreach`, `fused` and
    `capturable` are accepted and change nothing.
    Errors: those of torch's class; RuntimeError for a sparse gradient.
    Source: torch.optim.Adam; `adam_update_` has the formula.

    >>> p = torch.tensor([1.0], requires_grad=True)
    >>> opt = Adam([p], lr=0.25, eps=0.0, dtype=torch.float64)
    >>> p.grad = torch.tensor([3.0])
    >>> opt.step()
    >>> p.detach()
    tensor([0.7500])
    """

    _slots = {**_Eager._slots, "beta1": ("betas", 0), "beta2": ("betas", 1)}
    _numbers = ("lr", "betas", "eps", "weight_decay")

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, *, dtype=None, **options
    ) -> None:
        scalars = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)
        self._construct(dtype, params, scalars, options)

    def _rule(self, group: dict[str, Any], p: Tensor, grad: Tensor, state: dict[str, Any]) -> None:
        if "exp_avg" not in state:
            # float64 counts exactly past 2**24; float32 is what torch has.
            state["step"] = torch.tensor(0.0, dtype=self._dtype or torch.get_default_dtype())
            for key in ("exp_avg", "exp_avg_sq") + (("max_exp_avg_sq",) if group["amsgrad"] else ()):
                state[key] = torch.zeros_like(p, memory_format=torch.preserve_format, requires_grad=False)
        state["step"] += 1
        adam_update_(
            p,
            grad,
            state["exp_avg"],
            state["exp_avg_sq"],
            state["max_exp_avg_sq"] if group["amsgrad"] else None,
            int(state["step"]),
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            decoupled=group["decoupled_weight_decay"],
            maximize=group["maximize"],
        )


class AdamW(Adam, TorchAdamW):
    """AdamW in readable PyTorch, with the arguments of `torch.optim.AdamW`; else as `Adam` of this module.

    >>> p = torch.tensor([1.0], requires_grad=True)
    >>> opt = AdamW([p], lr=lambda update: 0.5 / (update + 1), eps=0.0, weight_decay=0.5)
    >>> p.grad = torch.tensor([3.0])
    >>> opt.step()
    >>> p.detach(), opt.param_groups[0]["lr"].item()
    (tensor([0.2500]), 0.25)
    """

    def __init__(
        self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, *, dtype=None, **options
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, dtype=dtype, **options)


class SGD(_Eager, TorchSGD):
    """SGD in readable PyTorch, with the arguments of `torch.optim.SGD`; else as `Adam` of this module.

    `lr`, `momentum` and `weight_decay` may be schedules. Source: torch.optim.SGD; `sgd_update_` has the formula.

    >>> p = torch.tensor([1.0], requires_grad=True)
    >>> opt = SGD([p], lr=0.25, momentum=0.5)
    >>> p.grad = torch.tensor([1.0])
    >>> opt.step(); opt.step()
    >>> p.detach(), opt.state[p]["momentum_buffer"]
    (tensor([0.3750]), tensor([1.5000]))
    """

    _slots = {**_Eager._slots, "momentum": ("momentum", None)}
    _numbers = ("lr", "momentum", "dampening", "weight_decay")

    def __init__(
        self, params, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, *, dtype=None, **options
    ) -> None:
        scalars = dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov)
        self._construct(dtype, params, scalars, options)

    def _rule(self, group: dict[str, Any], p: Tensor, grad: Tensor, state: dict[str, Any]) -> None:
        scalars = {k: group[k] for k in ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")}
        buffer = sgd_update_(p, grad, state.get("momentum_buffer"), **scalars)
        if buffer is not None:
            state["momentum_buffer"] = buffer
