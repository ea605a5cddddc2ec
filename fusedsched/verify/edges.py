# SPDX-License-Identifier: Apache-2.0
"""Edge cases of parameters and gradients, as a table. Each is compared with torch's plain implementation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedsched.verify import layouts, machine
from fusedsched.verify.bounds import Verdict, close, fact, worst_of
from fusedsched.verify.check import FULL, QUICK, Check, Level
from fusedsched.verify.machine import Make
from fusedsched.verify.snapshots import everything, same
from fusedsched.verify.table import VISIBLE
from fusedsched.verify.updates import torch_twin

_UPDATES = 3
_MAIN = ("AdamW", "SGD")
_LENGTHS = (*range(66), 127, 128, 129, 1023, 1024, 1025)


class Place(NamedTuple):
    """Where a case runs. `dtypes`: the types to run it in. `quick`: run fewer sizes."""

    make: Make
    device: torch.device
    dtypes: tuple[torch.dtype, ...]
    quick: bool


def random_numbers(shape: Sequence[int], dtype: torch.dtype, seed: int, device: Any = "cpu") -> Tensor:
    """Normal numbers from a seed, the same on every device."""
    wide = torch.complex64 if dtype.is_complex else torch.float32
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=wide).to(device, dtype)


def parameters(shapes: Sequence[Sequence[int]], dtype: torch.dtype, device: Any = "cpu") -> list[Tensor]:
    return [random_numbers(shape, dtype, i, device).requires_grad_() for i, shape in enumerate(shapes)]


def give(params: list[Tensor], update: int) -> None:
    """New gradients, the same for the same update."""
    for i, p in enumerate(params):
        p.grad = random_numbers(p.shape, p.dtype, 1000 + 100 * update + i, p.device)


def _compare(ours: Sequence[Tensor], torchs: Sequence[Tensor], updates: int, what: str) -> Verdict:
    pairs = zip(ours, torchs, strict=True)
    return worst_of(close(p.detach(), q.detach(), updates, f"parameter {i}, {what}") for i, (p, q) in enumerate(pairs))


def compare_layout(layout: layouts.Layout, name: str, what: str, place: Place, dtype: torch.dtype) -> Verdict:
    """Compares a parameter and gradients in some layout with torch on dense copies. Gaps must not be written."""
    start = random_numbers(layout.shape, dtype, 0, place.device)
    p, twin = layout.param(start).requires_grad_(), start.clone().requires_grad_()
    ours, torchs = place.make(name, [p], **VISIBLE[name]), torch_twin(name, [twin], **VISIBLE[name])
    what, written = f"{what}, {name} in {dtype}", False
    for update in range(_UPDATES):
        p.grad = layout.grad(random_numbers(layout.shape, dtype, 1 + update, place.device))
        twin.grad = p.grad.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
        ours.step()
        torchs.step()
        written |= not torch.equal(p.grad, twin.grad)
    verdict = close(p.detach(), twin.detach(), _UPDATES, f"parameter, {what}")
    with torch.no_grad():
        p.fill_(layouts.SENTINEL)
    storage = torch.empty(0, dtype=p.dtype, device=p.device).set_(p.detach().untyped_storage())
    around = fact(bool((storage == layouts.SENTINEL).all()), f"memory outside the parameter was written, {what}")
    return worst_of([verdict, around, fact(not written, f"the gradient was written to, {what}")])


def _layout(layout: layouts.Layout, what: str, place: Place) -> Verdict:
    dtypes = [dtype for dtype in layout.of if dtype in place.dtypes] or layout.of[:1]
    return worst_of(compare_layout(layout, name, what, place, dtype) for name in _MAIN for dtype in dtypes)


def _beside_torch(
    name: str, place: Place, tensors: Callable[[], list[Tensor]], missing: Callable[[int, int], bool], **options: Any
) -> Verdict:
    """Compares five updates with torch's. `missing(update, i)`: whether parameter i has no gradient at that update."""
    options = {**VISIBLE[name], **options}
    params, twins = tensors(), tensors()
    ours, torchs = place.make(name, params, **options), torch_twin(name, twins, **options)
    for update in range(5):
        give(params, update)
        for i, (p, twin) in enumerate(zip(params, twins, strict=True)):
            p.grad = None if missing(update, i) else p.grad
            twin.grad = None if p.grad is None else p.grad.clone()
        ours.step()
        torchs.step()
    for i, (p, twin) in enumerate(zip(params, twins, strict=True)):
        mine, theirs = (o.state.get(t, {}).get("step", 0) for o, t in ((ours, p), (torchs, twin)))
        if float(mine) != float(theirs):
            return Verdict(f"step of parameter {i}, {name}: {float(mine):g}, torch {float(theirs):g}", 1.0, 0.0)
    return _compare(params, twins, 5, name)


def _missing_gradients(place: Place) -> Verdict:
    dtype = place.dtypes[0]
    tensors = partial(parameters, [(5, 3), (7,), (4,)], dtype, place.device)
    patterns = {"late": lambda u, i: i == 1 and u < 2, "now and then": lambda u, i: (u + i) % 3 == 0}
    patterns["never"] = lambda u, i: i == 2
    return worst_of(_beside_torch(name, place, tensors, m) for name in _MAIN for m in patterns.values())


def _no_gradients(place: Place) -> Verdict:
    verdicts = []
    for name in _MAIN:
        params = parameters([(3,), (2, 2)], place.dtypes[0], place.device)
        optimizer = place.make(name, params, **VISIBLE[name])
        for updates in range(2):  # before there is state, and after an update
            before = everything(optimizer, params)
            if updates and "clock of updates" in before:
                before["clock of updates"][0] += 1  # it counts, so that ranks with empty shards stay together
            for p in params:
                p.grad = None
            optimizer.step()
            verdicts.append(same(everything(optimizer, params), before, f" after a step without gradients, {name}"))
            give(params, updates)
            optimizer.step()
    return worst_of(verdicts)


def _mixed_dtypes(place: Place) -> Verdict:
    def tensors() -> list[Tensor]:
        dtypes = (*layouts.REAL_DTYPES, torch.complex64, torch.bfloat16)
        return [random_numbers((6, 5), d, i, place.device).requires_grad_() for i, d in enumerate(dtypes)]

    return worst_of(_beside_torch(name, place, tensors, lambda u, i: False) for name in _MAIN)


def _not_finite(place: Place) -> Verdict:
    """A gradient that is not finite changes only its own elements to NaN or infinity."""
    verdicts = []
    for name in _MAIN:
        params, twins = (parameters([(40,), (3,)], torch.float32, place.device) for _ in range(2))
        ours, torchs = place.make(name, params, **VISIBLE[name]), torch_twin(name, twins, **VISIBLE[name])
        for some, optimizer in ((params, ours), (twins, torchs)):
            give(some, 0)
            some[0].grad[3], some[0].grad[11] = float("nan"), float("inf")
            optimizer.step()
        spoiled = [[int(i) for i in (~torch.isfinite(p[0])).nonzero()] for p in (params, twins)]
        verdicts.append(fact(spoiled[0] == spoiled[1], f"{name}: not finite are {spoiled[0]}, with torch {spoiled[1]}"))
        verdicts.append(_compare([p.detach().nan_to_num(0.0, 0.0, 0.0) for p in params[1:]], twins[1:], 1, name))
    return worst_of(verdicts)


def _sparse_gradient(place: Place) -> Verdict:
    """A sparse gradient raises before anything is changed."""
    verdicts = []
    for name in _MAIN:
        params = parameters([(5, 3), (4, 2)], torch.float32, place.device)
        optimizer = place.make(name, params, **VISIBLE[name])
        give(params, 0)
        optimizer.step()
        give(params, 1)
        params[1].grad = torch.sparse_coo_tensor([[0], [0]], [1.0], (4, 2), device=place.device, check_invariants=True)
        before = everything(optimizer, params)
        try:
            optimizer.step()
            verdicts.append(fact(False, f"{name} took a sparse gradient"))
        except RuntimeError:
            verdicts.append(same(everything(optimizer, params), before, f" after a sparse gradient, {name}"))
    return worst_of(verdicts)


def _lengths(place: Place) -> Verdict:
    """A tensor of any length and alignment gets the same bits as its numbers get inside a long tensor."""
    verdicts = []
    lengths = _LENGTHS[:20] if place.quick else _LENGTHS
    ends = torch.tensor([n + 1 for n in lengths]).cumsum(0).tolist()
    for name, dtype in [(name, dtype) for name in _MAIN for dtype in place.dtypes]:
        start = random_numbers((max(lengths) + 1,), dtype, 0, place.device)
        long = start.clone().requires_grad_()
        storage = torch.cat([start[: n + 1] for n in lengths])  # one number after each tensor must stay
        params = [storage[end - n - 1 : end - 1].requires_grad_() for end, n in zip(ends, lengths, strict=True)]
        both = [place.make(name, some, **VISIBLE[name]) for some in ([long], params)]
        for update in range(2):
            long.grad = random_numbers(long.shape, dtype, 1 + update, place.device)
            for p in params:
                p.grad = long.grad[: len(p)].clone()
            for optimizer in both:
                optimizer.step()
        wrong = [len(p) for p in params if not torch.equal(p, long[: len(p)])]
        wrong += [n for n, end in zip(lengths, ends, strict=True) if storage[end - 1] != start[n]]
        verdicts.append(fact(not wrong, f"{name} in {dtype}: other numbers in or after tensors of length {wrong[:5]}"))
    return worst_of(verdicts)


def _threads(place: Place) -> Verdict:
    """The number of threads changes no bit."""
    before, found = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            params = parameters([(40_001,), (17,), (5_000,)], place.dtypes[0], place.device)
            optimizer = place.make("AdamW", params, **VISIBLE["AdamW"])
            for update in range(2):
                give(params, update)
                optimizer.step()
            found.append(everything(optimizer, params))
    finally:
        torch.set_num_threads(before)
    return worst_of([same(found[0], other, " with more threads") for other in found[1:]])


def _two_optimizers(place: Place) -> Verdict:
    """Two optimizers of one parameter keep separate states."""
    params, twins = (parameters([(9,), (4,)], place.dtypes[0], place.device) for _ in range(2))
    for some, make in ((params, place.make), (twins, torch_twin)):
        both = [make(name, some, **VISIBLE[name]) for name in _MAIN]
        for update in range(3):
            give(some, update)
            for optimizer in both:
                optimizer.step()
    return _compare(params, twins, 6, "in two optimizers")


def _listed_twice(place: Place) -> Verdict:
    """A parameter that is listed twice is updated twice, with torch's warning. Only "auto" accepts it."""
    verdicts = []
    for name, options in (("AdamW", VISIBLE["AdamW"]), ("SGD", dict(lr=0.1))):
        (p,), (twin,) = (parameters([(6,)], place.dtypes[0], place.device) for _ in range(2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for some, make in ((p, place.make), (twin, torch_twin)):
                optimizer = make(name, [some, some], **options)
                for update in range(3):
                    give([some], update)
                    optimizer.step()
        verdicts.append(_compare([p], [twin], 6, f"listed twice, {name}"))
    return worst_of(verdicts)


EDGES: dict[str, Callable[[Place], Verdict]] = {
    **{name: partial(_layout, layout, name) for name, layout in layouts.LAYOUTS.items()},
    "missing gradients": _missing_gradients,
    "no gradients": _no_gradients,
    "mixed dtypes": _mixed_dtypes,
    "not finite": _not_finite,
    "sparse gradient": _sparse_gradient,
    "every length": _lengths,
    "threads": _threads,
    "in two optimizers": _two_optimizers,
    "listed twice": _listed_twice,
}


def checks(level: Level) -> Iterator[Check]:
    for name, run in EDGES.items():
        for backend in machine.present() if run is not _listed_twice else ("auto",):
            quick = level is QUICK or machine.slow(backend)
            dtypes = (torch.float32,) if machine.slow(backend) and level is not FULL else layouts.REAL_DTYPES
            if level is QUICK:
                dtypes = dtypes[:1] if machine.slow(backend) else (torch.float32, torch.bfloat16)
            place = Place(machine.maker(backend), machine.device_of(backend), dtypes, quick)
            check_id = f"edge/{name.replace(' ', '-')}/{backend}"
            yield Check(check_id, "edge", name, backend, partial(run, place), None if backend == "auto" else backend)
