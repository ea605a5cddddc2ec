# SPDX-License-Identifier: Apache-2.0
"""Plans that change while they run: another end (`extend`), or a decay from here on (`branch`).

A graph that was captured follows at its next replay, since what changes are programs in device memory; a compiled step
runs the same code as an eager one. See docs/live-plans.md.
"""

from __future__ import annotations

import copy
from typing import Any

from ..schedules.flags import final_level, one_of
from ..schedules.warmups import DECAYS
from . import captured
from .branch import Branch
from .extending import clock_of, extension
from .saving import KEY, Restored, write_lr
from .tracks import scalar


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
        changes = extension(self, _whole("total_steps", total_steps, "the length of the whole run"))
        with captured.paused(self):
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
        with captured.paused(self):
            self._admit_at(clock)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                write_lr(group, rate)  # that of a group which was just admitted too
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


class Represented(Live):
    """Mixin: a scheduler whose rates are not its own to compute. In a branch, one with a closed form steps for it."""

    __slots__ = ("_stand_in",)

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._stand_in = None
        return self

    @property
    def _branch(self) -> Branch | None:
        return None if self._stand_in is None else self._stand_in._branch

    def _enter(self, branch: Branch, clock: int) -> None:
        from .standing import StandIn  # a scheduler too

        self._stand_in = StandIn.begin(self.optimizer, branch, clock)
        self.__dict__["_last_lr"] = self._stand_in._last_lr

    def _leave(self) -> None:
        self._stand_in = None

    def _working(self) -> Any:
        """The stand-in, where this scheduler is: its `last_epoch` may have been set."""
        stand_in = self._stand_in
        stand_in._whole = self
        clock = self.__dict__.get("last_epoch", stand_in.last_epoch)
        if clock != stand_in.last_epoch:
            stand_in.last_epoch = clock
        return stand_in

    def _show(self) -> None:
        """Shows what the stand-in did."""
        self.__dict__["_last_lr"] = self._stand_in._last_lr
        if "last_epoch" in self.__dict__:
            self.__dict__["last_epoch"] = self._stand_in.last_epoch

    def _in_branch(self, epoch: float | None) -> bool:
        if self._stand_in is None or self._left_branch(epoch):
            return False
        stand_in = self._working()
        stand_in.step() if epoch is None else stand_in._in_branch(epoch)
        self._show()
        return True

    def _move_end(self, end: int) -> None:
        self._working()._move_end(end)

    def _saved_branch(self) -> dict[str, Any]:
        return {**super()._saved_branch(), "at": self._working().points()}

    def _loaded(self, ours: dict[str, Any]) -> None:
        super()._loaded(ours)
        self._leave()
        if "branch" in ours:
            saved = dict(ours["branch"])
            (clock, points), last = saved.pop("at"), self.__dict__["_last_lr"]
            self._enter(Branch.loaded(saved), clock)
            self._stand_in.resume(last, points)
            self._show()

    def __getstate__(self) -> Any:
        state = super().__getstate__()
        return state if self._stand_in is None else (state, {"_stand_in": copy.copy(self._stand_in)})
