# SPDX-License-Identifier: Apache-2.0
"""Saves everything that a trial run of a model changes, and restores it bitwise."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class _Generators:
    """The states of all random number generators that a run may use."""

    def __init__(self, loader: Any, device: torch.device) -> None:
        self._python = random.getstate()
        numpy = sys.modules.get("numpy")  # if it was never imported, nothing was drawn from it
        self._numpy = numpy.random.get_state() if numpy is not None else None
        self._torch = torch.get_rng_state()
        # Reading the states would initialise CUDA.
        cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        self._cuda = torch.cuda.get_rng_state_all() if cuda else None
        module = None if device.type in ("cpu", "cuda", "meta") else torch.get_device_module(device)
        self._other = (module, module.get_rng_state()) if hasattr(module, "get_rng_state") else None
        self._own = [(generator, generator.get_state()) for generator in _generators_of(loader)]

    def restore(self) -> None:
        random.setstate(self._python)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
        if self._other is not None:
            self._other[0].set_rng_state(self._other[1])
        for generator, state in self._own:
            generator.set_state(state)


def _generators_of(loader: Any) -> list[torch.Generator]:
    """The generators of a DataLoader and its samplers."""
    owners = [loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    owners.append(getattr(owners[-1], "sampler", None))
    found = [getattr(owner, "generator", None) for owner in owners if owner is not None]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


class _Tensors:
    """Parameters, gradients and buffers: the objects and their contents."""

    def __init__(self, modules: Iterable[nn.Module], params: Iterable[Tensor]) -> None:
        self._places: list[tuple[dict[str, Any], str, Any]] = []  # a forward pass may replace the tensor
        self._modes: list[tuple[nn.Module, bool]] = []
        contents: dict[int, Tensor] = {id(p): p for p in params}
        self._grads = [(p, p.grad) for p in contents.values()]
        for module in modules:
            for part in module.modules():
                self._modes.append((part, part.training))
                for names in (part._parameters, part._buffers):
                    for name, tensor in names.items():
                        self._places.append((names, name, tensor))
                        if tensor is not None:
                            contents.setdefault(id(tensor), tensor)
        self._contents = [(tensor, tensor.detach().clone()) for tensor in contents.values() if _writable(tensor)]

    @torch.no_grad()
    def restore(self) -> None:
        for names, name, tensor in self._places:
            names[name] = tensor
        for tensor, content in self._contents:
            tensor.copy_(content)
        for p, grad in self._grads:
            p.grad = grad
        for module, training in self._modes:
            module.training = training


def _writable(tensor: Tensor) -> bool:
    """Whether no two elements share memory. An expanded buffer cannot be written."""
    return tensor.layout != torch.strided or all(
        n <= 1 or stride != 0 for n, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )


@contextmanager
def restored(modules: Iterable[nn.Module], params: Iterable[Tensor], loader: Any, device: torch.device) -> Any:
    """Puts everything back when the block is left, also by an exception or Ctrl-C: parameters, gradients, buffers,
    training modes, random number generators. Needs memory for one copy of the parameters and buffers.

    >>> p = torch.ones(2, requires_grad=True)
    >>> with restored([], [p], None, torch.device("cpu")):
    ...     _ = p.detach().zero_(), torch.rand(1)
    >>> p.detach()
    tensor([1., 1.])
    """
    tensors, generators = _Tensors(modules, params), _Generators(loader, device)
    try:
        yield
    finally:
        try:
            tensors.restore()
        finally:
            generators.restore()
