# SPDX-License-Identifier: Apache-2.0
"""What the ops that stand in compiled graphs have in common: objects by handle, and working on what they are handed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from operator import is_not
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from fusedsched.runtime.addresses import is_native, unwrap

OBJECTS: WeakValueDictionary[str, Any] = WeakValueDictionary()  # optimizers and schedulers
_NUMBERS = count()


class CompileHandle:
    """What an object shows to Dynamo: a handle, a string since numbers that differ between objects become symbols, and
    lists of tensors by key. A copy of the object has to have one of its own."""

    def __init__(self, thing: Any) -> None:
        self.handle = f"{type(thing).__name__}-{next(_NUMBERS)}"
        # What the op runs. Not the object's own: around a method of a user's subclass, the graph has what is there.
        classes = [c for c in type(thing).__mro__ if c.__module__.startswith("fusedsched.")]
        self.step = next(c.__dict__["step"] for c in classes if "step" in c.__dict__)
        self.param_lists: list[list[Tensor]] = []
        self.buffers: dict[str, list[Tensor]] = {}
        self.clocks: list[Tensor] = []
        OBJECTS[self.handle] = thing


class ReentrancyGuard:
    """Mixin: what follows another object, and looks away while that one is being changed."""

    _busy = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        busy, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = busy


def while_tracing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Dynamo runs `function` when it makes a graph, and takes the result for a constant.

    As torch.compiler.assume_constant_result, which would import all of torch._dynamo here.
    """
    function._dynamo_marked_constant = True
    return function


def detached_alias(t: Tensor) -> Tensor:
    """The same memory with a version counter of its own: a graph raises that of each tensor that it was handed to
    write, and where a number on a device cannot be looked at, a new version means that somebody wrote to it."""
    return t.data


def one_for_each_storage(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors, those that share a storage as one flat tensor over it: inputs of a graph that overlap are copied."""
    sharing: dict[int, list[Tensor]] = {}
    for t in tensors:
        if t.layout == torch.strided and type(t) in (Tensor, torch.nn.Parameter):
            sharing.setdefault(t.untyped_storage()._cdata, []).append(t)
        else:
            sharing[id(t)] = [t]
    return [group[0] if len(group) == 1 else _whole_storage(group) for group in sharing.values()]


def _whole_storage(tensors: list[Tensor]) -> Tensor:
    dtypes = {t.dtype for t in tensors}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.uint8
    storage = tensors[0].untyped_storage()
    flat = torch.empty(0, dtype=dtype, device=tensors[0].device)
    return flat.set_(storage, 0, (storage.nbytes() // flat.element_size(),), (1,))


@contextmanager
def in_place_of(own: list[Tensor], handed: list[Tensor]) -> Iterator[None]:
    """While this is open, our own tensors hold what an op was handed; the results go back where it came from.

    As a rule both are the same tensors and nothing happens. Backends that leave a functionalized graph as it is, and
    calls outside of a graph, hand copies.
    """
    if not any(map(is_not, own, handed)):
        yield
        return
    pairs = [(a, b) for a, b in zip(own, handed, strict=True) if a is not b and not _same_memory(a, b)]
    before = [a.detach().clone() for a, _ in pairs]
    for a, b in pairs:
        a.copy_(b)
    try:
        yield
    finally:
        for a, b in pairs:
            b.copy_(a)
        for (a, _), old in zip(pairs, before, strict=True):  # last: a parameter may be listed twice
            a.copy_(old)


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return is_native(a) and is_native(b) and unwrap(a) == unwrap(b) and a.stride() == b.stride()
