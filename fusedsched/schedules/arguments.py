# SPDX-License-Identifier: Apache-2.0
"""The conventions that every named schedule shares, one flag each, and the checks of their arguments.

end="exclusive"         the final value is reached at u = T, one update after the last of T (torch, Hugging Face)
end="inclusive"         it is reached by the last update, u = T - 1
past_end="hold"         the final value stays
past_end="cycle"        all starts again after T updates
past_end="error"        asking for a value after the final one raises ValueError
warmup_from=None        update u of a warmup of W uses peak * (u + 1) / W: never zero, the peak at u = W - 1
warmup_from=x           it uses x + (peak - x) * u / W: the peak at u = W
decay_anchor="absolute" total_steps counts the warmup; "after_warmup": it counts the decay alone
final_ratio=r           the final value as a part of the first or the peak, in place of the value itself
unit="update"           what the clock counts; "sample" and "token" travel with the schedule to who owns the clock
"""

from __future__ import annotations

import math
from collections.abc import Sequence as List
from numbers import Integral
from typing import Any

from fusedsched.schedules.compose import Sequence
from fusedsched.schedules.expression import Schedule, Segment, finite


def level(what: str, value: Any) -> float:
    """A value that a hyperparameter may take: finite and not negative.

    >>> level("peak", 1)
    1.0
    """
    number = finite(what, value)
    if number < 0.0:
        raise ValueError(f"Invalid {what}: {value}. A scheduled value must be 0 or more; build a Segment to go below.")
    return number


def positive(what: str, value: Any) -> float:
    """A finite number above 0."""
    number = finite(what, value)
    if number <= 0.0:
        raise ValueError(f"Invalid {what}: {value}. It must be more than 0.")
    return number


def count(what: str, value: Any, least: int = 0) -> float:
    """A whole number of steps, `least` or more, as a float.

    >>> count("steps", 10)
    10.0
    """
    if value is None:
        raise ValueError(f"{what} is missing. Give the number of steps.")
    number = finite(what, value)
    if number < least or number != int(number):
        raise ValueError(f"Invalid {what}: {value}. It must be a whole number of steps, {least} or more.")
    return number


def one_of(what: str, value: Any, choices: tuple[str, ...]) -> str:
    """`value`, if it is among `choices`."""
    if value not in choices:
        raise ValueError(f"Invalid {what}: {value!r}. It must be one of {', '.join(map(repr, choices))}.")
    return value


def final_level(what: str, value: Any, ratio: Any, of: float, default: float | None = None) -> float:
    """The final value: given as it is, or as a ratio of `of`, not both.

    >>> final_level("final", None, 0.1, of=2.0)
    0.2
    """
    if value is not None and ratio is not None:
        raise ValueError(f"Got both {what}={value} and final_ratio={ratio}. Give one of them.")
    if ratio is not None:
        return of * level("final_ratio", ratio)
    if value is None and default is None:
        raise ValueError(f"{what} is missing. Give {what}= or final_ratio=.")
    return level(what, default if value is None else value)


def span_within(width: float, end: str) -> float:
    """Steps from the first to the final value of a phase of `width` updates."""
    one_of("end", end, ("exclusive", "inclusive"))
    return max(0.0, width - 1.0) if end == "inclusive" else width


def phases(
    what: str,
    parts: List[tuple[Segment, float]],
    final: float,
    *,
    end: str = "exclusive",
    past_end: str = "hold",
    unit: str = "update",
) -> Schedule:
    """Segments with their widths one after the other, then `final`, with the flags applied to the whole.

    >>> phases("x", [(Segment("LINEAR", span=2, start=2.0), 2)], 0.0, past_end="cycle").curve(4)
    [2.0, 1.0, 2.0, 1.0]
    """
    one_of("past_end", past_end, ("hold", "cycle", "error"))
    boundaries, total = [], 0.0
    for _, width in parts:
        total += width
        boundaries.append(total)
    if past_end == "cycle" and total <= 0.0:
        raise ValueError(f"{what} has no steps, so past_end='cycle' has nothing to repeat. Give it at least one.")
    horizon = max(0.0, total - 1.0) if end == "inclusive" else total
    whole = Sequence(
        (*(segment for segment, _ in parts), final),
        tuple(boundaries),
        period=total if past_end == "cycle" else 0.0,
        horizon=horizon if past_end == "error" else -1.0,
        unit=unit,
    )
    return whole.check(what)


def is_number(*numbers: Any) -> bool:
    """Whether all are finite Python numbers, not tensors or anything else with an arithmetic of its own."""
    for n in numbers:
        if not (isinstance(n, (int, float, Integral)) and math.isfinite(n)):
            return False
    return True


def as_integer(number: Any, least: int) -> int | None:
    """The number as an integer; None if it is none, or below `least`.

    >>> as_integer(3.0, 1), as_integer(2.5, 1), as_integer(0, 1)
    (3, None, None)
    """
    return int(number) if is_number(number) and number == int(number) and number >= least else None
