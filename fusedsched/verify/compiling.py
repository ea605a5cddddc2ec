# SPDX-License-Identifier: Apache-2.0
"""Steps inside `torch.compile`: one graph without breaks, and the same numbers to the bit."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from fusedsched import lr_scheduler, schedules as S
from fusedsched.verify import machine
from fusedsched.verify.bounds import Verdict, fact, worst_of
from fusedsched.verify.check import FULL, QUICK, Check, Level
from fusedsched.verify.edges import give, parameters
from fusedsched.verify.snapshots import everything, same

_SHAPES = ((5, 3), (7,), (), (70, 80))
_UPDATES = 6
_COSINE = partial(lr_scheduler.CosineAnnealingLR, T_max=5, eta_min=0.01)
_ONE_CYCLE = partial(lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=9)

# name -> optimizer, options, scheduler
ROWS: dict[str, tuple[str, dict[str, Any], Callable[[Any], Any] | None]] = {
    "AdamW": ("AdamW", dict(lr=0.1), _COSINE),
    "AdamW-native": ("AdamW", dict(lr=S.warmup_cosine(0.1, 3, 9), weight_decay=S.cosine(0.1, 0.0, steps=5)), None),
    "Adam-amsgrad": ("Adam", dict(lr=0.1, amsgrad=True), _ONE_CYCLE),
    "SGD-momentum": ("SGD", dict(lr=0.1, momentum=0.9, dampening=0.5), _COSINE),
}


def count_graphs(run: Callable[[Callable[..., Any]], None], compiler: str) -> tuple[int, int]:
    """Calls `run(compile)` from a clean slate; graphs that were made, and times that one broke."""
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while it compiles
        run(partial(torch.compile, fullgraph=True, backend=compiler))
    return counters["stats"]["unique_graphs"], len(counters["graph_break"])


def one_graph(graphs: tuple[int, int]) -> Verdict:
    return fact(graphs == (1, 0), f"{graphs[0]} graphs with {graphs[1]} breaks, where one is enough")


def _train(row: str, backend: str, compile: Callable[..., Any] | None) -> dict[str, Any]:
    name, options, schedule = ROWS[row]
    params = parameters(_SHAPES, torch.float32, machine.device_of(backend))
    optimizer = machine.build(backend, name, params, **options)
    scheduler = schedule(optimizer) if schedule else None

    def update() -> None:
        optimizer.step()
        if scheduler is not None:
            scheduler.step()

    update_once = compile(update) if compile else update
    for i in range(_UPDATES):
        give(params, i)
        update_once()
    return everything(optimizer, params)


def compare(backend: str, row: str, compiler: str) -> Verdict:
    compiled: dict[str, Any] = {}
    eager = _train(row, backend, None)
    graphs = count_graphs(lambda compile: compiled.update(_train(row, backend, compile)), compiler)
    return worst_of([same(compiled, eager, " of a compiled run"), one_graph(graphs)])


def absent() -> str | None:
    """Why torch.compile does not work here; None if it does."""
    try:
        import torch._dynamo
    except ImportError as error:
        return f"torch._dynamo could not be imported: {error}"
    return None if torch._dynamo.is_dynamo_supported() else "this torch does not compile on this Python or system"


def checks(level: Level) -> Iterator[Check]:
    if absent() is not None:
        return
    compilers = ["aot_eager"]
    if level is FULL and inductor_absent() is None:
        compilers.append("inductor")
    for row in list(ROWS)[: 1 if level is QUICK else None]:
        for backend in machine.present():
            for compiler in compilers:
                run = partial(compare, backend, row, compiler)
                yield Check(f"compile/{row}/{compiler}/{backend}", "compile", row, backend, run, backend)


def inductor_absent() -> str | None:
    return None if shutil.which("g++") or torch.cuda.is_available() else "there is no g++"


def left_out(level: Level) -> Iterator[tuple[str, str]]:
    if absent() is not None:
        yield "torch.compile", absent()
    elif level is FULL and inductor_absent() is not None:
        yield "torch.compile with inductor", inductor_absent()
