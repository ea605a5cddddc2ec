# SPDX-License-Identifier: Apache-2.0
"""A copy from a device to the host that does not block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class AsyncCopy:
    """Begins to copy a tensor to the host when it is made, behind the work that the device has been given so far.

    On a CUDA device the copy runs by itself, into pinned memory. On the CPU it is made at once. Other devices have no
    such copy here: there it is made when `value()` is called, which waits.

    >>> AsyncCopy(torch.tensor([1.0, 2.0])).arrived()
    True
    """

    def __init__(self, tensor: Tensor) -> None:
        self._event: Any = None
        if tensor.device.type == "cpu":
            self._host = tensor.clone()
        elif tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))
        else:
            self._host = tensor.clone()

    def arrived(self) -> bool:
        """Whether `value()` would return at once. Does not wait."""
        if self._event is not None:
            return self._event.query()
        return self._host.device.type == "cpu"

    def value(self) -> Tensor:
        """The copy, on the CPU. Waits for it if it has not arrived."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.cpu()
