# SPDX-License-Identifier: Apache-2.0
"""The one place where Python takes the address of a tensor. As csrc/plan/tensors.h."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet, _dispatch_keys

# Beside the key of a dense CPU or CUDA tensor, a native one has at most these.
_KEYS = ("CPU", "CUDA", "AutogradFunctionality", "ADInplaceOrView", "AutocastCPU", "AutocastCUDA", "Conjugate")
_NATIVE = reduce(or_, (DispatchKeySet(getattr(DispatchKey, key)).raw_repr() for key in (*_KEYS, "Negative")))
_DISPATCH = Tensor.__torch_dispatch__


def is_native(tensor: Tensor) -> bool:
    """Whether its elements lie in memory that a kernel can address.

    False for wrapper subclasses, fake, functional, vmapped, nested and sparse tensors, and lazy zeros: their values are
    elsewhere.

    >>> is_native(torch.ones(2)), is_native(torch.ones(2).to_sparse()), is_native(torch._efficientzerotensor(2))
    (True, False, False)
    """
    return not _dispatch_keys(tensor).raw_repr() & ~_NATIVE


def has_address(tensor: Tensor) -> bool:
    """As `is_native` for a strided tensor, in a fifth of the time: it is asked of each array at each step.

    >>> has_address(torch.ones(2)), has_address(torch.ones(0)), has_address(torch._efficientzerotensor(2))
    (True, True, False)
    """
    if type(tensor).__torch_dispatch__ is not _DISPATCH:
        return False
    return tensor.data_ptr() != 0 or (tensor.numel() == 0 and is_native(tensor))


def is_backed(tensor: Tensor) -> bool:
    """Whether the storage of a native tensor still holds its elements.

    >>> moments = torch.ones(4)
    >>> _ = moments.untyped_storage().resize_(0)
    >>> is_backed(torch.ones(4)), is_backed(moments)
    (True, False)
    """
    if not tensor.numel():
        return True
    last = tensor.storage_offset() + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.untyped_storage().nbytes() >= (last + 1) * tensor.element_size()


def check_backed(tensor: Tensor, what: str) -> None:
    """Raises RuntimeError for a native tensor whose storage does not hold its elements any more."""
    if is_native(tensor) and not is_backed(tensor):
        raise RuntimeError(
            f"The memory of {what} is gone: its storage has {tensor.untyped_storage().nbytes()} bytes. It was freed or "
            "made smaller by untyped_storage().resize_(). Bring it back before step(). Nothing was changed."
        )


def place_of(tensor: Tensor) -> int:
    """An address to be compared with an earlier one: where a native tensor lies, 0 if its memory is gone."""
    return tensor.data_ptr()


def layout_of(tensor: Tensor) -> tuple[Any, ...]:
    """Where a tensor lies, and how. Equal ones of tensors that are alive are read in the same way at the same place,
    whatever objects they are.

    >>> a = torch.ones(2, 3)
    >>> layout_of(a) == layout_of(a.view(2, 3)), layout_of(a) == layout_of(a.view(3, 2))
    (True, False)
    """
    kind = type(tensor)
    if kind.__torch_dispatch__ is not _DISPATCH or tensor.layout != torch.strided:
        return None, tensor.device, kind
    lazy = tensor.is_conj() or tensor.is_neg()
    return tensor.data_ptr(), tensor.device, kind, tensor.dtype, tensor.shape, tensor.stride(), lazy


def unwrap(tensor: Tensor) -> int:
    """The address of the first element. Raises TypeError for a tensor that is not native."""
    if not has_address(tensor):
        raise TypeError(
            f"A kernel needs the address of a tensor that has none: its type is {type(tensor).__name__}, its dispatch "
            f"keys are {_dispatch_keys(tensor)}."
        )
    return tensor.data_ptr()


def native(tensor: Tensor) -> Tensor:
    """The tensor itself; of one that is not native, its values in new memory, read by its own `copy_`: one that has to
    wait waits, one that does not mix with plain tensors raises."""
    if is_native(tensor):
        return tensor
    with torch.no_grad():
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def holds_native_tensors(state: object) -> bool:
    """Whether each tensor in the state of a parameter is native. Where one is not, torch's operations update the
    parameter."""
    tensors = state.values() if isinstance(state, dict) else ()
    return all(is_native(tensor) for tensor in tensors if isinstance(tensor, Tensor))
