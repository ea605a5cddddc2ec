# SPDX-License-Identifier: Apache-2.0
"""How an edit of a rate goes on, class by class, for kernels that find it: nobody calls the host between replays.

`forms.py` says where a recursion leads from any rate x; here the same is said as a change of what it led to: the
recursions only scale the distance from a pivot.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from typing import Any

from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.swa_utils import SWALR

from fusedsched.runtime.hyperparameters import Carry, Piece, Target

from ..schedules.evaluate import half_wave
from .forms import FORMS, _key
from .rows import HORIZON, Row
from .tracks import table


def _discard(s: Any, i: int) -> Piece:
    return Piece(math.inf, Carry.DISCARD)


def _scale(s: Any, i: int) -> Piece | None:
    # A factor of zero leaves nothing to be scaled: what comes after an edit then depends on the step.
    factors = [getattr(s, name, 1.0) for name in ("gamma", "factor")]
    return Piece(math.inf, Carry.HOLD) if all(factors) else None


def _swa(s: Any, i: int) -> Piece:
    return Piece(math.inf, Carry.DROP, float(s.optimizer.param_groups[i]["swa_lr"]))


def _wave(s: Any, i: int) -> Piece | None:
    height = float(s.base_lrs[i]) - s.eta_min
    if height == 0.0:
        return None
    turn, kick = 2.0 * s.T_max, 1.0 / (half_wave(1.0, s.T_max) * height)
    return Piece(math.inf, Carry.WAVE, s.eta_min, -float(s.T_max), turn, kick)  # the low point before the start


_PIECES: dict[type, Callable[[Any, int], Piece | None]] = {
    torch_schedulers.CosineAnnealingLR: _wave,
    SWALR: _swa,
    **dict.fromkeys(
        (
            torch_schedulers.StepLR,
            torch_schedulers.MultiStepLR,
            torch_schedulers.ConstantLR,
            torch_schedulers.LinearLR,
            torch_schedulers.ExponentialLR,
            torch_schedulers.PolynomialLR,
        ),
        _scale,
    ),
    **dict.fromkeys(
        (torch_schedulers.CosineAnnealingWarmRestarts, torch_schedulers.CyclicLR, torch_schedulers.OneCycleLR),
        _discard,
    ),
}


def piece_of(scheduler: Any, i: int) -> Piece | None:
    """How this scheduler carries an edit of group i on; None: not in a way that a kernel knows."""
    branch = getattr(scheduler, "_branch", None)
    if branch is not None:
        return branch.piece(i)
    kind = _key(type(scheduler))
    return None if kind not in FORMS else _PIECES[kind](scheduler, i)


def target_of(scheduler: Any, i: int, t: int, x: float, rows: list[Row]) -> Target | None:
    """Group i's rate, which is x at the clock t, from where on it has these rows; None where no kernel can write it."""
    piece = scheduler._piece(i)
    if piece is None:
        return None
    lr = scheduler.optimizer.param_groups[i]["lr"]
    passed = math.fmod(t - piece.low, piece.turn) if piece.carry is Carry.WAVE else 1.0
    if piece.carry is not Carry.DISCARD and x == piece.pivot and passed:
        # Nothing can be scaled: the rows of another rate, of which there is nothing until somebody edits it.
        rows = scheduler._form().rows(scheduler, i, t, x + 1.0)
        until = t - passed + piece.turn if piece.carry is Carry.WAVE else math.inf
        return Target(lr, table(rows), (piece,), 0.0, until)
    return Target(lr, table(rows), (piece,))


def ending(program: array, last: int) -> array:
    """The program, defined up to the clock `last` (-1: for ever)."""
    program = array("d", program)
    program[HORIZON] = float(last)
    return program


def pieces_of(scheduler: Any, i: int) -> tuple[Piece, ...] | None:
    """The same for schedulers made of others: a SequentialLR forgets edits at its milestones, a chain scales."""
    if getattr(scheduler, "_branch", None) is not None:
        return (scheduler._branch.piece(i),)
    if isinstance(scheduler, torch_schedulers.ChainedScheduler):
        found = [pieces_of(member, i) for member in scheduler._schedulers]
        scaling = all(p is not None and len(p) == 1 and p[0].carry is Carry.HOLD for p in found)
        return found[0] if scaling else None
    if not isinstance(scheduler, torch_schedulers.SequentialLR):
        piece = piece_of(scheduler, i)
        return None if piece is None else (piece,)
    pieces: list[Piece] = []
    begins = (0, *scheduler._milestones)
    for k, member in enumerate(scheduler._schedulers):
        found, begin = pieces_of(member, i), begins[k]
        end = begins[k + 1] if k + 1 < len(begins) else math.inf
        if found is None:
            return None
        for piece in found:
            pieces.append(piece._replace(end=min(piece.end + begin, end), low=piece.low + begin))
            if piece.end + begin >= end:
                break
    return tuple(pieces)
