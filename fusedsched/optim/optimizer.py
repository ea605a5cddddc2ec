# SPDX-License-Identifier: Apache-2.0
"""What the optimizers share: construction, the step, native schedules.

A plan reads every pointer, checks it, and updates all parameters of all groups in one call (see `stepping.py`). It is
dropped when anything is replaced and built again at the next step; nothing else is kept beside
torch's own attributes, so that other people's code that edits groups, parameters and state goes on working.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor

from fusedsched.optim import checkpoint as _checkpoint
from fusedsched.optim.compiled import refresh
from fusedsched.optim.plan import build_plan
from fusedsched.optim.recording import Recorded
from fusedsched.optim.runtime import Runtime
from fusedsched.optim.scheduled import Shown, settle_edits, take_schedules
from fusedsched.optim.scheduling import Scheduling
from fusedsched.optim.spec import OptimizerSpec
from fusedsched.optim.state import init_state
from fusedsched.optim.stepping import Stepping
from fusedsched.runtime import backends
from fusedsched.runtime.clocks import Clocks
from fusedsched.runtime.compile_ops import CompileHandle


class FusedOptimizer(Recorded, Scheduling, Stepping):
    """Base of the optimizers; goes before torch's class of the same name where torch has one."""

    _spec: OptimizerSpec

    def _construct(self, params: Any, scalars: dict[str, Any], options: dict[str, Any], backend: str) -> None:
        self._backend = backends.check(backend)
        self._plan = None
        self._captured_plans = []  # replaced ones that captured graphs go on using
        self._runtime = Runtime(self)
        self._ring = None
        self._compile_handle = CompileHandle(self)
        self._constructed = False
        self._shown = Shown(self._spec.hyperparameters)
        self._clocks = Clocks()
        self._counts: dict[Tensor, int] = {}
        self._default_schedules = take_schedules(scalars, self._spec.numbers, largest=True)  # momentum may begin with 0
        if self._spec.torch_class is None:
            super().__init__(params, {**scalars, **options})
        else:
            super().__init__(params, **scalars, **options)
        self._constructed = True
        self._show()
        self._step_supports_amp_scaling = _skips_by_itself(self.defaults)

    def _adopt_construction(self) -> None:
        """For a subclass that calls the constructor of a class of torch instead of ours."""
        self.__dict__.update(_checkpoint.fresh_attributes(self))
        self._default_schedules = take_schedules(self.defaults, self._spec.numbers)
        self._step_supports_amp_scaling = _skips_by_itself(self.defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as torch's does. Its scalars may be schedules, and run on the optimizer's present clocks."""
        if "_constructed" not in self.__dict__:
            self._adopt_construction()
        if isinstance(param_group, dict):
            schedules = take_schedules(param_group, self._spec.numbers)
            for hyper in self._spec.numbers:
                inherited = self._default_schedules.get(hyper.name)
                if inherited is None:
                    continue
                hyper.write(self.defaults, float(inherited(0)))  # torch's checks had another value
                if hyper.key not in param_group:
                    schedules[hyper.name] = inherited
            if schedules:
                param_group["schedules"] = {**param_group.get("schedules", {}), **schedules}
            self._check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)
        self._invalidate(fresh=[(len(self._groups()) - 1, hyper.name) for hyper in self._spec.numbers])
        self._show()

    def _check_group(self, group: dict[str, Any]) -> None:
        for hyper in self._spec.numbers:
            if hyper.name not in group.get("schedules", {}):
                hyper.verify(group)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """torch's list of groups, up to date with captured graphs (which, after a capture, waits for the device)."""
        runtime = self.__dict__.get("_runtime")
        if runtime is not None and runtime.subscribers.data:  # of the WeakSet, whose truth value takes thrice as long
            runtime.sync()
        try:
            return self.__dict__["param_groups"]
        except KeyError:  # wrappers of some trainers take this class and hand its attributes through
            raise AttributeError(f"'{type(self).__name__}' object has no attribute 'param_groups'") from None

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.__dict__["param_groups"] = groups

    def _groups(self) -> list[dict[str, Any]]:
        groups = self.__dict__.get("param_groups")  # without looking at the devices
        return self.param_groups if groups is None else groups

    def sync_hparams(self) -> None:
        """Makes edits of `param_groups` reach captured graphs: the next replay uses them.

        Without it they act at the next `step()`. An edit of a tensor needs neither. Waits for the device.
        """
        self._runtime.sync()
        self._check_counts()
        for plan in self._runtime.cuda_plans():
            if not plan.sync_hparams(self._groups()):
                self._invalidate()
                return

    @property
    def backend(self) -> str:
        """What updates the parameters: "cpu", "cuda", "triton", "reference"; several are joined by "+"."""
        return self._ready_plan().name

    @property
    def skipped_steps(self) -> int:
        """How many calls of `step()` a GradScaler made without effect."""
        self._check_counts()
        return self._clocks.read()[3]

    def _invalidate(self, fresh: Collection[tuple[int, str]] = ()) -> None:
        if self._plan is not None:
            settle_edits(self, fresh)
            _checkpoint.save_counts(self)
        self._drop_plan()
        self._refresh_handle()

    def _drop_plan(self) -> None:
        if self._plan is not None:
            self._captured_plans += [plan for plan in self._runtime.cuda_plans() if plan.captured]
        self._plan = None

    def _invalidate_loaded(self) -> None:
        self._drop_plan()  # what the plan counted belongs to the state before
        self._shown = Shown(self._spec.hyperparameters)
        self._show()
        self._refresh_handle()

    def _refresh_handle(self) -> None:
        if self._compile_handle.param_lists:  # a step was compiled
            refresh(self)

    def _ready_plan(self) -> Any:
        if self._plan is None:
            self._runtime.before_build()
            self._plan = build_plan(self)
            _checkpoint.restore_counts(self)
            if self._ring is not None:
                self._ring.attach(self)
            self._refresh_handle()
            self._runtime.after_build()
        return self._plan

    def _init_state(self, group: dict[str, Any], p: Tensor) -> None:
        init_state(self, group, p)

    def state_dict(self) -> dict[str, Any]:
        """torch's layout. Schedules are saved as expressions in the groups, scheduled scalars as numbers.

        A plain configuration loads into torch's class of the same name, with `weights_only=True` too.
        """
        self._check_counts()
        return _checkpoint.state_dict(self, super().state_dict)

    def load_state_dict(self, state_dict: dict[str, Any], *, override: str = "checkpoint") -> None:
        """Loads a state of this class or of torch's. State is never narrowed, and widened to the
        dtype of its parameter where it is narrower.

        `override`: what wins where the saved schedule is not the present one: "checkpoint" (with a warning that says
        what differs), "present", or "error". Clocks are always the checkpoint's; with a state of torch's class, which
        has none, or with which torch's class has gone on, updates are counted from the largest step of a parameter.
        Raises ValueError for a state of another model or, with "error", of another schedule; nothing is changed then.
        """
        _checkpoint.load_state_dict(self, super().load_state_dict, state_dict, override)

    def __getstate__(self) -> dict[str, Any]:
        _checkpoint.save_counts(self)
        return {**super().__getstate__(), **_checkpoint.settled(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = _checkpoint.fresh_attributes(self) | state
        super().__setstate__(state)
        self._show()


def _skips_by_itself(defaults: dict[str, Any]) -> bool:
    """Whether a GradScaler leaves skipping to the step. torch's differentiable one does not know how.

    Lightning refuses its own clipping where this is true; fused=False is how users say that they want it.
    """
    return defaults.get("fused") is not False and not defaults.get("differentiable")
