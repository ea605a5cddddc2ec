# SPDX-License-Identifier: Apache-2.0
"""Telemetry of a Triton plan: one small launch before each step, none without."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedsched.runtime.launching import launching
from fusedsched.triton_kernels import tuning
from fusedsched.triton_kernels.telemetry import record_kernel

_DONE, _REBUILD = range(2)  # Plan::Outcome


class Recording:
    """What a plan has for it. What the methods promise: `csrc/plan/plan.h`."""

    _ring: Tensor | None = None

    def record_to(self, ring: Tensor | None) -> None:
        if self._ring is not None and self._memory.in_graph(self):
            self._memory.keep_for_graph(self._ring)  # which goes on filling it
        self._ring = ring

    def _record(self, found_inf: Tensor | None) -> None:
        record_kernel[(1,)](
            self._ring, len(self._ring) - 1, self._clocks, self._sources.tensor, self._values.tensor,
            self._prepared.resolved.numel(), self._clocks if found_inf is None else found_inf,
            CHECKED=found_inf is not None, BLOCK=tuning.PREPARE_BLOCK, num_warps=tuning.PREPARE_WARPS,
            enable_fp_fusion=False,
        )  # fmt: skip

    def skip(self, param_groups: list[Any], found_inf: Tensor) -> int:
        if self._ring is not None:
            if not self.sync_hparams(param_groups):
                return _REBUILD
            with torch.no_grad(), launching(self.device):
                self._record(self._flag(found_inf))
        self._clocks[3] += 1
        return _DONE
