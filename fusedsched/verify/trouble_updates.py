# SPDX-License-Identifier: Apache-2.0
"""Troubles that users of torch have with optimizers, each shown to be gone. `torch` says what torch does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedsched import lr_scheduler, schedules as S
from fusedsched.verify import compiling, evaluators, machine
from fusedsched.verify.bounds import Verdict, fact, near, worst_of
from fusedsched.verify.edges import Place, compare_layout, give, parameters
from fusedsched.verify.layouts import LAYOUTS
from fusedsched.verify.snapshots import everything, same
from fusedsched.verify.table import VISIBLE


class Trouble(NamedTuple):
    """`run(backend)`, or `run()` where no backend takes part. `compiles`: it needs torch.compile."""

    torch: str
    run: Callable[..., Verdict]
    per_backend: bool = True
    compiles: bool = False


def _ones(device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(3, device=device, dtype=dtype).requires_grad_()


def _cycling_momentum(backend: str) -> Verdict:
    def run(compile: Callable[..., Any]) -> None:
        params = parameters([(5, 3)], torch.float32, machine.device_of(backend))
        optimizer = machine.build(backend, "AdamW", params, lr=0.1)
        scheduler = lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=30)
        step = compile(lambda: (optimizer.step(), scheduler.step()) and None)
        for update in range(8):
            give(params, update)
            step()

    return compiling.one_graph(compiling.count_graphs(run, "eager"))


def _full_graph(backend: str) -> Verdict:
    def run(compile: Callable[..., Any]) -> None:
        for name in ("AdamW", "SGD"):
            params = parameters([(5, 3)], torch.float32, machine.device_of(backend))
            step = compile(machine.build(backend, name, params, **VISIBLE[name], fused=True).step)
            give(params, 0)
            step()

    graphs, breaks = compiling.count_graphs(run, "eager")
    return fact((graphs, breaks) == (2, 0), f"{graphs} graphs with {breaks} breaks for two optimizers")


def _compiled_before_the_scheduler(backend: str) -> Verdict:
    p = _ones(machine.device_of(backend))

    def run(compile: Callable[..., Any]) -> None:
        optimizer = machine.build(backend, "SGD", [p], lr=1.0)
        optimizer.step = compile(optimizer.step)
        scheduler = lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        for _ in range(3):
            p.grad = torch.ones_like(p)
            optimizer.step()
            scheduler.step()

    compiling.count_graphs(run, "eager")
    return near(p[0].item(), 1.0 - 1.75, "parameter after three steps at 1, 0.5, 0.25")


def _count_past_two_to_the_24(backend: str) -> Verdict:
    p = _ones(machine.device_of(backend))
    optimizer = machine.build(backend, "AdamW", [p], lr=0.0)
    p.grad = torch.ones_like(p)
    optimizer.step()
    state = optimizer.state_dict()
    state["state"][0]["step"] = torch.tensor(float(2**24))
    optimizer.load_state_dict(state)
    for _ in range(3):
        optimizer.step()
    saved = optimizer.state_dict()["param_groups"][0].get("fusedsched", {}).get("steps", {})
    return fact(saved == {0: 2**24 + 3}, f"the saved count is {saved}, not {2**24 + 3}")


def _first_step_skipped(backend: str) -> Verdict:
    p = _ones(machine.device_of(backend))
    optimizer = machine.build(backend, "SGD", [p], lr=0.125, momentum=0.5, fused=True)
    for skip in (True, False):
        p.grad = torch.ones_like(p)
        optimizer.found_inf, optimizer.grad_scale = torch.tensor(float(skip), device=p.device), None
        optimizer.step()
    buffer = optimizer.state[p]["momentum_buffer"]
    return worst_of(
        [
            near(p[0].item(), 0.875, "parameter after a skipped and a clean step"),
            near(buffer[0].item(), 1.0, "momentum_buffer after a skipped and a clean step"),
        ]
    )


def _state_dtypes(backend: str) -> Verdict:
    verdicts = []
    for dtype, state_dtype in ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)):
        p = _ones(machine.device_of(backend), dtype)
        optimizer = machine.build(backend, "AdamW", [p], lr=0.1)
        p.grad = torch.ones_like(p)
        optimizer.step()
        state = optimizer.state_dict()
        moments = {k: v.to(state_dtype) for k, v in state["state"][0].items() if k != "step"}
        state["state"][0] = {**state["state"][0], **moments}
        optimizer.load_state_dict(state)
        for when in ("after loading", "after a step"):
            found = optimizer.state[p]["exp_avg"].dtype
            verdicts.append(fact(found == state_dtype, f"exp_avg in {found} instead of {state_dtype}, {when}"))
            optimizer.step()
    return worst_of(verdicts)


def _place(backend: str) -> Place:
    return Place(machine.maker(backend), machine.device_of(backend), (torch.float32,), True)


def _layouts(*names: str, dtype: torch.dtype = torch.float32) -> Callable[[str], Verdict]:
    def run(backend: str) -> Verdict:
        pairs = [(name, optimizer) for name in names for optimizer in ("AdamW", "SGD")]
        return worst_of(compare_layout(LAYOUTS[n], o, n, _place(backend), dtype) for n, o in pairs)

    return run


def _late_gradient(backend: str) -> Verdict:
    device = machine.device_of(backend)
    p, late = _ones(device), _ones(device)
    optimizer = machine.build(backend, "SGD", [p, late], lr=0.125, momentum=0.5, fused=True)
    for update in range(2):
        p.grad = torch.ones_like(p)
        late.grad = torch.ones_like(p) if update else None
        optimizer.step()
    return worst_of(
        [
            near(p[0].item(), 1 - 0.125 - 0.1875, "parameter with two gradients"),
            near(late[0].item(), 0.875, "parameter with one, late"),
        ]
    )


def _complex_parameter(backend: str) -> Verdict:
    return worst_of(
        [
            _layouts("dense", "conjugated gradient", dtype=torch.complex64)(backend),
            _sparse_is_refused(backend),
        ]
    )


def _sparse_is_refused(backend: str) -> Verdict:
    p = _ones(machine.device_of(backend))
    optimizer = machine.build(backend, "AdamW", [p], lr=0.1)
    p.grad = torch.sparse_coo_tensor([[0]], [1.0], (3,), device=p.device, check_invariants=True)
    before = everything(optimizer, [p])
    try:
        optimizer.step()
    except RuntimeError as error:
        return worst_of(
            [
                fact("does not support sparse gradients" in str(error), f"the error says {error}"),
                same(everything(optimizer, [p]), before, " after a sparse gradient"),
            ]
        )
    return fact(False, "a sparse gradient was taken")


def _long_schedules(backend: str) -> Verdict:
    long = {"cosine over 1e5": S.cosine(1.0, 0.0, steps=100_000), "0.999999**t": S.exponential(1.0, gamma=0.999999)}
    return worst_of(evaluators.judge_evaluator(backend, schedule, 5) for schedule in long.values())


def _gradient_kept(backend: str) -> Verdict:
    p = _ones(machine.device_of(backend))
    optimizer = machine.build(backend, "SGD", [p], lr=0.1, momentum=0.9, weight_decay=0.5, nesterov=True, foreach=True)
    p.grad = torch.ones_like(p)
    for _ in range(2):
        optimizer.step()
    return near(p.grad[0].item(), 1.0, "gradient after two steps")


def _every_element(backend: str) -> Verdict:
    verdicts = []
    for dtype in (torch.bfloat16, torch.float16):
        params = [torch.ones(n, device=machine.device_of(backend), dtype=dtype).requires_grad_() for n in range(1, 70)]
        for p in params:
            p.grad = torch.ones_like(p)
        machine.build(backend, "SGD", params, lr=0.5, momentum=0.9, fused=True).step()
        wrong = sum(int((p != 0.5).sum()) for p in params)
        verdicts.append(Verdict(f"elements in {dtype} that were not updated", float(wrong), 0.0))
    return worst_of(verdicts)


TROUBLES: dict[str, Trouble] = {
    "m1-compiled-again-when-momentum-cycles": Trouble(
        "compiles AdamW twice beside OneCycleLR, whose beta1 is a number in the graph", _cycling_momentum, compiles=True
    ),
    "m2-count-past-2**24": Trouble("counts steps in float32, where 2**24 + 1 is 2**24", _count_past_two_to_the_24),
    "m3-no-graph-of-a-fused-step": Trouble("makes no graph of fused steps", _full_graph, compiles=True),
    "m4-first-step-skipped": Trouble(
        "SGD(fused=True, momentum): a skipped first step leaves memory as it found it in momentum_buffer",
        _first_step_skipped,
    ),
    "m5-state-dtype-lost": Trouble("casts loaded state to the type of the parameter", _state_dtypes),
    "m6-strides-of-gradients-ignored": Trouble(
        "fused steps on the CPU use wrong elements of transposed gradients",
        _layouts("transposed gradient", "channels-last gradient"),
    ),
    "m7-late-gradient": Trouble("SGD(fused=True, momentum) raises TypeError if a gradient comes late", _late_gradient),
    "m8-complex-and-sparse": Trouble("fused steps raise for complex parameters", _complex_parameter),
    "m16-compiled-before-the-scheduler": Trouble(
        "raises AttributeError when a scheduler is built after opt.step was compiled",
        _compiled_before_the_scheduler,
        compiles=True,
    ),
    "m18-float32-schedules": Trouble(
        "a cosine in float32 has no digit left at the end of 1e5 steps, a power is off by 17 % at 1e7", _long_schedules
    ),
    "m19-gradient-written": Trouble("SGD(foreach=True, nesterov=True) writes into the gradient", _gradient_kept),
    "m19-strided-parameters": Trouble(
        "fused steps on the CPU use wrong elements of strided parameters and expanded gradients",
        _layouts("transposed parameter", "parameter with gaps", "expanded gradient"),
    ),
    "m19-vectors-left-out": Trouble("SGD(fused=True) in 16 bits leaves out whole vectors", _every_element),
}
