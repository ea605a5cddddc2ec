# SPDX-License-Identifier: Apache-2.0
"""What an optimizer keeps while its plans come and go, and what a plan is built from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

from torch import Tensor

from fusedsched.optim.scheduling import NativeSchedules
from fusedsched.optim.spec import OptimizerSpec
from fusedsched.optim.telemetry import Ring
from fusedsched.runtime.clocks import Clocks

if TYPE_CHECKING:
    from torch.optim import Optimizer


class PlanInputs:
    """The groups and the state of an optimizer as they are now, and its spec, clocks and tables.

    `backend`: "auto" or the name that the user gave. `counts`: exact numbers of updates by parameter, where the state
    cannot hold them, for the next plan. `ring`: the telemetry, or None. `begun`: whether steps without a gradient are
    known to count.
    """

    def __init__(self, optimizer: Optimizer, spec: OptimizerSpec, backend: str, clocks: Clocks) -> None:
        self.optimizer = ref(optimizer)  # weak: the optimizer holds this object
        self.spec, self.backend, self.clocks = spec, backend, clocks
        self.counts: dict[Tensor, int] = {}
        self.ring: Ring | None = None
        self.begun = False
        self.renew_schedules()

    def renew_schedules(self) -> None:
        """Forgets the tables of hyperparameters: the groups are others."""
        self.schedules = NativeSchedules(self.spec, self.clocks)

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The groups, without bringing them up to date with captured graphs."""
        return self.optimizer().__dict__["param_groups"]

    @property
    def state(self) -> Any:
        """The state by parameter."""
        return self.optimizer().state

    @property
    def differentiable(self) -> bool:
        """Whether torch's own step runs, which autograd sees through."""
        return self.optimizer().defaults["differentiable"]

    def parameter(self, group: int, index: int) -> Tensor:
        """A parameter by its group and its index there."""
        return self.groups[group]["params"][index]

    def members(self) -> list[tuple[int, int]]:
        """All parameters: (group, index in the group)."""
        return [(g, i) for g, group in enumerate(self.groups) for i in range(len(group["params"]))]
