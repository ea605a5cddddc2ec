# SPDX-License-Identifier: Apache-2.0
"""torch's warnings about a step of a scheduler, and the steps that they do not know of: those a GradScaler left out.

Where an optimizer does not skip by itself, a GradScaler that found gradients that are not finite never calls it. If
that happens to the first step, torch takes a right order of calls for a wrong one.
"""

from __future__ import annotations

import os
import sys
import warnings
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import EPOCH_DEPRECATION_WARNING, LRScheduler


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


def warn_about_order(scheduler: Any) -> None:
    """torch's warnings about the first step of a scheduler, for the line that called this package."""
    optimizer = scheduler.optimizer
    patched = hasattr(optimizer.step, "_wrapped_by_lr_sched")
    if not patched or not (getattr(optimizer, "_opt_called", False) or left_out(optimizer)):
        warnings.warn(_sentence(patched), UserWarning, stacklevel=levels_outside())


def warn_about_epoch() -> None:
    """The same for `step(epoch)`."""
    warnings.warn(EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=levels_outside())


class _Asked(LRScheduler):
    """Steps without effect: what is left of it are torch's warnings."""

    def _update_lr(self, epoch: Any = None) -> None:
        pass


@cache
def _sentence(patched: bool) -> str:
    """What torch says of an optimizer whose `step` has been overridden, or has not been called."""
    scheduler, step = object.__new__(_Asked), SimpleNamespace(**({"_wrapped_by_lr_sched": True} if patched else {}))
    scheduler.__dict__.update(optimizer=SimpleNamespace(step=step), _step_count=1)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        scheduler.step()
    return str(found[0].message)


_INSIDE = (os.path.dirname(__file__), torch.optim.__file__, torch.utils.__file__)
_PACKAGES = tuple(os.path.dirname(path) + os.sep for path in _INSIDE)


def levels_outside() -> int:
    """The `stacklevel`, where it is asked for, of the first line outside of this package, torch.optim, torch.utils."""
    frame, levels = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGES):
        frame, levels = frame.f_back, levels + 1
    return levels
