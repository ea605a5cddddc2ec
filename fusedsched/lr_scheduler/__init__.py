# SPDX-License-Identifier: Apache-2.0
"""The classes of `torch.optim.lr_scheduler` and `SWALR`: same names, signatures, values, warnings and state dicts. And
Hugging Face's `GreedyLR`.

They work with any `torch.optim.Optimizer` and are subclasses of torch's classes. A step evaluates a closed form, for
all groups at once, in float64: no drift. A rate that the user writes is continued as by torch's recursion
(`fusedsched/schedules/edit.py`).

Where every group's rate is a tensor on one GPU, a step is one launch that writes them all, which a CUDA graph may hold.

Each class takes one argument more than torch's, `advance_on_skip=True`. With False, `step()` holds while the optimizer,
which has to be one of this package, has applied no update since this scheduler's last step, as when AMP skips one.
"""

from torch.optim.lr_scheduler import (
    EPOCH_DEPRECATION_WARNING as EPOCH_DEPRECATION_WARNING,
    LRScheduler as LRScheduler,
    _LRScheduler as _LRScheduler,
)

from .callables import LambdaLR as LambdaLR, MultiplicativeLR as MultiplicativeLR
from .chainable import (
    SWALR as SWALR,
    ConstantLR as ConstantLR,
    CosineAnnealingLR as CosineAnnealingLR,
    ExponentialLR as ExponentialLR,
    LinearLR as LinearLR,
    MultiStepLR as MultiStepLR,
    PolynomialLR as PolynomialLR,
    StepLR as StepLR,
)
from .composite import ChainedScheduler as ChainedScheduler, SequentialLR as SequentialLR
from .cyclical import (
    CosineAnnealingWarmRestarts as CosineAnnealingWarmRestarts,
    CyclicLR as CyclicLR,
    OneCycleLR as OneCycleLR,
)
from .greedy import GreedyLR as GreedyLR
from .plateau import ReduceLROnPlateau as ReduceLROnPlateau

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "GreedyLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SWALR",
    "SequentialLR",
    "StepLR",
]
