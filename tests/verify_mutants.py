# SPDX-License-Identifier: Apache-2.0
"""Planted faults: mistakes that somebody has made, here or in another project, each with the smallest check that must
find it and what its message must name. They are patched into the backend; what judges it stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import test_rules
import torch

from fusedsched import lr_scheduler
from fusedsched.lr_scheduler.device_driver import DeviceDriver
from fusedsched.optim import (
    adam,
    checkpoint as _checkpoint,
    plan as _plans,
    reference_plan as _eager,
    sgd,
)
from fusedsched.reference import adam_update_, rules, sgd_update_
from fusedsched.runtime import clocks as _clocks, compile_ops as _graphs
from fusedsched.schedules import Shape, program

RULES = {name: rule for name, (rule, _) in test_rules.MUTANTS.items()}


class Mutant(NamedTuple):
    """`plant(monkeypatch)` makes the fault; `check` finds it; its message matches `says`."""

    check: str
    says: str
    plant: Callable[[Any], None]


def of_adam(rule: Callable[..., None]) -> Callable[[Any], None]:
    return lambda patch: patch.setattr(adam, "adam_update_", rule)


def of_sgd(rule: Callable[..., Any]) -> Callable[[Any], None]:
    return lambda patch: patch.setattr(sgd, "sgd_update_", rule)


def wrapped(owner: Any, name: str, around: Callable[..., Any]) -> Callable[[Any], None]:
    """`around(original, *args)` in the place of a function or method."""
    original = getattr(owner, name)

    def replacement(*args: Any, **options: Any) -> Any:
        return around(original, *args, **options)

    return lambda patch: patch.setattr(owner, name, replacement)


# Rules


def _betas_swapped(*args, beta1, beta2, **rest):
    adam_update_(*args, beta1=beta2, beta2=beta1, **rest)


def _eps_inside_the_root(p, g, m, v, vmax, step, *, eps, beta2, **rest):
    adam_update_(p, g, m, v + eps**2, vmax, step, eps=0.0, beta2=beta2, **rest)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)


def _maximum_of_the_corrected(p, g, m, v, vmax, step, *, beta2, **rest):
    before = vmax.clone()
    adam_update_(p, g, m, v, vmax, step, beta2=beta2, **rest)
    vmax.copy_(torch.maximum(before, v / (1 - beta2**step)))


def _conjugated(p, g, *args, **rest):
    adam_update_(p, g.conj(), *args, **rest)


def _gradient_written(p, g, *args, weight_decay, **rest):
    return sgd_update_(p, g.add_(p, alpha=weight_decay), *args, weight_decay=0.0, **rest)


def _last_element_left_out(p, *args, **rest):
    last = p[-1].clone()
    adam_update_(p, *args, **rest)
    p[-1] = last


def _toward_zero(store, target, value):
    if target.dtype == torch.bfloat16:
        value = (value.float().view(torch.int32) & -65536).view(torch.float32)
    store(target, value)


# Plans


def _skip_counts(step, plan, groups, state, scale, found_inf):
    outcome = step(plan, groups, state, scale, found_inf)
    if found_inf is not None and float(found_inf):
        plan._clocks[0] += 1
    return outcome


def _never_skips(step, plan, groups, state, scale, found_inf):
    return step(plan, groups, state, scale, None)


def _scale_forgotten(step, plan, groups, state, scale, found_inf):
    return step(plan, groups, state, None, found_inf)


def _none_counts(update, plan, scale, found_inf):
    update(plan, scale, found_inf)
    state = plan._inputs.state
    for _, _, p in plan.members():
        if p.grad is None and p in state and "step" in state[p]:
            state[p]["step"] += 1


def _float32_tables(install, optimizer, plans):
    class Rounding:
        def __init__(self, plan):
            self.device, self.unsupported, self._plan = plan.device, plan.unsupported, plan

        def set_program(self, group, name, table, *rest):
            self._plan.set_program(group, name, torch.tensor(table, dtype=torch.float32).tolist(), *rest)

    install(optimizer, [Rounding(plan) for plan in plans])


# Rows of programs


def _later_rows_late(init, self, tracks, *rest):
    init(self, [[rows[0], *(row._replace(begin=row.begin + 1) for row in rows[1:])] for rows in tracks], *rest)


def _end_dropped(init, self, tracks, *rest):
    held = [len(rows) > 1 and rows[-1].shape == Shape.CONSTANT for rows in tracks]
    init(self, [rows[:-1] if end else rows for rows, end in zip(tracks, held, strict=True)], *rest)


# Checkpoints


def _buffer_lost(restore, optimizer, packed):
    restore(optimizer, packed)
    for state in optimizer.state.values():
        state.pop("momentum_buffer", None)


def _late_by_one_step(patch):
    class StepLR(lr_scheduler.StepLR):
        def __init__(self, optimizer, step_size, **rest):
            super().__init__(optimizer, step_size + 1, **rest)

    patch.setattr(lr_scheduler, "StepLR", StepLR)


def _no_step_in_the_graph(init, trace, thing):
    init(trace, thing)
    trace.step = lambda optimizer: None


FIXED, PLAN = "fixed/reference", _eager.ReferencePlan
MUTANTS: dict[str, Mutant] = {
    "decay after the update": Mutant(f"AdamW/float32/{FIXED}", "param", of_adam(RULES["decay after the update"])),
    "decay coupled": Mutant(f"AdamW/bfloat16/{FIXED}", "param|exp_avg", of_adam(RULES["decay coupled"])),
    "wrong bias correction": Mutant(f"AdamW/float16/{FIXED}", "param", of_adam(RULES["step counted twice at first"])),
    "no bias correction": Mutant(f"AdamW/float64/{FIXED}", "param", of_adam(RULES["no bias correction"])),
    "eps inside the root": Mutant(f"AdamW/float32/{FIXED}", "param", of_adam(_eps_inside_the_root)),
    "1 - beta2 in float32": Mutant(f"AdamW-long-memory/float32/{FIXED}", "exp_avg_sq|param",
        of_adam(RULES["1 - beta2 in float32"])),
    "betas swapped": Mutant(f"AdamW/float32/{FIXED}", "exp_avg", of_adam(_betas_swapped)),
    "maximize ignored": Mutant(f"AdamW-maximize/float32/{FIXED}", "param|exp_avg", of_adam(RULES["maximize ignored"])),
    "amsgrad of the corrected v": Mutant(f"AdamW-amsgrad/float32/{FIXED}", "max_exp_avg_sq",
        of_adam(_maximum_of_the_corrected)),
    "complex conjugated": Mutant(f"AdamW/complex64/{FIXED}", "exp_avg|param", of_adam(_conjugated)),
    "complex as one number": Mutant(f"Adam/complex64/{FIXED}", "exp_avg_sq", of_adam(RULES["complex as one number"])),
    "strides of the gradient ignored": Mutant("edge/transposed-gradient/reference", "transposed gradient",
        of_adam(RULES["strides of the gradient ignored"])),
    "rounded toward zero": Mutant(f"AdamW/bfloat16/{FIXED}", "param|exp_avg", wrapped(rules, "_store_", _toward_zero)),
    "nesterov ignored": Mutant(f"SGD-nesterov/float32/{FIXED}", "param", of_sgd(RULES["nesterov ignored"])),
    "first buffer dampened": Mutant(f"SGD-dampening/float32/{FIXED}", "momentum_buffer|param",
        of_sgd(RULES["first buffer dampened"])),
    "gradient written": Mutant("edge/dense/reference", "the gradient was written to", of_sgd(_gradient_written)),
    "last element left out": Mutant("agree/AdamW/float32/cpu", "parameter 0 of shape .* cpu and reference",
        of_adam(_last_element_left_out)),
    "schedule in float32": Mutant("schedules/cosine/reference", "reference evaluator at clock",
        wrapped(_eager, "value_at", lambda f, *a: float(torch.tensor(f(*a), dtype=torch.float32)))),
    "tables in float32": Mutant("schedules/cosine/cpu", "cpu evaluator at clock",
        wrapped(_plans, "_install_schedules", _float32_tables)),
    "clock off by one": Mutant("AdamW/float32/linear/reference", "param",
        wrapped(_eager, "value_at", lambda f, schedule, clock: f(schedule, clock + 1))),
    "boundary off by one": Mutant("schedules/multistep/formula", "multistep at update 10",
        wrapped(program.Program, "__init__", _later_rows_late)),
    "climbs past the end": Mutant("schedules/cosine/formula", "cosine: the schedule is not finite",
        wrapped(program.Program, "__init__", _end_dropped)),
    "scheduler late by one step": Mutant("lr_scheduler/StepLR", "lr over", _late_by_one_step),
    "skip counts as an update": Mutant("skip/AdamW/reference", "clock of updates after the skipped step 0",
        wrapped(PLAN, "step", _skip_counts)),
    "found_inf ignored": Mutant("skip/SGD-momentum/reference", "after the skipped step 0",
        wrapped(PLAN, "step", _never_skips)),
    "grad_scale ignored": Mutant("scaler/AdamW/reference", "GradScaler", wrapped(PLAN, "step", _scale_forgotten)),
    "no gradient counts as a step": Mutant("edge/missing-gradients/reference", "step of parameter",
        wrapped(PLAN, "_update", _none_counts)),
    "momentum lost on resume": Mutant("resume/SGD-momentum/float32/fixed/reference",
        "momentum_buffer of parameter 0 right after loading: missing",
        wrapped(_checkpoint, "_restore_dtypes", _buffer_lost)),
    "clock lost on load": Mutant("resume/AdamW/float32/all/reference",
        "(of group 0|clock of updates) right after loading", wrapped(_clocks.Clocks, "set", lambda f, *a: None)),
    "compiled step does nothing": Mutant("compile/AdamW/aot_eager/reference", "of a compiled run",
        wrapped(_graphs.CompileHandle, "__init__", _no_step_in_the_graph)),
    "lr frozen in the graph": Mutant("replay/AdamW-OneCycleLR/cuda", "after replays",
        wrapped(DeviceDriver, "launch", lambda f, *a: None)),
}  # fmt: skip
