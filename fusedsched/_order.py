# SPDX-License-Identifier: Apache-2.0
"""What torch's warning about `sched.step()` before `optimizer.step()` does not know: steps that a GradScaler left out.

Where an optimizer does not skip by itself, a GradScaler that found gradients that are not finite never calls it. If
that happens to the first step, torch takes a right order of calls for a wrong one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


def left_out(optimizer: Any) -> bool:
    """Whether gradients lie there that a GradScaler would not have let through. Waits for the device."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
    grads = [grad._values() if grad.is_sparse else grad for grad in grads if isinstance(grad, Tensor)]
    return not all(bool(grad.isfinite().all()) for grad in grads)


class StepCalled:
    """`_opt_called` of an optimizer, as torch's schedulers read it, until a step puts True in its place.

    >>> import torch, fusedsched
    >>> p = torch.ones(1, requires_grad=True)
    >>> opt = fusedsched.SGD([p], fused=False)
    >>> opt._opt_called
    False
    >>> p.grad = torch.tensor([float("inf")])
    >>> opt._opt_called
    True
    """

    def __get__(self, optimizer: Any, owner: type) -> Any:
        return self if optimizer is None else left_out(optimizer)


@contextmanager
def order_known(scheduler: Any) -> Iterator[None]:
    """torch's warning keeps quiet in here if it would be wrong. Looks at gradients only if the warning is due."""
    optimizer = scheduler.optimizer
    if scheduler._step_count != 1 or getattr(optimizer, "_opt_called", False) or not left_out(optimizer):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        yield
