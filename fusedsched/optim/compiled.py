# SPDX-License-Identifier: Apache-2.0
"""`step()` inside torch.compile: one op that runs the very same step.

What Dynamo reads while it traces, it guards; so it is shown nothing that changes: a handle, the parameters, their
gradients and the buffers that a step writes. Hyperparameters are read from the groups when the op runs. Dynamo's own
treatment of optimizers begins where `param_groups` is read; nothing here reads it while tracing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fusedsched.optim.plan import plans_of
from fusedsched.optim.state import init_states
from fusedsched.runtime.compile_ops import OBJECTS, detached_alias, in_place_of, one_for_each_storage, while_tracing

if TYPE_CHECKING:
    from fusedsched.optim.optimizer import FusedOptimizer

torch.library.define(
    "fusedsched::step", "(str handle, Tensor(a!)[] params, Tensor?[] grads, Tensor(b!)[] buffers) -> ()"
)
torch.library.define(
    "fusedsched::advance",
    "(str handle, SymInt samples, SymInt tokens, Tensor? samples_there, Tensor? tokens_there, Tensor(a!)[] clocks) -> "
    "()",
)


@torch._disable_dynamo
def _run(optimizer: FusedOptimizer, closure: Callable[[], Any] | None) -> Any:
    return optimizer.step(closure)


def traced_step(optimizer: FusedOptimizer, closure: Callable[[], Any] | None) -> Any:
    trace = optimizer._compile_handle
    if closure is not None or not _open(trace.handle):
        return _run(optimizer, closure)  # outside of the graph
    params = [p for group in trace.param_lists for p in group]
    grads = [p.grad for p in params]
    pattern = "".join(["0" if grad is None else "1" for grad in grads])
    _prepare(trace.handle, pattern)
    with torch.no_grad():
        torch.ops.fusedsched.step(trace.handle, params, grads, trace.buffers[pattern])


def traced_zero_grad(optimizer: FusedOptimizer, set_to_none: bool) -> None:
    trace = optimizer._compile_handle
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
    optimizer = OBJECTS[handle]
    if not optimizer._compile_handle.param_lists:
        optimizer._ready_plan()
        refresh(optimizer)
    params = [p for group in optimizer._compile_handle.param_lists for p in group]
    plain = all(type(p).__torch_dispatch__ is Tensor.__torch_dispatch__ and not p.is_complex() for p in params)
    return plain and not optimizer.defaults["differentiable"]


@while_tracing
def _prepare(handle: str, pattern: str) -> None:
    """Makes the state that the first step would make, and the list of buffers. `pattern`: who has a gradient."""
    optimizer = OBJECTS[handle]
    members = [(g, i) for g, group in enumerate(optimizer._groups()) for i in range(len(group["params"]))]
    left = {m for m, mark in zip(members, pattern, strict=True) if mark == "1" and _incomplete(optimizer, *m)}
    for plan in plans_of(optimizer._ready_plan()):
        missing = sorted(left.difference(plan.unsupported()))
        if missing:
            init_states(optimizer, missing)
            plan.adopt(missing)
            left.difference_update(missing)
    for g, i in sorted(left):  # those of the reference
        group = optimizer._groups()[g]
        optimizer._init_state(group, group["params"][i])
    optimizer._compile_handle.buffers[pattern] = _buffers(optimizer, pattern)


def refresh(optimizer: FusedOptimizer) -> None:
    """After something was replaced: graphs that fit go on with the tensors that are there now."""
    trace = optimizer._compile_handle
    trace.param_lists = [group["params"] for group in optimizer._groups()]
    trace.clocks = _clocks(optimizer)
    length = sum(map(len, trace.param_lists))
    trace.buffers = {pattern: _buffers(optimizer, pattern) for pattern in trace.buffers if len(pattern) == length}


def _incomplete(optimizer: FusedOptimizer, g: int, i: int) -> bool:
    group = optimizer._groups()[g]
    state = optimizer.state.get(group["params"][i]) or {}
    return any(state.get(name) is None for name in optimizer._spec.needed_names(group))


def _buffers(optimizer: FusedOptimizer, pattern: str) -> list[Tensor]:
    """All tensors beside the parameters that such a step writes, or reads while others write them."""
    found, params = _clocks(optimizer), []
    if optimizer._ring is not None:
        found.append(optimizer._ring.tensor)
    for group in optimizer._groups():
        numbers = [hyper.read(group) for hyper in optimizer._spec.numbers]
        found += [detached_alias(n) for n in numbers if isinstance(n, Tensor) and not optimizer._shown.owns(n)]
        params += group["params"]
    for p, mark in zip(params, pattern, strict=True):
        if mark == "1":
            found += (optimizer.state.get(p) or {}).values()
    return one_for_each_storage([t for t in found if isinstance(t, Tensor)])


def _clocks(optimizer: FusedOptimizer) -> list[Tensor]:
    """The clocks, and the tables of hyperparameters."""
    clocks = optimizer._clocks.tensors()
    for clock in clocks:  # one on each device that has a plan, or is about to have one again
        optimizer._shown.table(clock.device).reserve(len(optimizer._groups()))
    return [*clocks, *optimizer._shown.blocks()]


def _step(handle: str, params: list[Tensor], grads: list[Tensor | None], buffers: list[Tensor]) -> None:
    optimizer = OBJECTS[handle]
    trace, parked = optimizer._compile_handle, []
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


def traced_advance(optimizer: FusedOptimizer, samples: Any, tokens: Any) -> None:
    trace = optimizer._compile_handle
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
    with torch.no_grad(), in_place_of(optimizer._compile_handle.clocks, clocks):
        optimizer.advance(
            samples=samples if samples_there is None else samples_there,
            tokens=tokens if tokens_there is None else tokens_there,
        )


torch.library.impl("fusedsched::step", "CompositeExplicitAutograd", _step)
torch.library.register_fake("fusedsched::step", lambda handle, params, grads, buffers: None)
torch.library.impl("fusedsched::advance", "CompositeExplicitAutograd", _advance)
torch.library.register_fake("fusedsched::advance", lambda *arguments: None)
