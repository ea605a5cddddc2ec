# SPDX-License-Identifier: Apache-2.0
"""What an optimizer does, seen through PyTorch's dispatcher: operations, waits, and a model of a captured graph."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Recording(TorchDispatchMode):
    """The operations of a call, with their arguments, as a CUDA graph keeps them: tensors by address, numbers as they
    were. The model runs what it records; a capture would not."""

    def __init__(self, call):
        super().__init__()
        self.calls = []
        with self:
            call()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.name().startswith(("profiler::", "aten::lift_fresh")):
            self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, out in self.calls:
                again = func(*args, **kwargs)
                if isinstance(out, torch.Tensor) and again is not out:
                    out.copy_(again)

    def count(self, *names):
        """How many operations there are, in all or of these names."""
        return sum(not names or func.overloadpacket.__name__ in names for func, *_ in self.calls)

    @property
    def waits(self):
        """How often a number was read from a tensor: on a device, the host waits for it."""
        return self.count("_local_scalar_dense", "is_nonzero", "equal")
