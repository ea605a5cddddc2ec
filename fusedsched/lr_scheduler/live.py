# SPDX-License-Identifier: Apache-2.0
"""Plans that change while they run: another end (`extend`), or a decay from here on (`branch`).

A graph that was captured follows at its next replay, since what changes are programs in device memory; a compiled step
runs the same code as an eager one. See docs/live-plans.md.
"""

from __future__ import annotations

from typing import Any

import torch

from fusedsched.schedules.arguments import final_level, one_of

from ..schedules.convert import of_rows
from ..schedules.expression import Schedule
from ..schedules.warmups import DECAYS
from . import captured
from .branch import Branch
from .closed import Origins
from .extending import clock_of, extension
from .rows import value
from .saving import KEY, Restored, write_lr
from .tracks import copied, scalar


def _whole(name: str, number: Any, what: str) -> int:
    """A positive integer."""
    if isinstance(number, bool) or not hasattr(number, "__index__") or number.__index__() < 1:
        raise ValueError(f"Invalid {name}: {number!r}. It must be an integer of 1 or more: {what}.")
    return number.__index__()


def _each(scheduler: Any, name: str, number: Any) -> list[Any]:
    """One for each group."""
    count = len(scheduler.optimizer.param_groups)
    if not isinstance(number, (list, tuple)):
        return [number] * count
    if len(number) != count:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. "
            f"{name} has {len(number)} values, param_groups has {count}."
        )
    return list(number)


class Live(Restored):
    """Mixin: a scheduler whose plan may be changed under way."""

    __slots__ = ()
    _branch: Branch | None  # what it does instead of what its class says; None as a rule

    def extend(self, total_steps: int) -> None:
        """Moves the end of the schedule to step `total_steps`, from the present rate on: the run got longer or shorter.

        CosineAnnealingLR, LinearLR, PolynomialLR, ConstantLR, SWALR: what torch's own recursion does once `T_max`,
        `total_iters` or `anneal_epochs` is set to that. OneCycleLR: a climb under way keeps its pace, what lies ahead
        is stretched in proportion, and the last value comes at step total_steps - 1. SequentialLR: its last member
        ends there, ChainedScheduler: the members that end last. After `branch()`: the branch does.

        Argument: `total_steps`, the length of the whole run in steps of this scheduler. Raises TypeError for a class
        without an end, ValueError for a step that is not ahead and for a schedule that has arrived; nothing is changed
        then.

        >>> import torch
        >>> from fusedsched.lr_scheduler import PolynomialLR
        >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
        >>> sched = PolynomialLR(opt, total_iters=4)
        >>> opt.step(), sched.step(), sched.step()
        (None, None, None)
        >>> sched.extend(total_steps=6)
        >>> for _ in range(4):
        ...     sched.step()
        ...     print(round(sched.get_last_lr()[0], 3))
        0.3
        0.2
        0.1
        0.0
        """
        captured.refuse(self, "extend()")
        self._settle()  # the members of a chain do not look at what advances it
        changes = extension(self, _whole("total_steps", total_steps, "the length of the whole run"))
        self._leave_device()
        with captured.paused(self):
            if self._branch is None:
                self._admit_at(clock_of(self))  # what is new has been there for as long as the others
            for change in changes:
                change()

    def branch(
        self,
        steps: int,
        final: float | list[float] | None = None,
        decay: str = "linear",
        *,
        final_ratio: float | list[float] | None = None,
    ) -> None:
        """Lets the rates decay from here: from what each group has now to `final` in `steps` steps, then `final`.

        lr(t) = final + (lr(begin) - final) * d(q), q = (t - begin) / steps, d as in `schedules.warmup_stable_decay`

        Whatever the scheduler would have done is forgotten; it goes on counting steps, and a momentum that it cycled
        stays where it is. An edit of a rate is carried on, to the same end. `step(epoch)` of an epoch before the branch
        ends it.

        Arguments: `steps`, 1 or more; `final`, a rate or one for each group, default 0; `decay`, "linear", "cosine" or
        "1-sqrt"; `final_ratio`, instead of `final`, as a part of the present rate. Raises ValueError before anything is
        changed. Call it on the scheduler that you step, not on a member of it.

        >>> import torch
        >>> from fusedsched.lr_scheduler import ConstantLR
        >>> opt = torch.optim.SGD([torch.zeros(1)], lr=0.8)
        >>> sched = ConstantLR(opt, factor=1.0)
        >>> sched.branch(steps=2, final=0.2)
        >>> sched.expressions()[0].curve(4)
        [0.8, 0.5, 0.2, 0.2]
        """
        captured.refuse(self, "branch()")
        self._settle()
        begin, steps = clock_of(self), _whole("steps", steps, "how many steps the decay takes")
        if type(begin) is not int:
            raise ValueError(f"The scheduler stands at last_epoch={begin}. A branch begins at a whole step.")
        one_of("decay", decay, tuple(DECAYS))
        if final is not None and final_ratio is not None:
            raise ValueError(f"Got both final={final} and final_ratio={final_ratio}. Give one of them.")
        given, ratios = _each(self, "final", final), _each(self, "final_ratio", final_ratio)
        rates = [scalar(group["lr"]) for group in self.optimizer.param_groups]
        finals = [
            final_level("final", value, ratio, of=rate, default=0.0)
            for value, ratio, rate in zip(given, ratios, rates, strict=True)
        ]
        clock = begin if self._branch is None else self._branch.first_begin()
        self._leave_device()
        with captured.paused(self):
            self._admit_at(clock)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                if scalar(group["lr"]) != rate:  # that of a group which was admitted just now
                    write_lr(group, rate)
            branch = Branch(
                begin=begin,
                end=begin + steps,
                decay=decay,
                start=rates,
                final=finals,
                height=1.0,
                ratio=None if final_ratio is None else ratios,
                earlier=[] if self._branch is None else [*self._branch.earlier, self._branch],
            )
            self._enter(branch, begin)

    def _leave_device(self) -> None:
        """Where a device decides, the host does from here on: boards know no other plan."""

    def _enter(self, branch: Branch, clock: int) -> None:
        """Goes on in a branch, from what the groups have."""

    def _leave(self) -> None:
        """Is what its class is again."""

    def _move_end(self, end: int) -> None:
        """Moves the end of its branch."""

    def _admit_at(self, clock: int) -> None:
        """Takes in groups added to the optimizer since, at the rates that they would have had at a clock."""

    def _in_branch(self, epoch: float | None) -> bool:
        """The step, if it belongs to a branch; one to an epoch before that ends it."""
        return False

    def _left_branch(self, epoch: float | None) -> bool:
        """Whether that is the case."""
        before = epoch is not None and epoch < self._branch.begin
        if before:
            self._leave()
        return before

    def _clock_at(self, epoch: float) -> float:
        """`last_epoch` after `step(epoch)`."""
        return epoch

    def _saved_branch(self) -> dict[str, Any]:
        return self._branch.saved()

    def state_dict(self) -> dict[str, Any]:
        """torch's state dict of this class, and one key of plain data, "fusedsched": the groups' rates, exactly."""
        state = super().state_dict()
        if self._branch is not None:
            state[KEY]["branch"] = self._saved_branch()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` of this class or of torch's wrote; the groups get their rates back too.

        Other than in torch, it does not matter whether the optimizer is loaded before, after or not at all.
        """
        saved, count = state_dict.get(KEY, {}).get("branch"), len(self.optimizer.param_groups)
        if saved is not None and len(saved["start"]) > count:
            raise ValueError(
                f"The state is in a branch of {len(saved['start'])} param_groups, the optimizer has {count}. "
                "Build the optimizer with all of them before you load the scheduler."
            )
        super().load_state_dict(state_dict)


class Branching(Live):
    """Mixin: a scheduler that moves along a branch as along the closed form of its class."""

    __slots__ = ()

    def _enter(self, branch: Branch, clock: int) -> None:
        self._drop_track()
        self._branch, self._origins = branch, None

    def _leave(self) -> None:
        self._drop_track()
        self._branch = self._origins = None

    def _move_end(self, end: int) -> None:
        self._drop_track()
        self._admit_new_groups()
        self._branch.move_end(self.last_epoch, end)

    def _in_branch(self, epoch: Any) -> bool:
        branch = self._branch
        if branch is None or self._left_branch(epoch):
            return False
        self._drop_track()
        self._admit_new_groups()
        if epoch is None:
            self._anchor()
            time = clock = self.last_epoch + 1
            # Without origins its clock has a fraction, since step(epoch).
            points = branch.present(self) if self._origins is None else self._origins.points
        else:
            time, clock, points = epoch, self._clock_at(epoch), branch.tops()
        groups = self.optimizer.param_groups
        for i, (group, point) in enumerate(zip(groups, points, strict=True)):
            write_lr(group, value(self._form().rows(self, i, *point), time))
        self._last_lr = [copied(group["lr"]) for group in groups]
        self.last_epoch = self._clock = clock
        self._origins = Origins(points, self._settings()) if type(clock) is int else None
        return True

    def _admit_at(self, clock: int) -> None:
        state, groups, branch = self.__dict__, self.optimizer.param_groups, self._branch
        if branch is not None and clock > branch.begin:
            return self._admit_new_groups()
        new, passed = range(len(self.base_lrs), len(groups)), state["last_epoch"] - clock
        state["last_epoch"], self._branch = clock, None
        state["_step_count"] -= passed if self._counts_steps else 0
        try:
            self._admit_new_groups()
        finally:
            state["last_epoch"], self._branch = clock + passed, branch
            state["_step_count"] += passed if self._counts_steps else 0
        if isinstance(self, torch.optim.lr_scheduler.LambdaLR):
            for i in new:
                write_lr(groups[i], scalar(self.base_lrs[i]) * self.lr_lambdas[i](clock))

    def _ahead(self, i: int) -> Schedule | None:
        """What it does to group i from here on, on its own clock; None where that has no closed form."""
        return None if self._programs() is None else of_rows(self._rows(i))
