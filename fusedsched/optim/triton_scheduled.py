# SPDX-License-Identifier: Apache-2.0
"""Schedules and clocks of a Triton plan."""

from __future__ import annotations

from torch import Tensor

from fusedsched._layouts import CLOCKS


class Scheduled:
    """What a plan has for them. What the methods promise: `csrc/plan/plan.h`."""

    def set_program(self, group: int, name: str, table: list[float], unit: int, shown: Tensor) -> bool:
        """Puts a schedule in the place of a hyperparameter. `shown` gets its value for the next update, now and at each
        step."""
        if name not in [hyper.name for hyper in self._spec.hyperparameters]:
            raise ValueError(f"'{name}' cannot be scheduled by this optimizer.")
        before = self._rule(group)
        self._groups[group].read()
        if self._memory.in_graph(self) and self._rule(group) != before:
            return True
        i = self._programs.put((group, name), list(table), unit, shown)
        self._edited.discard(i)
        self._versions[i] = shown._version
        self.advance(0, 0)
        if self._sources.tensor is not None:
            self._write_tables()  # where captured graphs find its value
        return False

    def advance(self, unit: int, amount: int) -> None:
        self._programs.advance(unit, amount)

    def advance_by(self, unit: int, amount: Tensor) -> None:
        if self.capturing():
            self._memory.keep_for_graph(self)
        self._programs.advance_by(unit, amount)

    def check_counts(self) -> None:
        for unit, name in enumerate(CLOCKS):
            if int(self._programs.negative[unit]):
                self._programs.negative[unit] = 0  # raised once: the clock has held, and goes on
                raise ValueError(
                    f"advance() got a negative number of {name} in a tensor on {self.device}. That call advanced "
                    "nothing. Numbers of samples and tokens must be zero or more."
                )

    def _take_edited(self) -> bool:
        """Whether a scheduled hyperparameter was written to, for the warning. The kernel sees that by the value."""
        replaced = [i for i in range(len(self._programs)) if not self._kept(i)]
        written_to = [i for i in range(len(self._programs)) if self._written_to(i)]
        self._edited.update(written_to)
        for i in written_to:
            self._versions[i] = self._programs.shown[i]._version
        return bool(replaced or written_to)

    def _check_horizons(self) -> None:
        self.check_counts()
        for i, (_, name) in enumerate(self._programs.names):
            left_alone = self._kept(i) and not self._written_to(i) and i not in self._edited
            if left_alone and int(self._programs.past_horizon[i]):
                raise RuntimeError(
                    f"The schedule of '{name}' ends at step {self._programs.horizons[i]:.0f} and past_end=\"error\" "
                    'was asked for. Give it more steps, or past_end="hold".'
                )

    def _written_to(self, i: int) -> bool:
        return self._programs.shown[i]._version != self._versions[i]

    def _kept(self, i: int) -> bool:
        """Whether the tensor that shows a schedule is still in its place."""
        group, name = self._programs.names[i]
        return self._groups[group].object(name) is self._programs.shown[i]
