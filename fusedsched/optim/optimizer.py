# SPDX-License-Identifier: Apache-2.0
"""The base of the optimizers: what users call.

Everything that an optimizer has beside torch's attributes is in its `Runtime`. `step()` is kept free of what a plain
training loop does not need: torch's wrapper, which runs hooks and opens the profiler's record, is entered only where
there is a hook or a profiler.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.autograd import profiler
from torch.compiler import is_dynamo_compiling
from torch.optim import Optimizer, optimizer as torch_optimizer

from fusedsched.optim import checkpoint
from fusedsched.optim.compiled import build_plan_now, traced_advance, traced_step, traced_zero_grad
from fusedsched.optim.plan import every_plan
from fusedsched.optim.python_plan import DONE
from fusedsched.optim.runtime import Runtime
from fusedsched.optim.scheduling import advance_clocks, checked_count, chosen_schedules, schedulable, take_schedules
from fusedsched.optim.spec import OptimizerSpec
from fusedsched.optim.stepping import plain_step, skips_by_itself, watched_step
from fusedsched.optim.telemetry import Ring, Telemetry, check_norm, enabled
from fusedsched.reference.arguments import first_fault, naming_faults, read_texts
from fusedsched.runtime import backends
from fusedsched.runtime.hyperparameters import GROUP_ADDED
from fusedsched.runtime.order import StepCalled, levels_outside
from fusedsched.schedules import Schedule
from fusedsched.torch_originals import SGD as TorchSGD


class FusedOptimizer(Optimizer):
    """Base of the optimizers; goes before torch's class of the same name where torch has one."""

    _spec: OptimizerSpec
    _opt_called = StepCalled()

    def _construct(self, params: Any, scalars: dict[str, Any], options: dict[str, Any], backend: str) -> None:
        runtime = self._runtime = Runtime(self, self._spec, backends.check(backend))
        runtime.complete = False
        runtime.default_schedules = take_schedules(scalars, self._spec, largest=True)  # momentum may begin with 0
        read_texts(scalars, self._spec.number_keys)
        with naming_faults(scalars, self._spec.number_keys):
            if self._spec.torch_class is None:
                super().__init__(params, {**scalars, **options})
            else:
                super().__init__(params, **scalars, **options)
        runtime.complete = True
        runtime.show()
        self._step_supports_amp_scaling = skips_by_itself(self.defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as torch's does. Its scalars may be schedules, and run on the optimizer's present clocks.

        Under a scheduler of this package that computes rates from the base rate, it gets the rate of the present step.
        """
        if "_runtime" not in self.__dict__:  # a subclass calls the constructor of torch's class instead of ours
            self._runtime = Runtime(self, self._spec, default_schedules=take_schedules(self.defaults, self._spec))
            self._step_supports_amp_scaling = skips_by_itself(self.defaults)
        runtime, numbers = self._runtime, self._spec.numbers
        if isinstance(param_group, dict):
            schedules = take_schedules(param_group, self._spec)
            read_texts(param_group, self._spec.number_keys)
            for hyper in numbers:
                inherited = runtime.default_schedules.get(hyper.name)
                if inherited is None:
                    continue
                hyper.write(self.defaults, float(inherited(0)))  # torch's checks had another value
                if hyper.key not in param_group:
                    schedules[hyper.name] = inherited
            if schedules:
                param_group["schedules"] = {**param_group.get("schedules", {}), **schedules}
            self._check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)
        index = len(runtime.groups()) - 1
        runtime.rebuild(fresh=[(index, hyper.name) for hyper in numbers])
        for tell in GROUP_ADDED if runtime.complete else ():
            tell(runtime, index)
        runtime.show()

    def _check_group(self, group: dict[str, Any]) -> None:
        filled = [key for key in self._spec.number_keys if group[key] is not None]  # the others are set before a step
        fault = first_fault(group, filled)
        if fault:
            raise TypeError(f"Group {len(self.__dict__.get('param_groups', ()))}: {fault}")
        for hyper in self._spec.numbers:
            if hyper.name not in group.get("schedules", {}):
                hyper.verify(group)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """torch's list of groups, up to date with captured graphs (which, after a capture, waits for the device)."""
        runtime = self.__dict__.get("_runtime")
        if runtime is not None and runtime.subscribers.data:  # of the WeakSet: its truth value takes longer
            runtime.sync()
        try:
            return self.__dict__["param_groups"]
        except KeyError:  # wrappers of some trainers take this class and hand its attributes through
            raise AttributeError(f"'{type(self).__name__}' object has no attribute 'param_groups'") from None

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.__dict__["param_groups"] = groups

    def step(self, *args: Any, closure: Any = ...) -> Any:
        """One update of all parameters that have a gradient. `closure`: evaluates the model again, returns the loss.

        Raises RuntimeError for a gradient that cannot be used, before anything is changed.
        """
        if is_dynamo_compiling():
            return traced_step(self, (args[0] if args else None) if closure is ... else closure)
        attributes = self.__dict__
        attributes["_opt_called"] = True  # torch's schedulers ask for it; they would patch this method otherwise
        runtime = attributes["_runtime"]
        plan = runtime.plan
        if (
            (closure is ... or closure is None)
            and (not args or args == (None,))
            and plan is not None
            and not profiler._is_profiler_enabled
            and "found_inf" not in attributes
            and not attributes["_optimizer_step_pre_hooks"]
            and not attributes["_optimizer_step_post_hooks"]
            and not torch_optimizer._global_optimizer_pre_hooks
            and not torch_optimizer._global_optimizer_post_hooks
        ):
            outcome = plan.step(attributes["param_groups"], self.state, None, None)
            if outcome != DONE:
                runtime.resume(outcome)
            return None
        # A subclass with a step of its own was wrapped by torch, hooks and all.
        run = watched_step(self._spec.name) if type(self).step is FusedOptimizer.step else plain_step
        return run(self, *args) if closure is ... else run(self, *args, closure=closure)

    step.hooked = True  # torch's wrapper is in watched_step: entered only where a hook or a profiler is
    step._wrapped_by_lr_sched = True
    step.__signature__ = inspect.signature(TorchSGD.step)  # hooks see how the closure was passed

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Resets the gradients of all parameters, as torch's does."""
        if is_dynamo_compiling():
            return traced_zero_grad(self, set_to_none)
        plan = self._runtime.plan
        if profiler._is_profiler_enabled or plan is None:
            super().zero_grad(set_to_none)
        elif not plan.zero_grad(self._runtime.groups(), set_to_none):  # which waits for nothing
            super().zero_grad(set_to_none)

    def set_schedule(self, name: str, schedule: Schedule | Sequence[Schedule], group: int | None = None) -> None:
        """Puts a schedule in the place of a scalar, in one group or (None) in all. It runs on the present clock.

        `name`: "lr", "beta1", "beta2", "momentum" or "weight_decay", as the optimizer has them. `schedule`: one, or
        with `group=None` a list of one for each group. It acts at the next step; a captured graph follows at its next
        replay.
        Raises ValueError for an unknown name, for a schedule that is negative or not finite somewhere and for a list of
        another length, IndexError for a group that is not there, RuntimeError while a graph is captured and for what
        follows a drop-in scheduler inside one. Nothing is changed then.

        >>> import torch
        >>> from fusedsched import SGD, schedules
        >>> opt = SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
        >>> opt.set_schedule("lr", schedules.linear(0.25, 0.0, steps=10))
        >>> opt.param_groups[0]["lr"]
        tensor(0.2500, dtype=torch.float64)
        """
        hyper = schedulable(self._spec, name, type(self).__name__)
        chosen = chosen_schedules(hyper, schedule, group, len(self.param_groups))
        if self._runtime.capturing():
            raise RuntimeError("set_schedule() while a CUDA graph is captured. Call it before or after the capture.")
        self._runtime.refuse_scheduled(name)
        self._runtime.put_schedules(hyper, chosen)

    def advance(self, *, samples: int | Tensor = 0, tokens: int | Tensor = 0) -> None:
        """Advances the clocks of schedules with `unit="sample"` or `unit="token"`. Updates count themselves.

        A number, or an integer tensor with one element. One on the parameters' device is not waited for; inside a
        captured graph each replay advances by what it holds then. A negative one there advances nothing, and a later
        call (`step`, `telemetry`, `state_dict`, `skipped_steps`, `sync_hparams`) raises ValueError.
        Raises ValueError for a negative number and for several elements, TypeError for what is no integer.

        >>> import torch
        >>> from fusedsched import SGD, schedules
        >>> rate = schedules.linear(0.5, 0.0, steps=1_000, unit="token")
        >>> opt = SGD([torch.zeros(1, requires_grad=True)], lr=rate)
        >>> opt.advance(tokens=torch.tensor(250))
        >>> float(opt.param_groups[0]["lr"])
        0.375
        """
        if is_dynamo_compiling():
            return traced_advance(self, samples, tokens)
        counts = [(unit, checked_count(unit, count)) for unit, count in ((1, samples), (2, tokens))]
        self._runtime.check_counts()
        advance_clocks(every_plan(self._runtime.ready()), counts, self._runtime.capturing)

    def sync_hparams(self) -> None:
        """Makes edits of `param_groups` reach captured graphs: the next replay uses them.

        Without it they act at the next `step()`. An edit of a tensor needs neither. Waits for the device.
        """
        runtime = self._runtime
        runtime.sync()
        runtime.check_counts()
        runtime.restore_copies()
        for plan in runtime.cuda_plans():
            if not plan.sync_hparams(runtime.groups()):
                return runtime.rebuild()

    @property
    def backend(self) -> str:
        """What updates the parameters: "cpu", "cuda", "triton", "reference"; several are joined by "+"."""
        return self._runtime.ready().name

    @property
    def skipped_steps(self) -> int:
        """How many calls of `step()` a GradScaler made without effect."""
        self._runtime.check_counts()
        return self._runtime.clocks.read()[3]

    def enable_telemetry(self, length: int = 1024) -> None:
        """From the next `step()` on, keeps what each of the last `length` updates used. Starts with none.

        Graphs captured before have none. Raises ValueError for a length that is not a positive integer.
        """
        ring = Ring(length)
        if self._runtime.capturing():
            raise RuntimeError("enable_telemetry() while a CUDA graph is captured. Call it before the capture.")
        self._runtime.record_to(ring)

    def disable_telemetry(self) -> None:
        """Stops it and drops what was kept."""
        self._runtime.record_to(None)

    def telemetry(self, last: int | None = None) -> Telemetry:
        """What the last updates used, at most `last` of them, in one copy. Waits for the device.

        Raises RuntimeError if telemetry is off.
        """
        ring = enabled(self._runtime.inputs.ring)
        self._runtime.check_counts()
        return ring.read(self._spec.hyperparameters, last)

    def log_grad_norm(self, norm: float | Tensor) -> None:
        """The gradient norm that belongs to the next update, and to that one alone. A tensor is not waited for.

        `norm`: a number, or a floating point tensor with one element. Raises RuntimeError if telemetry is off.
        """
        ring = enabled(self._runtime.inputs.ring)
        check_norm(norm)
        if is_dynamo_compiling():
            build_plan_now(self._runtime.compiled.handle)
        else:
            self._runtime.ready()
        ring.log_norm(norm)

    def state_dict(self) -> dict[str, Any]:
        """torch's layout. Schedules are saved as expressions in the groups, scheduled scalars as numbers.

        A plain configuration loads into torch's class of the same name, with `weights_only=True` too.
        """
        return checkpoint.state_dict(self, super().state_dict)

    def load_state_dict(self, state_dict: dict[str, Any], *, override: str = "checkpoint") -> None:
        """Loads a state of this class or of torch's. State is never narrowed, and widened to the
        dtype of its parameter where it is narrower.

        `override`: what wins where the saved schedule is not the present one: "checkpoint" (with a warning that says
        what differs), "present", or "error". Clocks are always the checkpoint's; with a state of torch's class, which
        has none, or with which torch's class has trained, updates are counted from the largest step of a parameter.
        Raises ValueError for a state of another model or, with "error", of another schedule; nothing is changed then.
        """
        for message in checkpoint.load_state_dict(self, super().load_state_dict, state_dict, override):
            warnings.warn(message, UserWarning, stacklevel=levels_outside())

    def __getstate__(self) -> dict[str, Any]:
        kept = {"_step_supports_amp_scaling": self._step_supports_amp_scaling, checkpoint.KEY: self._runtime.saved()}
        return {**super().__getstate__(), **kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state, runtime = dict(state), self.__dict__.get("_runtime")
        saved = state.pop(checkpoint.KEY, {})
        if runtime is not None and runtime.inputs.optimizer() is self:  # torch's load_state_dict comes here
            runtime.reset()
        else:  # a copy, or an object that was given the attributes of an optimizer
            self._runtime = Runtime(self, self._spec, **(runtime.saved() if runtime is not None else saved))
        super().__setstate__(state)
        self._runtime.show()
