# SPDX-License-Identifier: Apache-2.0
"""Compares the updates of a backend with torch and with the same computation in a wider type."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from fusedsched import reference, torch_originals
from fusedsched.verify import extended, machine
from fusedsched.verify.bounds import Exact, Verdict, flat, judge, without_jumps
from fusedsched.verify.check import QUICK, Check, Level
from fusedsched.verify.machine import Make
from fusedsched.verify.table import DTYPES, Case, Row, cases

# (shape, size of the numbers, first update with a gradient, pool). A pool is judged by its largest error, so small
# numbers have a separate pool: only they show an error in 1 - beta2.
_TENSORS = (
    ((41, 27), 1.0, 0, "large"),  # its gradient has other strides
    ((3, 5, 7), 1.0, 0, "large"),
    ((), 1.0, 2, "large"),  # its first gradient comes late
    ((0,), 1.0, 0, "large"),
    ((1031,), 1e-3, 0, "small"),
)
_POOLS = tuple(dict.fromkeys(t[3] for t in _TENSORS))
_MOST_DRAWS = 16
_NEAR_MISS = 2.0
_CHECKED_AT = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 800, 1000)


def _generator(case: Case, draw: int) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(f"{case.row}/{draw}".encode()))


def _parameters(case: Case, draw: int, device: torch.device | str = "cpu") -> list[Tensor]:
    random = _generator(case, draw)
    values = [torch.randn(shape, generator=random) * size for shape, size, _, _ in _TENSORS]
    return [value.to(device, DTYPES[case.dtype]).requires_grad_() for value in values]


def _gradients(case: Case, steps: int, draw: int, device: torch.device | str = "cpu") -> Iterator[list[Tensor | None]]:
    random = _generator(case, draw)
    dtype = DTYPES[case.dtype]
    wide = torch.complex64 if dtype.is_complex else torch.float32
    for update in range(steps):
        grads = []
        for shape, size, first, _ in _TENSORS:
            grad = torch.randn(shape[::-1], generator=random, dtype=wide).mul_(size).to(device, dtype)
            grads.append(grad.permute(tuple(range(grad.dim()))[::-1]) if update >= first else None)
        yield grads


def _checked(steps: int) -> list[int]:
    return [step for step in _CHECKED_AT if step < steps] + [steps]


def _pooled(values: Sequence[Tensor | None]) -> dict[str, Tensor]:
    pools = {}
    for pool in _POOLS:
        parts = [flat(v) for v, t in zip(values, _TENSORS, strict=True) if t[3] == pool and v is not None]
        pools[pool] = torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)
    return pools


Snapshot = dict[tuple[str, str], Tensor]  # (name of the quantity, pool) -> its numbers


def _snapshot(optimizer: torch.optim.Optimizer, params: list[Tensor], masters: bool) -> Snapshot:
    states = [optimizer.state.get(p, {}) for p in params]
    quantities = {"param": [s.get("master", p) if masters else p for s, p in zip(states, params, strict=True)]}
    for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"):
        if any(key in s for s in states):
            quantities[key] = [s.get(key) for s in states]
    return {(name, pool): value for name, values in quantities.items() for pool, value in _pooled(values).items()}


def _set_scalars(group: dict[str, Any], slots: dict[str, Any], update: int) -> None:
    values = {slot: float(schedule(update)) for slot, schedule in slots.items()}
    beta1, beta2 = (values.pop(f"beta{i + 1}", b) for i, b in enumerate(group.get("betas", (0.0, 0.0))))
    if "betas" in group:
        group["betas"] = (beta1, beta2)
    group.update(values)


def trajectory(
    make: Make,
    case: Case,
    steps: int,
    draw: int = 0,
    device: torch.device | str = "cpu",
    *,
    scheduled: bool,
    masters: bool = False,
) -> list[Snapshot]:
    """Runs an optimizer and takes snapshots after updates 1, 2, 3, 5, 8, ... and the last.

    `scheduled`: the optimizer takes the case's schedules; otherwise their values are written to its groups before each
    update.
    """
    row, slots = case.configuration()
    params = _parameters(case, draw, device)
    optimizer = make(row.optimizer, params, **(with_schedules(row, slots) if scheduled else row.options))
    checked, snapshots = set(_checked(steps)), []
    for update, grads in enumerate(_gradients(case, steps, draw, device)):
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad
        if not scheduled:
            _set_scalars(optimizer.param_groups[0], slots, update)
        optimizer.step()
        if update + 1 in checked:
            snapshots.append(_snapshot(optimizer, params, masters))
    return snapshots


def with_schedules(row: Row, slots: dict[str, Any]) -> dict[str, Any]:
    options = row.options | {k: s for k, s in slots.items() if not k.startswith("beta")}
    if "beta1" in slots or "beta2" in slots:
        beta1, beta2 = row.options.get("betas", (0.9, 0.999))
        options["betas"] = (slots.get("beta1", beta1), slots.get("beta2", beta2))
    return options


def torch_twin(name: str, params: list[Tensor], **options: Any) -> torch.optim.Optimizer:
    """torch's plain implementation. Its foreach and fused ones are wrong for some strides and types. Where torch has no
    such class, the reference in the type of the parameters."""
    twin = getattr(torch_originals, name, None) or getattr(reference, name)
    return twin(params, **{"foreach": False, "fused": False, **options})


def wide_twin(name: str, params: list[Tensor], **options: Any) -> torch.optim.Optimizer:
    return getattr(reference, name)(params, dtype=torch.float64, **options)


def _extended_trajectory(case: Case, steps: int, draw: int) -> list[dict[tuple[str, str], Exact]]:
    row, slots = case.configuration()
    params = _parameters(case, draw)
    group = torch_twin(row.optimizer, params, **row.options).param_groups[0]
    twins = [extended.Extended(row.optimizer, p) for p in params]
    snapshots = []
    for update, grads in enumerate(_gradients(case, steps, draw)):
        _set_scalars(group, slots, update)
        for twin, grad in zip(twins, grads, strict=True):
            if grad is not None:
                twin.step(grad, group)
        if update + 1 in _checked(steps):
            snapshots.append(_extended_snapshot(twins))
    return snapshots


def _extended_snapshot(twins: list[extended.Extended]) -> dict[tuple[str, str], Exact]:
    names = dict.fromkeys(["param", *(key for twin in twins for key in twin.state)])
    snapshot = {}
    for name in names:
        values = [twin.param if name == "param" else twin.state.get(name) for twin in twins]
        values = [None if value is None else extended.split(value) for value in values]
        highs = _pooled([v and v.high for v in values])
        lows = _pooled([v and v.low for v in values])
        snapshot |= {(name, pool): Exact(highs[pool], lows[pool]) for pool in _POOLS}
    return snapshot


def unjudged(case: Case) -> str | None:
    """Why a case cannot be judged on this machine; None if it can."""
    return extended.reason() if case.dtype == "float64" else None


@lru_cache(maxsize=4)
def _yardsticks(case: Case, steps: int, draw: int) -> tuple[list[dict[tuple[str, str], Exact]], list[Snapshot]]:
    # All backends of a case are compared with the same two runs, which take most of the time.
    if case.dtype == "float64":
        truth = _extended_trajectory(case, steps, draw)
    else:
        wide = trajectory(wide_twin, case, steps, draw, scheduled=True, masters=True)
        truth = [{key: Exact.of(value) for key, value in snapshot.items()} for snapshot in wide]
    return truth, trajectory(torch_twin, case, steps, draw, scheduled=False)


def _compare(
    make: Make, case: Case, steps: int, draw: int, scheduled: bool, device: torch.device | str
) -> list[Verdict]:
    truth, torchs = _yardsticks(case, steps, draw)
    ours = trajectory(make, case, steps, draw, device, scheduled=scheduled)
    verdicts = []
    for name, pool in dict.fromkeys(key for snapshot in truth for key in snapshot):
        high, low, plain, got = [], [], [], []
        for true, plain_snapshot, our_snapshot in zip(truth, torchs, ours, strict=True):
            if (name, pool) in true:
                high.append(true[name, pool].high)
                low.append(true[name, pool].low)
                plain.append(plain_snapshot[name, pool])
                got.append(our_snapshot.get((name, pool), torch.empty(0, dtype=torch.float64)))
        exact = Exact(torch.cat(high), torch.cat(low))
        what = f"{name}, {pool} tensors"
        numbers = torch.cat(got), torch.cat(plain), exact
        jump = case.configuration()[0].jump
        if jump:
            numbers, jumps = without_jumps(*numbers, jump, steps, DTYPES[case.dtype], what)
            verdicts += jumps
        verdicts += judge(*numbers, DTYPES[case.dtype], what)
    return verdicts


@contextmanager
def one_thread() -> Iterator[None]:
    """Uses one thread: a thousand elements need no second one, and on a busy machine it mostly waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def run(make: Make, case: Case, steps: int, scheduled: bool = True, device: torch.device | str = "cpu") -> Verdict:
    """The worst verdict of a case over all quantities and pools. All checked updates are pooled.

    `make(name, params, **options)` builds the optimizer to judge, of parameters on `device`. `scheduled`: it takes
    schedules as arguments.
    """
    # Two maxima over a thousand elements of one distribution differ by more than 10 % in one draw of four. So a near
    # miss is drawn again and the sums over the draws are compared. Wrong results stay wrong.
    pooled = _compare(make, case, steps, 0, scheduled, device)
    for draw in range(1, _MOST_DRAWS):
        worst = max(pooled, key=lambda verdict: verdict.margin)
        if worst.passed or worst.margin > _NEAR_MISS ** (1 / draw):
            return worst
        again = _compare(make, case, steps, draw, scheduled, device)
        pooled = [a + b for a, b in zip(pooled, again, strict=True)]
    return max(pooled, key=lambda verdict: verdict.margin)


def check(case: Case, backend: str, level: Level) -> Check:
    line = "random" if case.row.startswith("random-") else case.row
    scheduled = case.schedule not in ("fixed", "drawn")
    steps = level.steps if case.schedule == "fixed" else level.scheduled_steps
    steps = level.slow_steps if machine.slow(backend) else steps
    run_case = partial(run, machine.maker(backend), case, steps, device=machine.device_of(backend))
    return Check(f"{case.id}/{backend}", backend, line, "schedules" if scheduled else case.dtype, run_case, backend)


def checks(level: Level) -> Iterator[Check]:
    for case in cases(level is QUICK, level.randoms):  # backends of one case share the yardsticks
        for backend in machine.present() if unjudged(case) is None else ():
            yield check(case, backend, level)


def parse(text: str, level: Level) -> Check | None:
    """The check with this id, also for cases that no level runs; None if the text is no such id.

    Raises ValueError for a case that cannot be judged here.
    """
    row, _, backend = text.rpartition("/")
    try:
        case = Case.parse(row)
    except ValueError:
        return None
    if backend not in machine.present():
        return None
    if unjudged(case) is not None:
        raise ValueError(f"{case.dtype} cannot be judged here: {unjudged(case)}.")
    return check(case, backend, level)


def left_out(level: Level) -> Iterator[tuple[str, str]]:
    if extended.reason() is not None:
        yield "float64 against extended precision", extended.reason()
