# SPDX-License-Identifier: Apache-2.0
"""Error bounds, each with its reason, and the comparisons that use them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

# The allowed error of an update, as a multiple of torch's own error (plus one ulp). Not 1.0: two correct orders of one
# formula differ by about 5 % in the mean and the maximum over a thousand elements.
TORCH_ERRORS = 1.1
# All evaluators use the same fixed forms and the same sine; pow of another maths library differs by 1 ulp to 2 ulp.
EVALUATOR_ULPS = 4.0
# Drop-in schedulers over 10,000 steps, relative to the largest of base, peak and value: torch's recursion in float64
# adds 1e-16 a step, so 1e-12 at the end, and a cosine that amplifies it tenfold near its zero.
SCHEDULER_ERROR = 1e-11
# One update of one element is a chain of about 10 operations; two orders of them differ by at most that many ulps, and
# the differences of the updates add up.
ROUNDINGS_PER_UPDATE = 10
# float16 and bfloat16: torch rounds after every operation, we round once. Of values near 1 that moves a result by
# about 10 half ulps an update, and an error of a moment is divided by its root: twice that.
ROUNDINGS_PER_UPDATE_LOW = 20
# A parameter is changed by numbers of the size lr * 1, whatever its own size; and torch's 1 - beta2**step has lost the
# digits that 1 / (1 - beta2) asks for.
SMALLEST_SCALE = 0.1
# A sign that hangs on a rounding: once in 1e5 updates of float32, all the time in types of 16 bits.
LARGEST_EPS_OF_RARE_JUMPS = 1e-6


@dataclass(frozen=True)
class Exact:
    """A value with more digits than float64: `high + low`, both float64."""

    high: Tensor
    low: Tensor

    @classmethod
    def of(cls, value: Tensor) -> Exact:
        value = flat(value)
        return cls(value, torch.zeros_like(value))


@dataclass(frozen=True)
class Verdict:
    """The result of one comparison: an error and the largest error allowed."""

    what: str
    error: float
    allowed: float

    @property
    def margin(self) -> float:
        """The error divided by the allowed error; above 1 if the check fails."""
        if self.allowed == 0.0:
            return 0.0 if self.error == 0.0 else float("inf")
        return self.error / self.allowed

    @property
    def passed(self) -> bool:
        return self.margin <= 1.0

    def __add__(self, other: Verdict) -> Verdict:
        """Pools two draws of one comparison."""
        return Verdict(self.what, self.error + other.error, self.allowed + other.allowed)


def flat(value: Tensor) -> Tensor:
    """The numbers of a tensor in logical order, as float64; a complex number is two.

    >>> import torch
    >>> flat(torch.tensor([[1, 2], [3, 4]], dtype=torch.bfloat16).t())
    tensor([1., 3., 2., 4.], dtype=torch.float64)
    """
    value = value.detach()
    if value.is_complex():
        value = torch.view_as_real(value.resolve_conj())
    return value.to("cpu", torch.float64, copy=True).reshape(-1)


def ulp(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance from each |value| to the next number of `dtype`.

    >>> import torch
    >>> ulp(torch.tensor([1.0, 3.0, 0.0], dtype=torch.float64), torch.float16).log2()
    tensor([-10.,  -9., -24.], dtype=torch.float64)
    """
    limits = torch.finfo(dtype)  # of a complex type: of its parts
    exponent = torch.frexp(value.abs()).exponent
    spacing = torch.ldexp(torch.full_like(value, limits.eps), exponent - 1)
    return torch.where(value == 0, 0.0, spacing).clamp(min=limits.tiny * limits.eps)


def judge(ours: Tensor, torchs: Tensor, truth: Exact, dtype: torch.dtype, what: str) -> list[Verdict]:
    """Compares a value with torch's by their distance to the truth, maximum and mean.

        max(|ours - truth| - ulp) <= 1.1 * max(|torch - truth|)
        mean(|ours - truth|)      <= 1.1 * mean(|torch - truth|) + mean(ulp)

    `ours`, `torchs`: from `flat`. `dtype`: of the values. A value that is not finite fails.
    """
    if ours.shape != truth.high.shape:
        return [Verdict(f"{what}, number of elements", float("inf"), 0.0)]
    if ours.numel() == 0:
        return []
    error = (ours - truth.high - truth.low).abs().nan_to_num(nan=float("inf"))
    torch_error = (torchs - truth.high - truth.low).abs()
    unit = ulp(truth.high, dtype)
    worst = int((error - unit).argmax())
    return [
        Verdict(f"max of {what}", float(error[worst]), TORCH_ERRORS * float(torch_error.max()) + float(unit[worst])),
        Verdict(f"mean of {what}", float(error.mean()), TORCH_ERRORS * float(torch_error.mean()) + float(unit.mean())),
    ]


def without_jumps(
    ours: Tensor, torchs: Tensor, truth: Exact, jump: float, updates: int, dtype: torch.dtype, what: str
) -> tuple[tuple[Tensor, Tensor, Exact], list[Verdict]]:
    """The arguments of `judge` without the elements that jumped, and a verdict on how many of ours did.

    A rule that takes the sign of a sum moves an element by `jump` to the other side where a rounding decides the sign.
    In one update that happens to one of 1 / (roundings * eps) elements, to others than in torch's. In types of 16 bits
    it happens to all elements alike; they are judged with their jumps.
    """
    eps = torch.finfo(dtype).eps
    if eps > LARGEST_EPS_OF_RARE_JUMPS or ours.shape != truth.high.shape:
        return (ours, torchs, truth), []
    mine, theirs = ((x - truth.high - truth.low).abs() > jump / 8 for x in (ours, torchs))
    allowed = ours.numel() * updates * ROUNDINGS_PER_UPDATE * eps
    kept = ~(mine | theirs)
    verdict = Verdict(f"jumps of {what}", float(mine.sum()), allowed)
    return (ours[kept], torchs[kept], Exact(truth.high[kept], truth.low[kept])), [verdict]


def close(ours: Tensor, torchs: Tensor, updates: int, what: str) -> Verdict:
    """Whether two tensors agree as two orders of the same roundings do after so many updates.

    The scale is the largest magnitude among them: an update subtracts numbers of that size.
    """
    if ours.dtype != torchs.dtype:
        return Verdict(f"{what}: {ours.dtype} instead of {torchs.dtype}", float("inf"), 0.0)
    if ours.shape != torchs.shape:
        return Verdict(f"{what}: shape {tuple(ours.shape)} instead of {tuple(torchs.shape)}", float("inf"), 0.0)
    if ours.numel() == 0:
        return Verdict(what, 0.0, 0.0)
    roundings = ROUNDINGS_PER_UPDATE_LOW if torchs.dtype.itemsize == 2 else ROUNDINGS_PER_UPDATE
    mine, theirs = flat(ours), flat(torchs)
    scale = max(float(theirs.abs().max()), SMALLEST_SCALE if what.startswith("param") else 0.0)
    worst = float((mine - theirs).abs().nan_to_num(nan=float("inf")).max())
    return Verdict(what, worst, max(updates, 1) * roundings * torch.finfo(torchs.dtype).eps * scale)


def fact(true: bool, what: str) -> Verdict:
    """The verdict on a condition."""
    return Verdict(what, 0.0 if true else 1.0, 0.0)


def near(ours: float, right: float, what: str, relative: float = 1e-12) -> Verdict:
    """The verdict on one number, by its relative error. The message names both numbers."""
    return Verdict(f"{what}: {ours:.9g}, should be {right:.9g}", abs(ours - right), relative * max(abs(right), 1e-300))


def worst_of(verdicts: Iterable[Verdict]) -> Verdict:
    """The first verdict that failed, else the one with the largest margin."""
    listed = list(verdicts)
    return next((v for v in listed if not v.passed), None) or max(listed, key=lambda verdict: verdict.margin)
