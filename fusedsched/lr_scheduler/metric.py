# SPDX-License-Identifier: Apache-2.0
"""Metric schedulers: `step(metrics)` decides on the host, or by a launch on the device that has the metric.

A number, or a tensor on the CPU, is read, and Python decides. A tensor on the parameters' device is not read: one
launch there compares it and writes the learning rates (`metric_state.py`). Where a SequentialLR has such a member, a
second launch continues the rates by its schedule: a decision is an edit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from fusedsched.lr_scheduler import arguments as checks
from fusedsched.runtime.addresses import is_native
from fusedsched.runtime.hyperparameters import DTYPES, Placement, placement_of, runtime_of

from ..schedules.compositions import is_composite, takes_metric
from .building import attach
from .device_driver import DeviceDriver, host_section
from .devices import capture_probe, has_subscribers, is_capturing, refuse_capture
from .driver import edits_of, groups_of, host_driver
from .inputs import inputs_of
from .member_counters import MemberMirror
from .metric_state import Decisions, MetricRule
from .param_groups import add_groups
from .replan import step_in_branch
from .scheduler import DerivedAttribute, SchedulerMixin
from .traced import as_metric, traced_step
from .watched_values import scalar


class HostMetricDriver:
    """Steps by metrics that are floats, where no device has a part in them."""

    on_device = False

    def __init__(self, scheduler: Any) -> None:
        self.optimizer, self.attributes = scheduler.optimizer, len(scheduler.__dict__)  # a new one may be a method

    def observe(self, scheduler: Any, metric: Any) -> bool:
        """One step. False, and nothing is changed, where more is to be done than to decide."""
        state = scheduler.__dict__
        if type(metric) is not float or len(state) != self.attributes or state["optimizer"] is not self.optimizer:
            return False
        for group in groups_of(self.optimizer):
            if isinstance(group["lr"], Tensor) or (group["params"] and group["params"][0].is_cuda):
                return False
        scheduler._decide(metric, None)
        return True

    def edits(self) -> list[Any]:
        """None: the present rate is all."""
        return []


class MetricScheduler(SchedulerMixin):
    """Mixin: `step(metrics)` on the host or on a device. A class has a rule and the decision on the host."""

    __slots__ = ()
    _rule: MetricRule
    _follows_metric = True
    _counts_steps = False
    last_epoch, best, num_bad_epochs = DerivedAttribute(), DerivedAttribute(), DerivedAttribute()
    cooldown_counter, _last_lr = DerivedAttribute(), DerivedAttribute()

    def step(self, metrics: Any, epoch: int | None = None) -> None:
        """Decides by a metric, a number or a tensor of one element, and changes the rates if it is time.

        With a tensor on the parameters' device this does not wait. Raises TypeError for what is no number.
        """
        if is_dynamo_compiling():
            with torch.no_grad():  # Dynamo skips frames without a torch global and traces what they call
                return traced_step(self, epoch, as_metric(metrics))
        driver = self._driver
        if (
            driver is None
            or epoch is not None
            or self._branch is not None
            or self._skip_guard is not None
            or not driver.observe(self, metrics)
        ):
            self._step_anew(metrics, epoch)

    def _step_anew(self, metrics: Any, epoch: int | None = None) -> None:
        metrics, capturing = checks.metric(self, metrics), is_capturing(self.optimizer)
        if self._skip_guard is not None and not capturing and not self._skip_guard.has_moved():
            return
        if self._branch is not None and _advance_branch(self, epoch):
            return
        if not step_on_device(self, self, metrics, epoch):
            with host_section(self):
                self._decide(metrics, epoch)
            plain = self._skip_guard is None and self._mirror is None and "param_groups" in self.optimizer.__dict__
            if plain and capture_probe(self.optimizer) is None:
                self._driver = self._on_host()

    def _decide(self, metrics: Any, epoch: int | None) -> None:
        """The step on the host."""
        raise NotImplementedError

    def _on_host(self) -> HostMetricDriver:
        """A driver for further steps where no device has a part in them."""
        return HostMetricDriver(self)


def _advance_branch(scheduler: MetricScheduler, epoch: int | None) -> bool:
    """The step, if it belongs to a branch; one to an epoch before that ends it."""
    refuse_capture(scheduler, "step(metrics)")
    if epoch is not None and epoch < scheduler._branch.begin:
        scheduler._detach()
        scheduler._branch = None
        return False
    driver = scheduler._driver
    if epoch is None and driver is not None and driver.advance(scheduler.__dict__):
        return True
    scheduler._detach()
    add_groups(scheduler)
    driver = attach(scheduler) if epoch is None else None
    if driver is None or not driver.advance(scheduler.__dict__):
        scheduler._detach()
        step_in_branch(scheduler, epoch)
    return True


def step_on_device(scheduler: Any, decider: Any, metric: Any, epoch: int | None = None) -> bool:
    """The step of `scheduler`, in which `decider` may decide, if a device can make it.

    Raises RuntimeError while a graph is captured that could not.
    """
    driver = scheduler._mirror
    ready = isinstance(driver, DeviceDriver) and epoch is None and scheduler._skip_guard is None
    if not (ready and driver.serves(metric)):
        driver = _new_driver(scheduler, decider, metric, epoch)
        if isinstance(driver, str):
            if is_capturing(scheduler.optimizer):
                raise RuntimeError(f"{type(scheduler).__name__}.step(metrics) cannot be captured: {driver}")
            return False
        scheduler._driver = None
        driver.begin()
    if is_composite(scheduler) and scheduler._arranged is None:
        MemberMirror(scheduler, driver).install()
    driver.launch(metric)
    return True


def _new_driver(scheduler: Any, decider: Any, metric: Any, epoch: int | None) -> DeviceDriver | str:
    """A driver for steps by such a metric; or why no device can make them."""
    optimizer = scheduler.optimizer
    if epoch is not None:
        return "with an epoch it sets an absolute time. Leave it out."
    if not isinstance(metric, Tensor):
        return "a graph would repeat the decision on this number for ever. Give it a tensor on the device."
    if scheduler._skip_guard is not None:
        return "with advance_on_skip=False the host looks whether an update was applied."
    if decider is None:
        return "a graph takes one member that follows a metric, and one of this package."
    if not decider._rule.is_usual(decider):
        return "it decides, or prints, in a way of its own, which takes the host."
    if isinstance(scheduler._mirror, DeviceDriver):
        return f"the metric is on {metric.device}, the rates are elsewhere."
    if has_subscribers(optimizer):
        return (
            "another scheduler of the same optimizer already steps on the device, and the rates can follow one. "
            "Put them into a SequentialLR or ChainedScheduler."
        )
    placement = _placement_for(optimizer, metric)
    if isinstance(placement, str):
        return placement
    if not is_composite(scheduler):
        return DeviceDriver(scheduler, None, Decisions(decider), placement)
    if any(isinstance(group["lr"], Tensor) for group in groups_of(optimizer)):
        return "the lr of a param group is a tensor. Give it a float; inside a graph it moves all the same."
    if placement.backend != "cuda":
        return "its rates follow a program, which takes the CUDA kernels."
    add_groups(scheduler)
    inputs, clock = inputs_of(scheduler, on_device=True), scheduler.__dict__["last_epoch"]
    if inputs is None:
        return "a member has no closed form, or cycles the momentum."
    groups = groups_of(optimizer)
    scales = [scalar(group["initial_lr"]) for group in groups]
    edits = edits_of(inputs, clock, [group["lr"] for group in groups], scales, None)
    host = host_driver(scheduler, inputs, clock, edits)
    return DeviceDriver(scheduler, host, Decisions(decider, scheduler), placement)


def _placement_for(optimizer: Any, metric: Tensor) -> Placement | str:
    """Where a scheduler of this optimizer decides by such a metric; or why on no device."""
    device, runtime, rates = metric.device, runtime_of(optimizer), [group["lr"] for group in groups_of(optimizer)]
    plans = {} if runtime is None else {p.device: p for p in runtime.plans() if p.name in ("cuda", "triton")}
    tensors = [lr for lr in rates if isinstance(lr, Tensor)]
    if plans and device not in plans:
        where = ", ".join(map(str, plans))
        if device.type != "cpu":
            raise ValueError(f"The metric is on {device}, the parameters are on {where}. Move the metric there.")
        return f"the metric is on the CPU, where a graph cannot look. Give it a tensor on {where}."
    if not is_native(metric):
        return f"the metric is a {type(metric).__name__}, which a kernel cannot read. Give it a plain tensor."
    if not plans and len(tensors) < len(rates):
        kind = type(optimizer).__name__
        return f"the lr of a param group is a float, which {kind} reads on the host. Make it a tensor."
    if any(lr.device != device or lr.dtype not in DTYPES or lr.numel() != 1 or not is_native(lr) for lr in tensors):
        return f"the lr of a param group is a tensor, but no floating point tensor of one element on {device}."
    if plans and (not tensors or len(plans) == 1):
        return Placement(plans[device].name, device)
    placement = None if plans else placement_of(optimizer, groups_of(optimizer))
    return f"there is no kernel for rates on {device}." if placement is None else placement


def decider_of(sequence: Any) -> Any:
    """The one member that follows a metric, if it is a class of this package; else None."""
    found = [member for member in sequence._schedulers if takes_metric(member)]
    return found[0] if len(found) == 1 and isinstance(found[0], MetricScheduler) else None


def note(s: Any, name: str, value: float, integer: bool = True) -> None:
    """Sets an attribute to a number that a device has, in Python's type for it, if it has changed."""
    if not s.__dict__[name] == value:
        s.__dict__[name] = int(value) if integer and value.is_integer() else value


def overrides(scheduler: Any, base: type, *names: str) -> bool:
    """Whether a subclass, or the object itself, has replaced one of these methods."""
    kind = type(scheduler)
    return any(getattr(kind, name) is not getattr(base, name) or name in scheduler.__dict__ for name in names)
