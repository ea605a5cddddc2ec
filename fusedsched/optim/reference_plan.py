# SPDX-License-Identifier: Apache-2.0
"""The plan of the reference backend: what `fusedsched._C.Plan` does in one call, done parameter by parameter in torch.

It serves machines without a compiler, devices without kernels and tensor subclasses, and `backend="reference"`.
"""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import ref

import torch
from torch import Tensor

from fusedsched.optim.rows import write_row
from fusedsched.optim.scheduled import check_horizon, scheduled_hyperparameters, value_at
from fusedsched.optim.spec import Hyperparameter, OptimizerSpec
from fusedsched.runtime.addresses import is_native, native
from fusedsched.runtime.clocks import number, unwatched
from fusedsched.runtime.compile_ops import detached_alias

if TYPE_CHECKING:
    from fusedsched.optim.optimizer import FusedOptimizer


def refuse_sparse(spec: OptimizerSpec, where: str) -> NoReturn:
    """Raises RuntimeError."""
    raise RuntimeError(
        f"{spec.sparse_error} The gradient of {where} is sparse; use sparse=False in the embedding, or to_dense()."
    )


def check_gradient(p: Tensor, where: str, spec: OptimizerSpec) -> None:
    """Raises RuntimeError for a gradient that the rules cannot use."""
    if p.grad.layout != torch.strided:
        refuse_sparse(spec, where)
    if p.grad.shape != p.shape or p.grad.device != p.device:
        raise RuntimeError(
            f"The gradient of {where} has shape {tuple(p.grad.shape)} on {p.grad.device}; the parameter has shape "
            f"{tuple(p.shape)} on {p.device}. They must agree."
        )
    if not (p.is_floating_point() or p.is_complex()):
        raise RuntimeError(f"{where} is of dtype {p.dtype}. Only floating point and complex parameters can be updated.")
    if p.grad.is_complex() != p.is_complex():
        raise RuntimeError(
            f"The gradient of {where} is of dtype {p.grad.dtype}. Cast it to the dtype of its parameter."
        )
    if p.layout == torch.strided and any(n > 1 and s == 0 for n, s in zip(p.shape, p.stride(), strict=True)):
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a single memory location. "
            f"{where} is expanded; clone() it before it becomes a parameter."
        )


def check_state(p: Tensor, state: dict[str, Any], names: list[str], where: str) -> None:
    """Raises RuntimeError for state that is not of the parameter's shape."""
    for name in names:
        value = state.get(name)
        if isinstance(value, Tensor) and value.shape != p.shape:
            raise RuntimeError(
                f"state['{name}'] of {where} has shape {tuple(value.shape)}; the parameter has shape {tuple(p.shape)}. "
                "Load a state that belongs to this model."
            )


def check_scalars(group: dict[str, Any], hyperparameters: tuple[Hyperparameter, ...]) -> None:
    """Raises for an edited hyperparameter that is no number."""
    for hyper in hyperparameters:
        value = hyper.read(group)
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(f"Tensor {hyper.name} must be 1-element, got {value.numel()} elements.")
            if not is_native(value):
                float(value)  # raises where it has no value
        elif not isinstance(value, Real):
            raise TypeError(
                f"param_groups[...]['{hyper.key}'] is {value}, which is not a number. Set it to a float, an int or a "
                "tensor with one element."
            )


class ReferenceUpdates:
    """Updates chosen parameters with the reference rules; keeps the exact count of each one's updates."""

    def __init__(self, optimizer: FusedOptimizer, members: list[tuple[int, int]]) -> None:
        groups = optimizer.param_groups
        self._optimizer = ref(optimizer)  # weak: the optimizer holds this object
        self.members = [(groups[g], g, i, groups[g]["params"][i]) for g, i in members]
        self._counts: dict[Tensor, int] = {}
        self._read: dict[Tensor, Tensor] = {}  # by parameter: what a gradient that is not native holds

    def check(self) -> bool:
        """Whether there is anything to update. Raises before anything is changed."""
        optimizer, found, last = self._optimizer(), False, None
        self._read.clear()
        for group, g, i, p in self.members:
            if p.grad is not None:
                if g != last:
                    check_scalars(group, optimizer._spec.numbers)
                    last = g
                where = f"parameter {i} of group {g}"
                check_gradient(p, f"{where} (shape {tuple(p.shape)}, {p.dtype} on {p.device})", optimizer._spec)
                names = [array.name for array in optimizer._spec.needed_states(group)]
                check_state(p, optimizer.state.get(p) or {}, names, where)
                if is_native(p):
                    self._check_native(p, optimizer.state.get(p) or {})
                found = True
        return found

    @torch.no_grad()
    def _check_native(self, p: Tensor, state: dict[str, Any]) -> None:
        """Reads and writes what is not native beside this parameter, by its own `copy_`: it may wait, or raise."""
        if not is_native(p.grad):
            self._read[p] = torch.empty_like(p, dtype=p.grad.dtype, requires_grad=False).copy_(p.grad)
        for name, value in state.items():
            if isinstance(value, Tensor) and not is_native(value):
                value.fill_(float(value)) if name == "step" else value.copy_(native(value))

    @torch.no_grad()
    def run(self, scale: Tensor | None) -> None:
        optimizer = self._optimizer()
        if scale is not None:  # users find unscaled gradients after the step, as with torch's fused optimizers
            grads = {id(p.grad): p.grad for _, _, _, p in self.members if p.grad is not None}  # each once
            gain = 1.0 / float(scale)
            native = [*filter(is_native, grads.values()), *self._read.values()]
            if native:
                torch._foreach_mul_(native, gain)
            for grad in grads.values():
                if not is_native(grad):
                    grad.mul_(gain)  # alone: its class would be asked about the others too
        for group, _, _, p in self.members:
            if p.grad is not None:
                optimizer._init_state(group, p)
                fresh: dict[str, Any] = {}
                state = optimizer.state[p] if p in optimizer.state else fresh
                grad = self._read.get(p, p.grad)
                optimizer._spec.reference(group, p, grad, state, self._count(optimizer, p))
                if fresh:
                    optimizer.state[p].update(fresh)
        self._read.clear()

    def _count(self, optimizer: FusedOptimizer, p: Tensor) -> int:
        if not optimizer._spec.counts_steps:
            return 0
        shown = optimizer.state[p]["step"]
        count = self._counts.get(p, 0)
        if float(torch.tensor(float(count), dtype=torch.float32, device="cpu")) != float(shown):
            count = int(shown)  # somebody wrote to it: then it is the count
        self._counts[p] = count + 1
        shown.fill_(float(count + 1))
        return count + 1

    def exact_counts(self) -> list[tuple[Tensor, int]]:
        return [(p, n) for p, n in self._counts.items() if n > 2**24]  # float32 counts exactly up to there

    def adopt_counts(self, counts: list[tuple[Tensor, int]]) -> None:
        self._counts.update(counts)


class ReferencePlan:
    """As `fusedsched._C.Plan`, for all parameters of an optimizer. Does not hold it: the optimizer holds the plan."""

    name, device = "reference", torch.device("cpu")  # where its clocks are

    def __init__(self, optimizer: FusedOptimizer) -> None:
        self._optimizer = ref(optimizer)
        self._roster = self._present()
        members = [(g, i) for g, group in enumerate(optimizer.param_groups) for i in range(len(group["params"]))]
        self._updates = ReferenceUpdates(optimizer, members)
        self.exact_counts, self.adopt_counts = self._updates.exact_counts, self._updates.adopt_counts
        self._clocks = optimizer._clocks.on("cpu")
        self._written: dict[tuple[int, str], float] = {}
        self._ring: Tensor | None = None
        self.advance(0, 0)

    def _present(self) -> list[int]:
        groups = self._optimizer().param_groups
        return [id(group) for group in groups] + [id(p) for group in groups for p in group["params"]]

    def _scheduled(self) -> Any:
        opt = self._optimizer()
        return scheduled_hyperparameters(opt.param_groups, opt._spec.numbers)

    def _edited(self) -> bool:
        """Whether the user wrote to a scheduled hyperparameter."""
        for g, group, hyper, _ in self._scheduled():
            replaced = self._optimizer()._shown.replaced(group, hyper)
            if replaced or number(hyper.read(group)) != self._written.get((g, hyper.name)):
                return True
        return False

    def step(self, param_groups: Any, state: Any, scale: Tensor | None, found_inf: Tensor | None) -> int:
        if self._roster != self._present():
            return 1  # Plan::Outcome: rebuild
        if found_inf is not None and float(found_inf) != 0.0:
            self.record(True)
            with unwatched():
                self._clocks[3] += 1
            return 0
        edited = self._edited()
        for _, group, hyper, schedule in self._scheduled():
            if not self._optimizer()._shown.replaced(group, hyper):
                check_horizon(hyper, schedule, self._optimizer()._clocks.unit(schedule.unit))
        if self._updates.check():
            self.record(False)
            self._updates.run(scale)
            self.advance(0, 1)
        return 3 if edited else 0

    def set_program(self, group: int, name: str, *program: Any) -> bool:
        self._written.pop((group, name), None)  # an edit of what was there before is over
        return False

    def check_counts(self) -> None:
        pass  # it counts on the host

    def record_to(self, ring: Tensor | None) -> None:
        self._ring = ring

    def record(self, skipped: bool) -> None:
        """A row of telemetry, if that is on."""
        if self._ring is not None:
            opt = self._optimizer()
            numbers = [[number(hyper.read(group)) for hyper in opt._spec.numbers] for group in opt.param_groups]
            with unwatched():
                write_row(self._ring, int(self._clocks[0]), skipped, numbers)

    def zero_grad(self, param_groups: Any, set_to_none: bool) -> bool:
        return False  # torch's own

    def advance(self, unit: int, amount: int) -> None:
        with unwatched():
            self._clocks[unit] += amount
            opt = self._optimizer()
            for g, group, hyper, schedule in self._scheduled():
                tensor, key = opt._shown.install(group, hyper), (g, hyper.name)
                if key in self._written and float(tensor) != self._written[key]:
                    continue  # written to: constant from there on
                self._written[key] = value_at(schedule, opt._clocks.unit(schedule.unit))
                detached_alias(tensor).fill_(self._written[key])
