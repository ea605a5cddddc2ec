# SPDX-License-Identifier: Apache-2.0
"""Counts graphs, graph breaks and recompilations under torch.compile, and launches and waits of the host per step.
Counts are exact: another machine with the same versions gives the same."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import fusedsched
from fusedsched import lr_scheduler, schedules
from fusedsched.command_line import integer, near_names
from fusedsched.files import check_writable, write_json
from fusedsched.progress import progress

from . import counts_table, launches, machine, output, tallies
from .peers import CAPTURABLE, FOREACH_CAPTURABLE, FUSED, OURS, OURS_ON_CAPTURABLE, first_line

STEPS, QUICK_STEPS = 1000, 50
WARM, COUNTED = 3, 20  # steps before launches are counted, and counted ones
SHAPES = ((64, 32), (32,), (32, 32), (32,), (8, 32), (8,))
LR = 1e-3
ALL = (FUSED, CAPTURABLE, FOREACH_CAPTURABLE, OURS_ON_CAPTURABLE, OURS)
WITH_OURS = (OURS_ON_CAPTURABLE, OURS)  # our schedulers
NATIVE = "native: lr, beta1, weight decay"
EXAMPLES = """\
examples:
  python -m fusedsched bench counts --quick
  python -m fusedsched bench counts --scheduler OneCycleLR --json counts.json

exit codes: 0 counted; 1 fusedsched failed, broke a graph or compiled one twice; 2 wrong arguments, or cannot run
"""

Make = Callable[[Any, Any], Any]
# name -> (module of the classes, optimizer): the scheduler
SCHEDULERS: dict[str, Make] = {
    "none": lambda L, o: None,
    "LambdaLR": lambda L, o: L.LambdaLR(o, lambda t: 1 / (t + 1)),
    "MultiplicativeLR": lambda L, o: L.MultiplicativeLR(o, lambda t: 0.99),
    "StepLR": lambda L, o: L.StepLR(o, 3),
    "MultiStepLR": lambda L, o: L.MultiStepLR(o, [2, 5, 9]),
    "ConstantLR": lambda L, o: L.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda L, o: L.LinearLR(o, 0.1, total_iters=600),
    "ExponentialLR": lambda L, o: L.ExponentialLR(o, 0.999),
    "PolynomialLR": lambda L, o: L.PolynomialLR(o, 800, 2.0),
    "CosineAnnealingLR": lambda L, o: L.CosineAnnealingLR(o, 800),
    "CosineAnnealingWarmRestarts": lambda L, o: L.CosineAnnealingWarmRestarts(o, 50),
    "CyclicLR": lambda L, o: L.CyclicLR(o, 1e-4, 1e-3, 100, cycle_momentum=False),
    "OneCycleLR": lambda L, o: L.OneCycleLR(o, 1e-3, total_steps=2000),
    "SWALR": lambda L, o: _swalr(L)(o, 5e-4, anneal_epochs=40),
    "SequentialLR": lambda L, o: L.SequentialLR(o, [L.LinearLR(o, 0.1), L.CosineAnnealingLR(o, 800)], [5]),
    "ChainedScheduler": lambda L, o: L.ChainedScheduler([L.LinearLR(o, 0.1), L.ExponentialLR(o, 0.999)]),
    "ReduceLROnPlateau": lambda L, o: L.ReduceLROnPlateau(o, patience=10),
    "GreedyLR": lambda L, o: L.GreedyLR(o, patience=10),
}
OURS_ALONE = ("GreedyLR",)  # torch has no such class
METRIC_DRIVEN = ("ReduceLROnPlateau", "GreedyLR")


def _swalr(module: Any) -> Any:
    return getattr(module, "SWALR", torch.optim.swa_utils.SWALR)


class Setting:
    """One optimizer with one scheduler on small parameters; `step()` is what is counted. `backend`: of fusedsched."""

    def __init__(self, contestant: str, scheduler: str, device: str, backend: str = "auto") -> None:
        params = [torch.randn(shape, device=device).requires_grad_() for shape in SHAPES]
        for p in params:
            p.grad = torch.randn(p.shape, device=device)
        if contestant == FUSED:
            self.optimizer = torch.optim.AdamW(params, LR, fused=True)
        elif contestant != OURS:
            how = {"foreach": True} if contestant == FOREACH_CAPTURABLE else {"fused": True}
            self.optimizer = torch.optim.AdamW(params, torch.tensor(LR, device=device), capturable=True, **how)
            self.optimizer._fusedsched_backend = backend  # the kernels that our scheduler uses
        elif scheduler == NATIVE:
            self.optimizer = fusedsched.AdamW(params, backend=backend, **native())
        else:
            self.optimizer = fusedsched.AdamW(params, LR, backend=backend)
        module = lr_scheduler if contestant in WITH_OURS else torch.optim.lr_scheduler
        self.scheduler = None if scheduler == NATIVE else SCHEDULERS[scheduler](module, self.optimizer)
        self.metric = [torch.ones((), device=device)] if scheduler in METRIC_DRIVEN else []

    def step(self) -> None:
        self.optimizer.step()
        self.schedule()

    def schedule(self) -> None:
        if self.scheduler is not None:
            self.scheduler.step(*self.metric)


def native() -> dict[str, Any]:
    """Hyperparameters that are schedules."""
    return {
        "lr": schedules.warmup_cosine(LR, warmup_steps=20, total_steps=900),
        "betas": (schedules.linear(0.85, 0.95, steps=400), 0.999),
        "weight_decay": schedules.cosine(0.1, 0.0, steps=800),
    }


def ready(setting: Setting) -> Callable[[], None]:
    """Its step, after some that create the state."""
    for _ in range(WARM):
        setting.step()
    return setting.step


def launched(contestant: str, scheduler: str) -> dict[str, Any]:
    """Launches and waits per step, and `how` they were counted: on a GPU where there is one."""
    if torch.cuda.is_available():
        counted = launches.profiled(ready(Setting(contestant, scheduler, "cuda")), COUNTED)
        return {"launches": counted["launches"] + counted["copies"], "syncs": counted["syncs"], "how": "profiler"}
    if contestant not in WITH_OURS:
        return {**dispatched(contestant, scheduler), "how": "dispatched"}
    if (why := tallies.no_emulation()) is not None:
        return {"launches": None, "syncs": None, "how": why}
    counter = tallies.emulated_launches()  # loads the kernels
    setting = Setting(contestant, scheduler, "cpu", "cuda")
    step = ready(setting)
    if contestant == OURS:
        return {**emulated(step, counter), "how": "emulated"}
    theirs = dispatched(CAPTURABLE, "none")
    with tallies.rates_on_a_gpu():
        setting.schedule()  # makes the tables
        ours = emulated(setting.schedule, counter)
    return {**{key: theirs[key] + ours[key] for key in theirs}, "how": "in parts"}


def dispatched(contestant: str, scheduler: str) -> dict[str, float]:
    """What torch dispatches for a step on fake CUDA tensors."""
    with tallies.pretended_gpu(), tallies.Tally("cuda"):  # makes up values that are read
        step = ready(Setting(contestant, scheduler, "cuda"))
        return tallies.tallied(step, COUNTED, "cuda")


def emulated(work: Callable[[], None], counter: Callable[[], int]) -> dict[str, float]:
    """The launches of emulated CUDA, and other ops that torch dispatches."""
    before = counter()
    found = tallies.tallied(work, COUNTED, "cpu")
    found["launches"] += (counter() - before) / COUNTED
    return found


def record(contestant: str, scheduler: str, steps: int) -> dict[str, Any]:
    """All counts of one pair."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found: dict[str, Any] = {"contestant": contestant, "scheduler": scheduler, "steps": steps}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, during compilation
        found |= tallies.compiled(Setting(contestant, scheduler, device).step, steps)
        try:
            found |= launched(contestant, scheduler)
        except Exception as error:
            found |= {"launches": None, "syncs": None, "how": first_line(error)}
    return found


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """(contestant, scheduler), in the order of the table; torch has no native schedules, and not all classes."""
    contestants = {NATIVE: (OURS,), **dict.fromkeys(OURS_ALONE, WITH_OURS)}
    return [(contestant, name) for name in names for contestant in contestants.get(name, ALL)]


def measure(names: Sequence[str], steps: int, save: output.Save = output.ignore) -> dict[str, Any]:
    """Counts all pairs of the named schedulers, and saves at the end."""
    results: dict[str, Any] = {"machine": machine.facts(), "counts": [], "rows": []}
    results["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    todo = pairs(names)
    with progress(len(todo)) as show:
        for done, (contestant, scheduler) in enumerate(todo):
            show(done, f"{contestant}, {scheduler}")
            results["counts"].append(record(contestant, scheduler, steps))
    save(results)
    return results


def spotless(records: Sequence[dict[str, Any]]) -> bool:
    """Whether all of ours ran in one graph, without a break, and compiled once."""
    ours = [r for r in records if r["contestant"] == OURS]
    return all((r["error"], r["graphs"], r["breaks"], r["recompilations"]) == (None, 1, 0, 0) for r in ours)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m fusedsched bench counts",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--quick", action="store_true", help=f"{QUICK_STEPS} compiled steps instead of {STEPS:,}")
    found.add_argument("--steps", type=integer(2), metavar="N", help="compiled steps")
    found.add_argument("--scheduler", action="append", metavar="NAME", help="only this one; may be repeated")
    found.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables; exit code 1 unless ours is one graph with every scheduler."""
    command = parser()
    args = command.parse_args(argv)
    known = (*SCHEDULERS, NATIVE)
    for name in args.scheduler or []:
        if name not in known:
            command.error(f"there is no scheduler {name!r}. {near_names(name, known)}")
    try:
        if args.json is not None:
            check_writable(args.json)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    steps = args.steps or (QUICK_STEPS if args.quick else STEPS)
    save = partial(write_json, args.json) if args.json else output.ignore
    results = measure(args.scheduler or known, steps, save)
    print(counts_table.render(results))
    return 0 if spotless(results["counts"]) else 1
