# SPDX-License-Identifier: Apache-2.0
"""`step()` inside torch.compile: one op that runs the very same step.

What Dynamo reads while it traces, it guards; so it is shown nothing that changes: a handle, the parameters, their
gradients and the buffers that a step writes. Hyperparameters are read from the groups when the op runs. Dynamo's own
treatment of optimizers begins where `param_groups` is read; nothing here reads it while tracing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fusedsched.optim.inputs import PlanInputs
from fusedsched.optim.plan import plans_of
from fusedsched.optim.state import init_state, init_states
from fusedsched.runtime.compile_ops import (
    OBJECTS,
    CompileHandle,
    detached_alias,
    in_place_of,
    one_for_each_storage,
    while_tracing,
)

torch.library.define(
    "fusedsched::step", "(str handle, Tensor(a!)[] params, Tensor?[] grads, Tensor(b!)[] buffers) -> ()"
)
torch.library.define(
    "fusedsched::advance",
    "(str handle, SymInt samples, SymInt tokens, Tensor? samples_there, Tensor? tokens_there, Tensor(a!)[] clocks) -> "
    "()",
)


class StepHandle(CompileHandle):
    """What an optimizer shows to Dynamo. Empty until a step is compiled."""

    def __init__(self, optimizer: Any, inputs: PlanInputs) -> None:
        super().__init__(optimizer)
        self._inputs = inputs

    def refresh(self) -> None:
        """After something was replaced: graphs that fit continue with the present tensors."""
        if self.param_lists:
            self.open()

    def open(self) -> None:
        """Lists the tensors of the optimizer as it is now."""
        self.param_lists = [group["params"] for group in self._inputs.groups]
        self.clocks = self._clocks()
        length = sum(map(len, self.param_lists))
        self.buffers = {pattern: self._buffers(pattern) for pattern in self.buffers if len(pattern) == length}

    def add_pattern(self, pattern: str) -> None:
        """Lists the buffers of a step. `pattern`: "1" for each parameter that has a gradient, else "0"."""
        self.buffers[pattern] = self._buffers(pattern)

    def _buffers(self, pattern: str) -> list[Tensor]:
        """All tensors beside the parameters that such a step writes, or reads while others write them."""
        inputs, found, params = self._inputs, self._clocks(), []
        if inputs.ring is not None:
            found.append(inputs.ring.tensor)
        for group in inputs.groups:
            numbers = [hyper.read(group) for hyper in inputs.spec.numbers]
            found += [detached_alias(n) for n in numbers if isinstance(n, Tensor) and not inputs.schedules.owns(n)]
            params += group["params"]
        for p, mark in zip(params, pattern, strict=True):
            if mark == "1":
                found += (inputs.state.get(p) or {}).values()
        return one_for_each_storage([t for t in found if isinstance(t, Tensor)])

    def _clocks(self) -> list[Tensor]:
        """The clocks, and the tables of hyperparameters."""
        inputs, clocks = self._inputs, self._inputs.clocks.tensors()
        for clock in clocks:  # one on each device that has a plan, or is about to have one again
            inputs.schedules.table(clock.device).reserve(len(inputs.groups))
        return [*clocks, *inputs.schedules.blocks()]


@torch._disable_dynamo
def _run(optimizer: Any, closure: Callable[[], Any] | None) -> Any:
    return optimizer.step(closure)


def traced_step(optimizer: Any, closure: Callable[[], Any] | None) -> Any:
    trace = optimizer._runtime.compiled
    if closure is not None or not _open(trace.handle):
        return _run(optimizer, closure)  # outside of the graph
    params = [p for group in trace.param_lists for p in group]
    grads = [p.grad for p in params]
    pattern = "".join(["0" if grad is None else "1" for grad in grads])
    _prepare(trace.handle, pattern)
    with torch.no_grad():
        torch.ops.fusedsched.step(trace.handle, params, grads, trace.buffers[pattern])


def traced_zero_grad(optimizer: Any, set_to_none: bool) -> None:
    trace = optimizer._runtime.compiled
    _open(trace.handle)
    for group in trace.param_lists:
        for p in group:
            if p.grad is not None and set_to_none:
                p.grad = None
            elif p.grad is not None:
                with torch.no_grad():
                    p.grad.zero_()


@while_tracing
def _open(handle: str) -> bool:
    """Whether one op can do the step: tensor subclasses know nothing of it, `differentiable` is to be seen through, and
    inductor leaves an op that writes to complex numbers as it is, which it then refuses."""
    runtime = OBJECTS[handle]._runtime
    if not runtime.compiled.param_lists:
        runtime.ready()
        runtime.compiled.open()
    params = [p for group in runtime.compiled.param_lists for p in group]
    plain = all(type(p).__torch_dispatch__ is Tensor.__torch_dispatch__ and not p.is_complex() for p in params)
    return plain and not runtime.inputs.differentiable


@while_tracing
def build_plan_now(handle: str) -> None:
    """While a graph is traced, which sees nothing of it."""
    OBJECTS[handle]._runtime.ready()


@while_tracing
def _prepare(handle: str, pattern: str) -> None:
    """Makes the state that the first step would make, and the list of buffers. `pattern`: as in `add_pattern`."""
    runtime = OBJECTS[handle]._runtime
    inputs = runtime.inputs
    left = {m for m, mark in zip(inputs.members(), pattern, strict=True) if mark == "1" and _incomplete(inputs, *m)}
    for plan in plans_of(runtime.ready()):
        missing = sorted(left.difference(plan.unsupported()))
        if missing:
            init_states(inputs, missing)
            plan.adopt(missing)
            left.difference_update(missing)
    for g, i in sorted(left):  # those of the reference
        init_state(inputs, inputs.groups[g], inputs.groups[g]["params"][i])
    runtime.compiled.add_pattern(pattern)


def _incomplete(inputs: PlanInputs, g: int, i: int) -> bool:
    group = inputs.groups[g]
    state = inputs.state.get(group["params"][i]) or {}
    return any(state.get(name) is None for name in inputs.spec.needed_names(group))


def _step(handle: str, params: list[Tensor], grads: list[Tensor | None], buffers: list[Tensor]) -> None:
    optimizer = OBJECTS[handle]
    trace, parked = optimizer._runtime.compiled, []
    own = [p for group in trace.param_lists for p in group]
    own_buffers = trace.buffers["".join(["0" if grad is None else "1" for grad in grads])]
    try:
        for p, grad in zip(own, grads, strict=True):
            if p.grad is not grad:  # it was made or dropped within this graph; the parameter gets it when that ends
                parked.append((p, p.grad))
                p.grad = grad
        with torch.no_grad(), in_place_of([*own, *own_buffers], [*params, *buffers]):
            trace.step(optimizer)
    finally:
        for p, grad in parked:
            p.grad = grad


def traced_advance(optimizer: Any, samples: Any, tokens: Any) -> None:
    trace = optimizer._runtime.compiled
    _open(trace.handle)
    counts = [samples, tokens]
    numbers = [0 if isinstance(count, Tensor) else count for count in counts]
    tensors = [count if isinstance(count, Tensor) else None for count in counts]
    with torch.no_grad():
        torch.ops.fusedsched.advance(trace.handle, *numbers, *tensors, trace.clocks)


def _advance(
    handle: str, samples: int, tokens: int, samples_there: Tensor | None, tokens_there: Tensor | None,
    clocks: list[Tensor],
) -> None:  # fmt: skip
    optimizer = OBJECTS[handle]
    with torch.no_grad(), in_place_of(optimizer._runtime.compiled.clocks, clocks):
        optimizer.advance(
            samples=samples if samples_there is None else samples_there,
            tokens=tokens if tokens_there is None else tokens_there,
        )


torch.library.impl("fusedsched::step", "CompositeExplicitAutograd", _step)
torch.library.register_fake("fusedsched::step", lambda handle, params, grads, buffers: None)
torch.library.impl("fusedsched::advance", "CompositeExplicitAutograd", _advance)
torch.library.register_fake("fusedsched::advance", lambda *arguments: None)
