# SPDX-License-Identifier: Apache-2.0
"""The plan of the Triton backend: what `fusedsched._C`'s plans are in C++, for one device.

It reads and compares in Python, so a step costs the host about two microseconds per parameter beside the launches of
`triton_kernels/step.py`. Nothing in a step waits for the device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedsched._layouts import MAX_HYPERPARAMETERS
from fusedsched.optim.spec import OptimizerSpec
from fusedsched.optim.triton_entries import Entry, aligned, reset_gradients, types_of
from fusedsched.optim.triton_groups import GroupReader
from fusedsched.optim.triton_launches import Job, Launches, Memory, Prepared, Programs, Table
from fusedsched.optim.triton_scheduled import Scheduled
from fusedsched.optim.triton_telemetry import Recording
from fusedsched.runtime.addresses import holds_native_tensors, native, unwrap
from fusedsched.runtime.launching import launching
from fusedsched.triton_kernels import rules, step, tuning

_DONE, _REBUILD, _STATE_MISSING, _DONE_WITH_EDITS = range(4)  # Plan::Outcome
_EXACT = 2**24  # float32 counts exactly up to here


class TritonPlan(Recording, Scheduled):
    """Updates the parameters on the device of `clocks`. What its methods promise: `csrc/plan/plan.h`.

    `clocks`: int64, applied updates, samples, tokens, skipped.
    """

    name = "triton"

    def __init__(self, spec: OptimizerSpec, param_groups: list[Any], state: Any, clocks: Tensor) -> None:
        self._spec, self._param_groups, self._state, self._clocks = spec, param_groups, state, clocks
        self.device = device = clocks.device
        self._groups = [GroupReader(group, spec.hyperparameters, device) for group in param_groups]
        places = [(p, g, i) for g, group in enumerate(self._groups) for i, p in enumerate(group.members)]
        self._entries = [Entry(p, at, g, i, device) for at, (p, g, i) in enumerate(places)]
        listed: dict[int, int] = {}
        for e in self._entries:
            listed[id(e.p)] = listed.get(id(e.p), 0) + 1
        self._memory = Memory(device)
        self._launches = Launches(self._memory)
        n_numbers = max(len(self._groups), 1) * MAX_HYPERPARAMETERS
        self._prepared = Prepared(len(self._entries), n_numbers, device)
        self._programs = Programs(self._memory, clocks, n_numbers)
        self._versions: dict[int, int] = {}
        self._edited: set[int] = set()
        self._sources, self._steps = (Table(self._memory, torch.int64) for _ in range(2))
        self._values = Table(self._memory, torch.float64)
        self._missing: list[tuple[int, int]] = []
        started = []
        for group in self._groups:
            group.read()
        for e in self._entries:
            # A parameter that is listed twice is updated twice, one after the other: not by two programs at once.
            e.unsupported |= listed[id(e.p)] > 1 or not holds_native_tensors(state.get(e.p))
            if not e.unsupported:
                e.read_state(state.get(e.p), self._names(e.group), spec.counts_steps)
            started.append(int(not spec.counts_steps and bool(e.states)))
        self._prepared.counts.copy_(torch.tensor(started or [0], device="cpu"))

    def unsupported(self) -> list[tuple[int, int]]:
        return [(e.group, e.index) for e in self._entries if e.unsupported]

    def missing(self) -> list[tuple[int, int]]:
        return list(self._missing)

    def adopt(self, which: list[tuple[int, int]]) -> None:
        chosen = set(which)
        fresh = [e.at for e in self._entries if (e.group, e.index) in chosen]
        for at in fresh:
            e = self._entries[at]
            e.read_state(self._state.get(e.p), self._names(e.group), self._spec.counts_steps)
        if fresh and not self._spec.counts_steps:
            self._prepared.counts[self._memory.table(fresh)] = 0

    def _names(self, group: int) -> tuple[str, ...]:
        return self._spec.state_names[: rules.STATES[self._rule(group)]]

    def _rule(self, group: int) -> str:
        return self._spec.choose(self._groups[group].nonzero)

    # Checking: reads everything, changes nothing.

    def check(self, param_groups: list[Any], state: Any) -> int:
        if state is not self._state or not self._same_structure(param_groups):
            return _REBUILD
        for group in self._groups:
            group.read()
        self._check_horizons()
        with torch.no_grad():
            if not self._collect():
                return _REBUILD
        return _STATE_MISSING if self._missing else _DONE

    def _same_structure(self, param_groups: list[Any]) -> bool:
        return len(param_groups) == len(self._groups) and all(
            group is reader.group and reader.same_members()
            for group, reader in zip(param_groups, self._groups, strict=True)
        )

    def _collect(self) -> bool:
        self._missing, self._jobs, self._grads = [], [], []
        self._holders: list[Entry] = []
        self._copies: list[tuple[Tensor, Tensor]] = []  # (gradient, its packed copy)
        self._packed: list[tuple[Tensor, Tensor]] = []
        last, rule, names = -1, "", ()
        for e in self._entries:
            if e.unsupported or e.p.grad is None:
                continue
            if e.group != last:
                last, rule = e.group, self._rule(e.group)
                names = self._names(last)
            if e.p.device != self.device or type(e.p) is not e.kind or not (e.packed or e.matches(e.p)):
                return False
            grad = e.packed_gradient(self._spec)
            held = self._state.get(e.p)
            if not e.state_unchanged(held, names):
                return False
            if e.states is None or len(e.states) < len(names):
                if names and e.has_state(held, names, self._spec.counts_steps):
                    return False
                if names or self._spec.counts_steps:
                    self._missing.append((e.group, e.index))
                    continue
                e.read_state(held, names, False)
            states = () if e.states is None else e.states[: len(names)]
            self._add(e, rule, grad, states)
        return True

    def _add(self, e: Entry, rule: str, grad: Tensor, states: tuple[Tensor, ...]) -> None:
        param = e.p
        if grad is not param.grad:
            self._copies.append((param.grad, grad))
        if e.packed:
            param = torch.empty_strided(e.sizes, e.strides, dtype=param.dtype, device=self.device).copy_(e.p)
            self._packed.append((e.p, param))
        numel = param.numel() * (2 if param.is_complex() else 1)
        addresses = (unwrap(param), *(unwrap(s) for s in states))
        key = (rule, types_of(param, grad, states), aligned((*addresses, unwrap(grad))))
        self._jobs.append(Job(e.at, key, addresses[0], addresses[1:], numel))
        self._grads.append(unwrap(grad))
        self._holders.append(e)

    def pending(self) -> bool:
        """Whether the last check found anything to update."""
        return bool(self._jobs)

    # Doing what was checked.

    def apply(self, scale: Tensor | None, found_inf: Tensor | None, counts: bool) -> int:
        if self._jobs or counts:
            with torch.no_grad(), launching(self.device):
                self._run(self._flag(scale), self._flag(found_inf))
        return _DONE_WITH_EDITS if self._take_edited() else _DONE

    def _flag(self, number: Tensor | None) -> Tensor | None:
        return None if number is None else native(number.to(self.device, torch.float32, non_blocking=True))

    def _run(self, scale: Tensor | None, found_inf: Tensor | None) -> None:
        if self.capturing():
            self._memory.keep_for_graph(self)
        if scale is not None:
            self._unshare_gradients()
            for grad, packed in self._copies:
                grad.copy_(packed)  # now, since one that cannot be written raises
        self._launches.update(self._jobs, self._grads)
        self._prepare(scale, found_inf)
        self._launches.run(
            self._prepared.control, self._prepared.doubles, self._prepared.singles, write_grads=scale is not None
        )
        for p, packed in self._packed:
            p.copy_(packed)
        if scale is not None:
            for grad, packed in self._copies:
                grad.copy_(packed)
        # Autograd has to know that what it saved of these is no longer true.
        changed = [e.p for e in self._holders if not e.packed and not e.p.is_inference()]
        torch.autograd.graph.increment_version(changed)
        self._copies, self._packed = [], []

    def _unshare_gradients(self) -> None:
        """One gradient of several parameters is unscaled once: the others read a copy."""
        seen: set[int] = set()
        for i, e in enumerate(self._holders):
            if self._grads[i] in seen and self._jobs[i].numel:
                own = e.p.grad.clone(memory_format=torch.preserve_format)
                self._packed.append((own, own))  # lives until the launch
                self._grads[i] = unwrap(own)
                job = self._jobs[i]
                self._jobs[i] = job._replace(key=(*job.key[:2], aligned((job.param, *job.states, unwrap(own)))))
            seen.add(self._grads[i])

    def _prepare(self, scale: Tensor | None, found_inf: Tensor | None) -> None:
        self._write_tables()
        if self._ring is not None:
            self._record(found_inf)
        made, any_tensor = self._prepared, self._clocks
        step.prepare_kernel[(1,)](
            made.control, self._clocks, self._sources.tensor, self._values.tensor, made.resolved, made.resolved.numel(),
            self._launches.active, len(self._jobs), self._steps.tensor, made.counts, made.doubles, made.singles,
            *self._programs.arguments(), self._programs.past_horizon,
            any_tensor if scale is None else scale, any_tensor if found_inf is None else found_inf,
            FAMILY=self._spec.family, SCALED=scale is not None, CHECKED=found_inf is not None,
            BLOCK=tuning.PREPARE_BLOCK, num_warps=tuning.PREPARE_WARPS, enable_fp_fusion=False,
        )  # fmt: skip

    def _write_tables(self) -> None:
        steps = [0 if e.step is None else unwrap(e.step) for e in self._entries] or [0]
        self._sources.write([number for group in self._groups for pair in group.sources for number in pair] or [0])
        self._values.write([value for group in self._groups for value in group.values] or [0.0])
        self._steps.write([n for e, at in zip(self._entries, steps, strict=False) for n in (e.group, at)] or [0])

    def read_from(self, group: int, name: str, number: Tensor | None = None) -> None:
        """As `GroupReader.read_from`, in one group."""
        self._groups[group].read_from(name, number)

    def sync_hparams(self, param_groups: list[Any]) -> bool:
        """Makes edited numbers reach captured graphs. False: the plan is out of date."""
        if not self._same_structure(param_groups):
            return False
        for group in self._groups:
            group.read()
        self._write_tables()
        return True

    def capturing(self) -> bool:
        return self._memory.capturing()

    def step(self, param_groups: list[Any], state: Any, scale: Tensor | None, found_inf: Tensor | None) -> int:
        outcome = self.check(param_groups, state)
        return self.apply(scale, found_inf, False) if outcome == _DONE else outcome

    # Counts.

    def exact_counts(self) -> list[tuple[Tensor, int]]:
        """Counts that the state cannot tell: those that float32 cannot hold, and the zero of a momentum buffer that is
        still to be filled. Waits for the device."""
        counts = self._prepared.counts.tolist()
        fresh = [not self._spec.counts_steps and bool(e.states) and counts[e.at] == 0 for e in self._entries]
        return [(e.p, counts[e.at]) for e in self._entries if counts[e.at] > _EXACT or fresh[e.at]]

    def adopt_counts(self, counts: list[tuple[Tensor, int]]) -> None:
        known = {id(p): count for p, count in counts}
        for e in self._entries:
            count = known.get(id(e.p))
            if count is None or e.unsupported:
                continue
            # The tensor that users see may have been written to; then it wins.
            agrees = e.step is not None and float(torch.tensor(count, dtype=torch.float32)) == float(e.step)
            if agrees or (not self._spec.counts_steps and count == 0):
                self._prepared.counts[e.at] = count

    def zero_grad(self, param_groups: list[Any], set_to_none: bool) -> bool:
        if not self._same_structure(param_groups):
            return False
        reset_gradients([e.p for e in self._entries if e.p.grad is not None], set_to_none)
        return True
