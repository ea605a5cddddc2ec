# SPDX-License-Identifier: Apache-2.0
"""`step()` of a scheduler inside torch.compile: one op that runs the very same step.

Rates that are Python floats are written behind Dynamo's back, which is why nothing recompiles: the optimizers here
read them when their own op runs. The op's signature lists the tensors that a step writes.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fusedsched.runtime.compile_ops import OBJECTS, detached_alias, in_place_of, one_for_each_storage, while_tracing
from fusedsched.runtime.hyperparameters import runtime_of

# Optimizers of other packages have no clocks: these keep the schedulers of one in the order in which they were called.
_ORDER: WeakKeyDictionary[torch.optim.Optimizer, Tensor] = WeakKeyDictionary()

torch.library.define(
    "fusedsched::schedule", "(str handle, Tensor(a!)[] written, Scalar? epoch=None, Tensor? metric=None) -> ()"
)


def traced_step(scheduler: Any, epoch: float | None = None, metric: Tensor | None = None) -> None:
    trace = scheduler._compile_handle
    _prepare(trace.handle)
    torch.ops.fusedsched.schedule(trace.handle, trace.buffers["written"], epoch, metric)


def as_metric(metrics: Any) -> Tensor | None:
    """A metric as the op takes it."""
    if metrics is None or isinstance(metrics, Tensor):
        return metrics
    return torch.as_tensor(float(metrics), dtype=torch.float64)


@while_tracing
def _prepare(handle: str) -> None:
    scheduler = OBJECTS[handle]
    scheduler._compile_handle.buffers["written"] = _written(scheduler)


def _written(scheduler: Any) -> list[Tensor]:
    optimizer = scheduler.optimizer
    runtime = runtime_of(optimizer)
    if runtime is not None:
        runtime.plans()  # which have them on their devices
        clocks = runtime.clocks.tensors()
        tables = [runtime.table(clock.device) for clock in clocks]
        for table in tables:
            table.reserve(len(runtime.groups()))
        places = [block for table in tables for block in table.blocks]
    else:
        places = []
        clocks = [_ORDER.setdefault(optimizer, torch.zeros((), dtype=torch.int64, device="cpu"))]
    numbers = [n for group in optimizer.param_groups for n in _cycled(group)]
    return one_for_each_storage(
        [*clocks, *places, *(detached_alias(number) for number in numbers if isinstance(number, Tensor))]
    )


def _cycled(group: dict[str, Any]) -> list[Any]:
    """What a scheduler may write."""
    betas = group.get("betas")
    return [group["lr"], group.get("momentum"), *(betas[:1] if isinstance(betas, tuple) else ())]


def _schedule(handle: str, written: list[Tensor], epoch: float | None = None, metric: Tensor | None = None) -> None:
    scheduler = OBJECTS[handle]
    arguments = [x for x in (metric, epoch) if x is not None]
    with torch.no_grad(), in_place_of(scheduler._compile_handle.buffers["written"], written):
        scheduler._compile_handle.step(scheduler, *arguments)


torch.library.impl("fusedsched::schedule", "CompositeExplicitAutograd", _schedule)
torch.library.register_fake("fusedsched::schedule", lambda handle, written, epoch=None, metric=None: None)
