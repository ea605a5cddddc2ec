# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: torch's layout, and in the groups, under one key, the plain data that torch has no place for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fusedsched._layouts import CLOCKS
from fusedsched.optim.inputs import PlanInputs
from fusedsched.optim.plan import between_steps
from fusedsched.optim.runtime import Runtime
from fusedsched.runtime.clocks import number
from fusedsched.runtime.loading import all_or_nothing
from fusedsched.schedules import Schedule

KEY = "fusedsched"
_OVERRIDES = ("checkpoint", "present", "error")


def state_dict(optimizer: Optimizer, torch_state_dict: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """torch's, and our plain data in the groups: of one update, also while other threads step."""
    runtime = optimizer._runtime
    inputs = runtime.inputs

    def packed() -> dict[str, Any]:
        runtime.check_counts()
        inputs.schedules.drop_edited(inputs.groups)
        counts = runtime.counts()
        with _first(optimizer._optimizer_state_dict_post_hooks, lambda _, packed: _pack(inputs, counts, packed)):
            return torch_state_dict()

    return packed() if runtime.plan is None else between_steps(runtime.plan, packed)


def _pack(inputs: PlanInputs, counts: dict[Tensor, int], packed: dict[str, Any]) -> None:
    clocks = inputs.clocks.read()
    for group, saved in zip(inputs.groups, packed["param_groups"], strict=True):
        extra: dict[str, Any] = {}
        for _, _, hyper, schedule in inputs.schedules.of([group]):
            hyper.write(saved, number(hyper.read(group)))
            entry = {"expression": schedule.to_json(), "hash": schedule.fingerprint}
            extra.setdefault("schedules", {})[hyper.name] = entry
        saved.pop("schedules", None)
        exact = {i: counts[p] for i, p in enumerate(group["params"]) if p in counts}
        if exact:
            extra["steps"] = exact
        if extra:
            saved[KEY] = {**extra, "clocks": clocks, "largest_step": _largest_step(inputs)}
        if "schedules" in extra:  # flattened checkpoints of torch.distributed look for the keys of the live group
            saved["schedules"] = saved[KEY]


def load_state_dict(
    optimizer: Optimizer, torch_load: Callable[[dict[str, Any]], None], packed: dict[str, Any], override: str
) -> list[str]:
    """torch's, and our plain data from the groups. Returns warnings."""
    if override not in _OVERRIDES:
        raise ValueError(f"Invalid override: {override!r}. Choose one of {', '.join(map(repr, _OVERRIDES))}.")
    load = _Load(optimizer._runtime, override)
    after_theirs = _last(optimizer._optimizer_load_state_dict_pre_hooks, load.check)
    before_theirs = _first(optimizer._optimizer_load_state_dict_post_hooks, load.finish)
    what = f"This state of {type(optimizer).__name__}"
    with all_or_nothing(what, _undo(optimizer)), after_theirs, before_theirs:
        torch_load(packed)
    return load.messages


def _undo(optimizer: Optimizer) -> Callable[[], None]:
    """What puts back the groups, the state and everything else as they are now."""
    runtime, inputs = optimizer._runtime, optimizer._runtime.inputs
    kept = {name: optimizer.__dict__[name] for name in ("state", "param_groups") if name in optimizer.__dict__}
    clocks, subscribers, counts = runtime.clocks.read(), list(runtime.subscribers), dict(inputs.counts)
    plan, schedules = runtime.plan, inputs.schedules

    def put_back() -> None:
        optimizer.__dict__.update(kept)
        runtime.plan, inputs.schedules, inputs.counts = plan, schedules, counts
        runtime.subscribers.update(subscribers)
        if runtime.clocks.read() != clocks:
            runtime.clocks.set(clocks)

    return put_back


@contextmanager
def _first(hooks: OrderedDict[Any, Callable[..., Any]], ours: Callable[..., Any]) -> Iterator[None]:
    """Ours runs before other people's hooks, which see finished work. What they add or remove stays so."""
    outer = hooks.get(KEY)  # of an outer call, where a hook saves or loads
    hooks[KEY] = ours
    hooks.move_to_end(KEY, last=False)
    try:
        yield
    finally:
        if outer is None:
            hooks.pop(KEY, None)
        else:
            hooks[KEY] = outer


@contextmanager
def _last(hooks: OrderedDict[Any, Callable[..., Any]], ours: Callable[..., Any]) -> Iterator[None]:
    """Ours runs after other people's hooks, as a part of the last one: behind one that removes itself, torch's loop
    would not find another."""
    key, theirs = next(reversed(hooks.items()), (KEY, lambda *_: None))

    def both(optimizer: Optimizer, packed: dict[str, Any]) -> dict[str, Any] | None:
        adapted = theirs(optimizer, packed)
        ours(packed if adapted is None else adapted)
        return adapted

    hooks[key] = both
    try:
        yield
    finally:
        if hooks.get(key) is both:
            hooks[key] = theirs
        hooks.pop(KEY, None)


class _Load:
    """One load: what comes between other people's pre-hooks, which may adapt the state, and their post-hooks."""

    def __init__(self, runtime: Runtime, override: str) -> None:
        self._runtime, self._inputs, self._override = runtime, runtime.inputs, override
        self.messages: list[str] = []

    def check(self, packed: dict[str, Any]) -> None:
        """Reads all that torch does not. Raises for a state that does not fit; nothing has been changed yet."""
        _check_types(self._inputs, packed)
        _check_shapes(self._inputs, packed)
        self._packed = packed
        self._extras = [saved.get(KEY) or saved.get("schedules") or {} for saved in packed["param_groups"]]
        groups = enumerate(zip(self._inputs.groups, self._extras, strict=False))  # torch compares their number
        self._schedules = [self._choose(index, group.get("schedules") or {}, extra) for index, (group, extra) in groups]

    def _choose(self, index: int, present: dict[str, Schedule], extra: dict[str, Any]) -> dict[str, Schedule]:
        saved = {name: Schedule.from_json(e["expression"]) for name, e in extra.get("schedules", {}).items()}
        for name in [name for name in present if name in saved]:
            if saved[name] != present[name]:
                self._say(
                    f"The saved schedule of '{name}' in group {index} is not the present one.\nsaved:\n"
                    f"{saved[name].describe()}\npresent:\n{present[name].describe()}"
                )
        return saved | present if self._override == "present" or not extra else present | saved

    def _say(self, message: str) -> None:
        if self._override == "error":
            raise ValueError(message + '\nPass override="checkpoint" or override="present" to choose one.')
        if self._override == "checkpoint":
            self.messages.append(message + '\nThe saved one goes on; override="present" keeps the other.')

    def finish(self, optimizer: Optimizer) -> None:
        """Puts our plain data where it belongs, after torch's load."""
        inputs = self._inputs
        _restore_dtypes(inputs, self._packed)
        inputs.counts = {}
        clocks, then, now = None, None, _largest_step(inputs)
        for group, extra, schedules in zip(inputs.groups, self._extras, self._schedules, strict=True):
            group.pop(KEY, None)
            group.pop("schedules", None)
            if schedules:
                group["schedules"] = schedules
            for i, count in extra.get("steps", {}).items():
                if int(i) < len(group["params"]):  # a hook may have split the group
                    inputs.counts[group["params"][int(i)]] = count
            clocks, then = extra.get("clocks", clocks), extra.get("largest_step", then)
        clocks = clocks or [now]
        if then is not None and now > then:  # torch's class has trained with it, and kept our key as it was
            clocks = [now, *clocks[1:]]
        inputs.clocks.set(clocks + [0] * (4 - len(clocks)))
        self._runtime.reset()
        self._runtime.show()
        self._runtime.compiled.refresh()


def _largest_step(inputs: PlanInputs) -> int:
    steps = [s["step"] for s in inputs.state.values() if isinstance(s, dict) and s.get("step") is not None]
    return int(max((float(step) for step in steps), default=0.0))


def _require(value: Any, kind: type | tuple[type, ...], what: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"loaded state dict has {what} of type {type(value).__name__}: {value!r:.80}")


def _check_types(inputs: PlanInputs, packed: dict[str, Any]) -> None:
    """What nobody wrote raises before anything is changed. torch would fail later, in a step."""
    _require(packed["state"], dict, "a 'state'")
    _require(packed["param_groups"], (list, tuple), "'param_groups'")
    for key, state in packed["state"].items():
        _require(state, dict, f"a state of parameter {key}")
        step = state.get("step")
        if step is not None and not (isinstance(step, Tensor) and step.numel() == 1):
            _require(step, (int, float), f"a state['step'] of parameter {key}")
            if not 0 <= step < 2**63:
                raise ValueError(
                    f"loaded state dict has state['step'] = {step!r:.80} of parameter {key}, which is no count."
                )
        for name in (name for name in inputs.spec.state_names if state.get(name) is not None):
            _require(state[name], Tensor, f"a state['{name}'] of parameter {key}")
    for g, saved in enumerate(packed["param_groups"]):
        _require(saved, dict, f"param_groups[{g}]")
        _require(saved["params"], (list, tuple), f"param_groups[{g}]['params']")
        for key, value in saved.items():
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ValueError(f"loaded state dict has param_groups[{g}]['{key}'] that is out of range.")
        for name in (name for name in (KEY, "schedules") if saved.get(name)):
            _require(saved[name], dict, f"param_groups[{g}]['{name}']")
            _check_extra(saved[name], f"param_groups[{g}]['{name}']")


def _check_extra(extra: dict[str, Any], where: str) -> None:
    steps, clocks, schedules = (extra.get(key) for key in ("steps", "clocks", "schedules"))
    counts = [*(steps or {}).values(), *(clocks or []), extra.get("largest_step", 0)]
    if any(type(count) is not int or not 0 <= count < 2**63 for count in counts) or len(clocks or []) > len(CLOCKS):
        raise ValueError(f"loaded state dict has no counts in {where}: {counts!r:.120}")
    for name, entry in (schedules or {}).items():
        _require(entry, dict, f"{where}['schedules']['{name}']")


def _check_shapes(inputs: PlanInputs, packed: dict[str, Any]) -> None:
    """The same for a state of another model."""
    groups, saved_groups = inputs.groups, packed["param_groups"]
    for g, (group, saved) in enumerate(zip(groups, saved_groups, strict=False)):
        for i, (p, key) in enumerate(zip(group["params"], saved["params"], strict=False)):
            for name, value in (packed["state"].get(key) or {}).items():
                if isinstance(value, Tensor) and name in inputs.spec.state_names and value.shape != p.shape:
                    raise ValueError(
                        f"loaded state dict has state['{name}'] of shape {tuple(value.shape)} for parameter {i} of "
                        f"group {g}, whose shape is {tuple(p.shape)}. It belongs to another model."
                    )


def _restore_dtypes(inputs: PlanInputs, packed: dict[str, Any]) -> None:
    """torch casts state to the dtype of its parameter: float32 moments of a bfloat16 model would be lost. A narrower
    state stays as torch has widened it: second moments of bfloat16 get stuck."""
    for group, saved in zip(inputs.groups, packed["param_groups"], strict=True):
        for p, key in zip(group["params"], saved["params"], strict=True):
            for name, value in (packed["state"].get(key) or {}).items():
                if not isinstance(value, Tensor) or name not in inputs.spec.state_names:
                    continue
                if torch.promote_types(value.dtype, p.dtype) != p.dtype:
                    inputs.state[p][name] = value.to(device=p.device, copy=True)
