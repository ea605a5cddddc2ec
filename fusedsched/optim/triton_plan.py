# SPDX-License-Identifier: Apache-2.0
"""The plan of the Triton backend: what `fusedsched._C`'s plans are in C++, for one device.

It reads and compares in Python, so a step costs the host about two microseconds per parameter beside the launches of
`triton_kernels/step.py`. Nothing in a step waits for the device.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from fusedsched._layouts import CLOCKS, MAX_HYPERPARAMETERS
from fusedsched.optim.inputs import PlanInputs
from fusedsched.optim.python_plan import DONE, EXACT, REBUILD, PythonPlan, state_of
from fusedsched.optim.triton_entries import Entry, GroupReader, OutOfDate, aligned, read_groups, types_of
from fusedsched.optim.triton_launches import DevicePrograms, Job, Launches, Memory, Prepared
from fusedsched.runtime.addresses import holds_native_tensors, native, unwrap
from fusedsched.runtime.launching import launching
from fusedsched.triton_kernels import rules


class _Work:
    """What one step updates."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.jobs: list[Job] = []
        self.grads: list[int] = []  # addresses
        self._params: list[Tensor] = []
        self._copies: list[tuple[Tensor, Tensor]] = []  # (gradient, its packed copy)
        self._packed: list[tuple[Tensor, Tensor]] = []  # (parameter, its packed copy)

    def add(self, e: Entry, p: Tensor, rule: str, grad: Tensor, states: list[Tensor]) -> None:
        param = p
        if grad is not p.grad:
            self._copies.append((p.grad, grad))
        if e.packed:
            param = torch.empty_strided(e.sizes, e.strides, dtype=p.dtype, device=self._device).copy_(p)
            self._packed.append((p, param))
        numel = param.numel() * (2 if param.is_complex() else 1)
        addresses = (unwrap(param), *(unwrap(s) for s in states))
        key = (rule, types_of(param, grad, states), aligned((*addresses, unwrap(grad))))
        self.jobs.append(Job(e.at, key, addresses[0], addresses[1:], numel))
        self.grads.append(unwrap(grad))
        self._params.append(p)

    def unshare_gradients(self) -> None:
        """One gradient of several parameters is unscaled once: the others read a copy."""
        seen: set[int] = set()
        for i, p in enumerate(self._params):
            if self.grads[i] in seen and self.jobs[i].numel:
                own = p.grad.clone(memory_format=torch.preserve_format)
                self._packed.append((own, own))  # lives until the launch
                self.grads[i] = unwrap(own)
                job = self.jobs[i]
                self.jobs[i] = job._replace(key=(*job.key[:2], aligned((job.param, *job.states, unwrap(own)))))
            seen.add(self.grads[i])

    def write_gradients(self) -> None:
        """Copies packed gradients back, from which the kernel has unscaled them."""
        for grad, packed in self._copies:
            grad.copy_(packed)

    def finish(self) -> None:
        for p, packed in self._packed:
            p.copy_(packed)
        # Autograd has to know that what it saved of these is no longer true.
        copied = {id(p) for p, _ in self._packed}
        changed = [p for p in self._params if id(p) not in copied and not p.is_inference()]
        torch.autograd.graph.increment_version(changed)


class TritonPlan(PythonPlan):
    """Updates the parameters on the device of `clocks` with the kernels of `triton_kernels`."""

    name = "triton"

    def __init__(self, inputs: PlanInputs, clocks: Tensor) -> None:
        super().__init__(inputs, clocks)
        device, spec, groups = self.device, inputs.spec, inputs.groups
        self._groups = [GroupReader(group, g, spec, device) for g, group in enumerate(groups)]
        params = [self._inputs.parameter(g, i) for g, i in inputs.members()]
        self._entries = [Entry(p, at, *inputs.members()[at], device) for at, p in enumerate(params)]
        self._memory, n_groups = Memory(device), max(len(groups), 1)
        self._launches, self._work = Launches(self._memory), _Work(device)
        self._prepared = Prepared(self._memory, self._entries, n_groups)
        self._programs = DevicePrograms(self._memory, clocks, n_groups * MAX_HYPERPARAMETERS)
        listed, started = Counter(map(id, params)), []
        for e, p in zip(self._entries, params, strict=True):
            state = inputs.state.get(p)
            # A parameter that is listed twice is updated twice, one after the other: not by two programs at once.
            e.unsupported |= listed[id(p)] > 1 or not holds_native_tensors(state)
            e.adopt(p, state, self._groups[e.group].keys())
            started.append(int(not spec.counts_steps and e.states > 0))
        self._prepared.counts.copy_(torch.tensor(started or [0], device="cpu"))

    def unsupported(self) -> list[tuple[int, int]]:
        return [(e.group, e.index) for e in self._entries if e.unsupported]

    def adopt(self, which: list[tuple[int, int]]) -> None:
        if not self._same_structure(self._inputs.groups):
            return
        chosen = set(which)
        fresh = [e for e in self._entries if (e.group, e.index) in chosen]
        for e in fresh:
            p = self._inputs.parameter(e.group, e.index)
            e.adopt(p, self._inputs.state.get(p), self._groups[e.group].keys())
        if fresh and not self._spec.counts_steps:
            self._prepared.counts[self._memory.copy([e.at for e in fresh])] = 0

    def _collect(self) -> bool:
        read_groups(self._groups, self._inputs.groups)
        self.check_counts()
        self._programs.check_horizons(self._object)
        self._work, inputs, last = _Work(self.device), self._inputs, -1
        params = [p for group in inputs.groups for p in group["params"]]
        rule, keys = "", ()
        try:
            for e, p in zip(self._entries, params, strict=True):
                if e.unsupported or p.grad is None:
                    continue
                if e.group != last:
                    last, rule, keys = e.group, self._groups[e.group].rule(), self._groups[e.group].keys()
                found = e.look_at(p, inputs.state.get(p), keys)
                grad = e.packed_gradient(p, self._spec)
                if found is None:
                    state_of(inputs.state, p, (e.group, e.index))
                    self._missing.append((e.group, e.index))
                else:
                    self._work.add(e, p, rule, grad, found[: rules.STATES[rule]])
        except OutOfDate:
            return False
        return True

    def pending(self) -> bool:
        return bool(self._work.jobs)

    def release(self) -> None:
        self._work = _Work(self.device)

    def _update(self, scale: Tensor | None, found_inf: Tensor | None) -> None:
        work, made = self._work, self._prepared
        with launching(self.device):
            scale, found_inf = _flag(scale, self.device), _flag(found_inf, self.device)
            if self.capturing():
                self._memory.keep_for_graph(self)
            if scale is not None:
                work.unshare_gradients()
                work.write_gradients()  # now, since one that cannot be written raises
            self._launches.update(work.jobs, work.grads)
            made.write(self._groups)
            made.record(self._ring, self._clocks, found_inf)
            made.launch(self._spec.family, self._launches, self._programs, scale, found_inf)
            self._launches.run(made.control, made.doubles, made.singles, write_grads=scale is not None)
            if scale is not None:
                work.write_gradients()
            work.finish()

    def skip(self, param_groups: list[Any], found_inf: Tensor) -> int:
        if self._ring is not None:
            if not self.sync_hparams(param_groups):
                return REBUILD
            with torch.no_grad(), launching(self.device):
                self._prepared.record(self._ring, self._clocks, _flag(found_inf, self.device))
        self._clocks[3] += 1
        return DONE

    def record_to(self, ring: Tensor | None) -> None:
        if self._ring is not None and self._memory.in_graph(self):
            self._memory.keep_for_graph(self._ring)  # which keeps filling it
        super().record_to(ring)

    def read_from(self, group: int, name: str, number: Tensor | None = None) -> None:
        """As `GroupReader.read_from`, in one group."""
        self._groups[group].read_from(self._inputs.groups[group], name, number)

    def sync_hparams(self, param_groups: list[Any]) -> bool:
        """Makes edited numbers reach captured graphs. False: the plan is out of date."""
        if not self._same_structure(param_groups):
            return False
        read_groups(self._groups, self._inputs.groups)
        self._prepared.write(self._groups)
        return True

    def capturing(self) -> bool:
        return self._memory.capturing()

    # Schedules and counts.

    def set_program(self, group: int, name: str, table: list[float], unit: int, shown: Tensor) -> bool:
        if name not in self._hyperparameters:
            raise ValueError(f"'{name}' cannot be scheduled by this optimizer.")
        before = self._groups[group].rule()
        self._groups[group].read(self._inputs.groups[group])
        if self._memory.in_graph(self) and self._groups[group].rule() != before:
            return True
        super().set_program(group, name, list(table), unit, shown)
        if self._prepared.sources.tensor is not None:
            self._prepared.write(self._groups)  # where captured graphs find its value
        return False

    def advance_by(self, unit: int, amount: Tensor) -> None:
        if self.capturing():
            self._memory.keep_for_graph(self)
        self._programs.advance_by(unit, amount)

    def check_counts(self) -> None:
        for unit, name in enumerate(CLOCKS):
            if int(self._programs.negative[unit]):
                self._programs.negative[unit] = 0  # raised once: the clock was held, and continues
                raise ValueError(
                    f"advance() got a negative number of {name} in a tensor on {self.device}. That call advanced "
                    "nothing. Numbers of samples and tokens must be zero or more."
                )

    def exact_counts(self) -> list[tuple[Tensor, int]]:
        """Waits for the device."""
        counts = self._prepared.counts.tolist()
        fresh = [not self._spec.counts_steps and e.states > 0 and counts[e.at] == 0 for e in self._entries]
        chosen = [e.at for e in self._entries if counts[e.at] > EXACT or fresh[e.at]]
        ids = [at for _, _, members in self._structure for at in members]
        alive = {id(p): p for p in self._inputs.state}  # which is certain of those that have state
        return [(alive[ids[at]], counts[at]) for at in chosen if ids[at] in alive]

    def adopt_counts(self, counts: list[tuple[Tensor, int]]) -> None:
        known = {id(p): count for p, count in counts}
        for e in self._entries:
            p = self._inputs.parameter(e.group, e.index)
            count, shown = known.get(id(p)), (self._inputs.state.get(p) or {}).get("step")
            if count is None or e.unsupported:
                continue
            # The tensor that users see may have been written to; then it wins.
            agrees = shown is not None and float(torch.tensor(count, dtype=torch.float32)) == float(shown)
            if agrees or (not self._spec.counts_steps and count == 0):
                self._prepared.counts[e.at] = count


def _flag(number: Tensor | None, device: torch.device) -> Tensor | None:
    return None if number is None else native(number.to(device, torch.float32, non_blocking=True))
