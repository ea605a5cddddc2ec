# SPDX-License-Identifier: Apache-2.0
"""The table of what is verified: optimizers, types and schedules, and random configurations from a seed.

The numbers make mistakes visible: with `lr=0.1, weight_decay=0.5, eps=1e-2, betas=(0.6, 0.7)` moving one line
changes the result by far more than the bound. With the defaults, a decay after the update would pass.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fusedsched import schedules as S

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "complex64": torch.complex64,
}
_ADAM = dict(lr=0.1, weight_decay=0.5, eps=1e-2, betas=(0.6, 0.7))
_SGD = dict(lr=0.1, weight_decay=0.05)
VISIBLE: dict[str, dict[str, Any]] = {
    "AdamW": _ADAM,
    "Adam": _ADAM,
    "SGD": dict(lr=0.1, weight_decay=0.5, momentum=0.6, nesterov=True),
    "Lion": dict(lr=0.1, weight_decay=0.5, betas=(0.6, 0.7)),
}
"""Options for comparisons of few updates."""
# In float16, torch's eps of 1e-8 is zero and it divides by zero, so these types have no error to compare with.
_TINY_EPS = ("float32", "float64", "bfloat16", "complex64")


@dataclass(frozen=True)
class Row:
    """An optimizer, its arguments, the types that it is verified in, and how far a parameter jumps where a rounding
    decides a sign."""

    optimizer: str
    options: dict[str, Any]
    dtypes: tuple[str, ...] = tuple(DTYPES)
    jump: float = 0.0


OPTIMIZERS: dict[str, Row] = {
    "AdamW": Row("AdamW", _ADAM),
    "AdamW-defaults": Row("AdamW", {}, _TINY_EPS),
    "AdamW-long-memory": Row("AdamW", dict(lr=1e-3, betas=(0.95, 0.9999), weight_decay=0.1), _TINY_EPS),
    "AdamW-amsgrad": Row("AdamW", dict(_ADAM, amsgrad=True)),
    "AdamW-maximize": Row("AdamW", dict(_ADAM, maximize=True)),
    "AdamW-amsgrad-maximize": Row("AdamW", dict(_ADAM, amsgrad=True, maximize=True)),
    "AdamW-no-decay": Row("AdamW", dict(_ADAM, weight_decay=0.0)),
    "AdamW-no-memory": Row("AdamW", dict(_ADAM, betas=(0.0, 0.0))),
    "AdamW-short-memory": Row("AdamW", dict(_ADAM, betas=(0.2, 0.3))),
    "AdamW-lr-zero": Row("AdamW", dict(_ADAM, lr=0.0)),
    "Adam": Row("Adam", _ADAM),
    "Adam-defaults": Row("Adam", {}, _TINY_EPS),
    "Adam-amsgrad": Row("Adam", dict(_ADAM, amsgrad=True)),
    "Adam-maximize": Row("Adam", dict(_ADAM, maximize=True)),
    "Adam-decoupled": Row("Adam", dict(_ADAM, decoupled_weight_decay=True)),
    "SGD": Row("SGD", dict(lr=0.1)),
    "SGD-decay": Row("SGD", _SGD),
    "SGD-maximize": Row("SGD", dict(_SGD, maximize=True)),
    "SGD-momentum": Row("SGD", dict(_SGD, momentum=0.9)),
    "SGD-nesterov": Row("SGD", dict(_SGD, momentum=0.8, nesterov=True)),
    "SGD-dampening": Row("SGD", dict(_SGD, momentum=0.7, dampening=0.4)),
    "SGD-all": Row("SGD", dict(_SGD, momentum=0.9, nesterov=True, maximize=True)),
    **{
        f"Lion{name}": Row("Lion", dict(lr=0.02, weight_decay=0.1, betas=(0.6, 0.7)) | options, jump=0.04)
        for name, options in {
            "": {},
            "-no-decay": dict(weight_decay=0.0),
            "-maximize": dict(maximize=True),
            "-long-memory": dict(betas=(0.95, 0.98)),
        }.items()
    },
}

# Every named schedule, with phases that end within a hundred updates.
NAMED: dict[str, Callable[[], Any]] = {
    "constant": lambda: S.constant(0.07),
    "linear": lambda: S.linear(0.1, 0.02, steps=60),
    "cosine": lambda: S.cosine(0.1, 0.01, steps=70),
    "polynomial": lambda: S.polynomial(0.1, 0.01, steps=60, power=2.5),
    "exponential": lambda: S.exponential(0.1, gamma=0.97),
    "step": lambda: S.step(0.1, step_size=20, gamma=0.5),
    "multistep": lambda: S.multistep(0.1, milestones=[10, 40, 41], gamma=0.3),
    "inverse_sqrt": lambda: S.inverse_sqrt(0.1, warmup_steps=20),
    "inverse_time": lambda: S.inverse_time(0.1, alpha=0.05),
    "noam": lambda: S.noam(d_model=64, warmup_steps=30, factor=1.0),
    "cyclic": lambda: S.cyclic(0.01, 0.1, up=15, down=25, mode="triangular2"),
    "one_cycle": lambda: S.one_cycle(0.1, total_steps=80),
    "cosine_restarts": lambda: S.cosine_restarts(0.1, 0.01, t_0=10, t_mult=2),
    "warmup_cosine": lambda: S.warmup_cosine(peak=0.1, warmup_steps=10, total_steps=90, final=0.01),
    "warmup_linear": lambda: S.warmup_linear(peak=0.1, warmup_steps=10, total_steps=90, final=0.01),
    "warmup_stable_decay": lambda: S.warmup_stable_decay(peak=0.1, warmup_steps=10, stable_steps=30, decay_steps=40),
    "table": lambda: S.from_function(lambda update: 0.1 / (1 + update % 7), steps=50, past_end="hold"),
    "join": lambda: S.join([S.linear(0.02, 0.1, steps=20), S.exponential(0.1, gamma=0.98)], [20]),
    "product": lambda: S.cosine(0.1, 0.0, steps=120) * S.step(1.0, step_size=25, gamma=0.7),
    "warmup": lambda: S.warmup(12) >> S.polynomial(0.1, 0.0, steps=80, power=0.5),
}


def _everything(optimizer: str) -> dict[str, Any]:
    slots = {
        "lr": S.warmup_cosine(peak=0.1, warmup_steps=10, total_steps=90, final=0.01),
        "weight_decay": S.cosine(0.3, 0.0, steps=80),
    }
    if optimizer == "SGD":
        return slots | {"momentum": S.linear(0.9, 0.5, steps=50)}
    return slots | {"beta1": S.linear(0.5, 0.9, steps=40), "beta2": S.step(0.7, step_size=30, gamma=0.9)}


def _drawn(seed: int) -> tuple[Row, dict[str, Any]]:
    # In these ranges, float16 neither overflows nor underflows in torch's arithmetic.
    draw = random.Random(seed)
    optimizer = draw.choice(("AdamW", "Adam", "SGD"))
    options: dict[str, Any] = dict(
        lr=10 ** draw.uniform(-4, -0.7), weight_decay=draw.choice((0.0, draw.random())), maximize=draw.random() < 0.3
    )
    if optimizer == "SGD":
        options["weight_decay"] *= 0.1
        if draw.random() < 0.7:
            options["momentum"] = draw.uniform(0.1, 0.95)
            if draw.random() < 0.5:
                options["nesterov"] = True
            else:
                options["dampening"] = draw.choice((0.0, draw.random()))
    else:
        if optimizer == "Adam":
            # A coupled decay larger than the gradient is chaotic: one ulp grows to the size of the weights, in torch's
            # result too, so nothing can be compared.
            options["weight_decay"] *= 0.01
        betas = (draw.uniform(0.0, 0.95), draw.uniform(0.0, 0.999))
        options |= dict(betas=betas, eps=10 ** draw.uniform(-3, -1), amsgrad=draw.random() < 0.3)
    slots = {}
    for slot, schedule in _everything(optimizer).items():
        if draw.random() < 0.3 and (slot, optimizer) != ("weight_decay", "Adam"):
            slots[slot] = schedule
    if draw.random() < 0.3:
        slots["lr"] = NAMED[draw.choice(sorted(NAMED))]()
    if "momentum" in slots and "momentum" not in options:
        del slots["momentum"]
    return Row(optimizer, options, ("float32", "float64", "bfloat16", "float16")), slots


@dataclass(frozen=True)
class Case:
    """One configuration. `fusedsched verify --case` takes its id."""

    row: str
    dtype: str
    schedule: str = "fixed"

    @property
    def id(self) -> str:
        return f"{self.row}/{self.dtype}/{self.schedule}"

    @classmethod
    def parse(cls, text: str) -> Case:
        parts = text.split("/")
        known = len(parts) == 3 and parts[1] in DTYPES and parts[2] in ("fixed", "all", "drawn", *NAMED)
        if not known or not (parts[0] in OPTIMIZERS or parts[0].removeprefix("random-").isdigit()):
            raise ValueError(
                f"Unknown case: {text!r}. It must be ROW/DTYPE/SCHEDULE, such as AdamW/float32/cosine, with a row of "
                f"{', '.join(OPTIMIZERS)} or random-SEED, a dtype of {', '.join(DTYPES)} and a schedule of "
                f"fixed, all, {', '.join(NAMED)}."
            )
        return cls(*parts)

    def configuration(self) -> tuple[Row, dict[str, Any]]:
        """The row and the schedules by slot; `drawn` schedules come with a random row."""
        if self.row.startswith("random-"):
            row, slots = _drawn(int(self.row.removeprefix("random-")))
        else:
            row, slots = OPTIMIZERS[self.row], {}
        if self.schedule == "all":
            slots = _everything(row.optimizer)
            if row.optimizer == "SGD" and not row.options.get("momentum"):
                del slots["momentum"]
        elif self.schedule in NAMED:
            slots = {"lr": NAMED[self.schedule]()}
        return row, slots


def cases(quick: bool, randoms: int) -> Iterator[Case]:
    """Every row in every type; every schedule with every optimizer in every type (`quick`: each schedule once)."""
    for name, row in OPTIMIZERS.items():
        for dtype in row.dtypes:
            yield Case(name, dtype)
    mains = ("AdamW", "Adam-amsgrad", "SGD-momentum")
    for name in (*mains, "Lion"):
        for dtype in DTYPES:
            yield Case(name, dtype, "all")
    for i, schedule in enumerate(NAMED):
        pairs = [(row, dtype) for row in mains for dtype in DTYPES]
        for row, dtype in [pairs[i * 4 % len(pairs)]] if quick else pairs:
            yield Case(row, dtype, schedule)
    for seed in range(randoms):
        dtypes = _drawn(seed)[0].dtypes
        yield Case(f"random-{seed}", dtypes[seed % len(dtypes)], "drawn")
