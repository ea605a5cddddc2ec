# SPDX-License-Identifier: Apache-2.0
"""torch's own optimizer and scheduler classes, bound once.

A program may put classes of this package in place of torch's public names (`torch.optim.AdamW = fusedsched.AdamW`),
before or after it imports the rest of this package. A class here that looked up its base by the public name would then
find itself. So every module of this package takes torch's classes from this one.
"""

from importlib import import_module
from types import SimpleNamespace

from torch.optim.optimizer import Optimizer


def subclasses_of(cls: type) -> set[type]:
    return {cls}.union(*(subclasses_of(each) for each in type.__subclasses__(cls)))


def _originals(module: str, root: type) -> SimpleNamespace:
    """The names of a module of torch, its classes under `root` as the module defined them."""
    defined = {cls.__qualname__: cls for cls in subclasses_of(root) if cls.__module__ == module}
    return SimpleNamespace(**{**vars(import_module(module)), **defined})


_SCHEDULERS = "torch.optim.lr_scheduler"
_ancestors = import_module(_SCHEDULERS).LRScheduler.__mro__
_root = next(cls for cls in reversed(_ancestors) if cls.__module__ == _SCHEDULERS)

schedulers = _originals(_SCHEDULERS, _root)
SWALR = _originals("torch.optim.swa_utils", _root).SWALR
Adam = _originals("torch.optim.adam", Optimizer).Adam
AdamW = _originals("torch.optim.adamw", Optimizer).AdamW
SGD = _originals("torch.optim.sgd", Optimizer).SGD
