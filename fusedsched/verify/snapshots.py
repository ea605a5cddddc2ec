# SPDX-License-Identifier: Apache-2.0
"""Snapshots of an optimizer's tensors and numbers, and the first difference between two, to the bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusedsched.verify.bounds import Verdict

Snapshot = dict[str, Tensor]
_HYPERPARAMETERS = ("lr", "betas", "momentum", "weight_decay")


def everything(optimizer: torch.optim.Optimizer, params: list[Tensor]) -> Snapshot:
    """Copies of parameters, state, hyperparameters, and our counters, by name."""
    found = {f"parameter {i}": p.detach().clone() for i, p in enumerate(params)}
    for i, p in enumerate(params):
        for key, value in (optimizer.state.get(p) or {}).items():
            if isinstance(value, Tensor):
                found[f"{key} of parameter {i}"] = value.detach().clone()
    for g, group in enumerate(optimizer.param_groups):
        for key in _HYPERPARAMETERS:
            if key in group:
                found[f"{key} of group {g}"] = _numbers(group[key])
    if hasattr(optimizer, "_runtime"):
        updates, samples, tokens, _ = optimizer._runtime.clocks.read()  # skipped steps are counted on purpose
        found["clock of updates"] = torch.tensor([updates, samples, tokens])
    return found


def _numbers(value: Any) -> Tensor:
    values = value if isinstance(value, (tuple, list)) else (value,)
    return torch.tensor([float(x) for x in values], dtype=torch.float64)


def same(ours: Snapshot, theirs: Snapshot, when: str = "") -> Verdict:
    """Names the first tensor that differs and counts its differing numbers. None are allowed."""
    for name in dict.fromkeys([*theirs, *ours]):
        if name not in ours or name not in theirs:
            return Verdict(f"{name}{when}: {'missing' if name in theirs else 'should not be there'}", float("inf"), 0.0)
        a, b = ours[name], theirs[name]
        if a.dtype != b.dtype or a.shape != b.shape:
            return Verdict(f"{name}{when}: {a.dtype} {list(a.shape)}, not {b.dtype} {list(b.shape)}", float("inf"), 0.0)
        different = (a != b) & ~((a != a) & (b != b))  # NaN is NaN
        if bool(different.any()):
            return Verdict(f"{name}{when}: numbers that differ", float(different.sum()), 0.0)
    return Verdict(f"everything{when}", 0.0, 0.0)


def untouched(before: Snapshot, after: Snapshot, when: str) -> Verdict:
    """Whether nothing changed. New state of zeros is allowed."""
    made = {name: value for name, value in after.items() if name not in before}
    for name, value in made.items():
        if bool((value != 0).any()):
            return Verdict(f"{name}{when}: new and not zero", float((value != 0).sum()), 0.0)
    return same({name: value for name, value in after.items() if name not in made}, before, when)
