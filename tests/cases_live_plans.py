# SPDX-License-Identifier: Apache-2.0
"""Schedulers whose plans change under way: every class, what may be changed, and the arguments that are refused."""

import math
import random
from functools import partial
from typing import NamedTuple

import torch
from cases_lr_schedulers import CONFIGURED, SEED, numbers, optimizer

from fusedsched import lr_scheduler as L

OLD, NEW, AT = 40, 60, 13  # the end that each was built with; the one it gets; when

WITH_AN_END = (
    "CosineAnnealingLR", "LinearLR", "PolynomialLR", "ConstantLR", "SWALR", "OneCycleLR", "OneCycleLR, climbing",
    "OneCycleLR, three phases", "SequentialLR", "SequentialLR, before its last", "ChainedScheduler with an end",
)  # fmt: skip
WITHOUT_AN_END = (
    "StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingWarmRestarts", "CyclicLR", "LambdaLR", "MultiplicativeLR",
    "SequentialLR of chains", "ReduceLROnPlateau",
)  # fmt: skip
PAST_THEIR_END = ("LinearLR to 0", "CosineAnnealingLR of 1", "SWALR, linear")
SCHEDULERS = {name: partial(CONFIGURED[name], end=OLD) for name in WITH_AN_END}
SCHEDULERS |= {name: CONFIGURED[name] for name in WITHOUT_AN_END}

CHANGES = {
    "nothing": lambda s: None,
    "extend": lambda s: s.extend(total_steps=NEW),
    "shorten": lambda s: s.extend(total_steps=OLD - 9),
    "linear branch": lambda s: s.branch(10, final=0.003),
    "cosine branch": lambda s: s.branch(10, decay="cosine"),
    "1-sqrt branch": lambda s: s.branch(10, final_ratio=[0.1, 0.5], decay="1-sqrt"),
    "longer branch": lambda s: (s.branch(10, final=0.003, decay="cosine"), advance(s, 4), s.extend(NEW)),
    "branch of a branch": lambda s: (s.branch(10), advance(s, 4), s.branch(7, final=0.2, decay="cosine")),
}
BRANCHES = [name for name in CHANGES if "branch" in name]


def advance(scheduler, n=1):
    """n steps, fewer where OneCycleLR may go no further; the rates after each."""
    seen = []
    for _ in range(n):
        if isinstance(scheduler, L.OneCycleLR) and scheduler._branch is None:
            if scheduler.last_epoch == scheduler.total_steps:
                break
        scheduler.step(1.0) if isinstance(scheduler, L.ReduceLROnPlateau) else scheduler.step()
        seen.append(numbers(scheduler.optimizer))
    return seen


def scheduled(name, steps=AT, lrs=(0.3, 0.2), kind="sgd", tensors=None):
    """(optimizer, scheduler) some steps in."""
    lrs = [torch.tensor(lr, dtype=tensors) for lr in lrs] if tensors else list(lrs)
    opt = optimizer(lrs, kind)
    sched = SCHEDULERS.get(name, CONFIGURED[name])(opt)
    advance(sched, steps)
    return opt, sched


def pairs():
    """(class, change) of all that go together."""
    found = [(n, c) for n in SCHEDULERS for c in CHANGES if n in WITH_AN_END or c in ("nothing", *BRANCHES)]
    return found + [(name, "nothing") for name in PAST_THEIR_END]


class Bad(NamedTuple):
    """A call that must raise, in a scheduler some steps in, and change nothing."""

    scheduler: str
    call: str
    arguments: dict
    error: type[Exception]
    message: str


BAD = [
    *(
        Bad(name, "extend", {"total_steps": 99}, TypeError, rf"^{name.split()[0]} goes on for as long as it is stepped")
        for name in WITHOUT_AN_END
        if " " not in name
    ),
    Bad("SequentialLR of chains", "extend", {"total_steps": 99}, TypeError, "^SequentialLR goes on"),
    *(
        Bad(name, "extend", {"total_steps": AT}, ValueError, rf"^Invalid total_steps: {AT}\.")
        for name in WITH_AN_END
        if name != "SequentialLR, before its last"
    ),
    Bad("CosineAnnealingLR", "extend", {"total_steps": 50.0}, ValueError, r"^Invalid total_steps: 50\.0\. It must be"),
    Bad("CosineAnnealingLR", "extend", {"total_steps": True}, ValueError, "^Invalid total_steps: True"),
    Bad("CosineAnnealingLR", "extend", {"total_steps": None}, ValueError, "^Invalid total_steps: None"),
    Bad("SequentialLR, before its last", "extend", {"total_steps": 20}, ValueError, "begins at step 20, and its end"),
    Bad("OneCycleLR", "extend", {"total_steps": AT + 1}, ValueError, f"of such a run; give more than {AT + 1}"),
    Bad("OneCycleLR, climbing", "extend", {"total_steps": 20}, ValueError, "climbs until step 19; give more than 20"),
    *(
        Bad("StepLR", "branch", arguments, ValueError, message)
        for arguments, message in [
            ({"steps": 0}, "^Invalid steps: 0. It must be an integer of 1 or more"),
            ({"steps": -3}, "^Invalid steps: -3"),
            ({"steps": 2.0}, r"^Invalid steps: 2\.0"),
            ({"steps": 9, "final": -0.1}, r"^Invalid final: -0\.1\. A scheduled value must be 0 or more"),
            ({"steps": 9, "final": math.nan}, "final"),
            ({"steps": 9, "final": [0.1]}, "^final must have the same length as optimizer.param_groups. final has 1"),
            ({"steps": 9, "final_ratio": [0.1] * 3}, "^final_ratio must have the same length"),
            ({"steps": 9, "final": 0.1, "final_ratio": 0.1}, "^Got both final=0.1 and final_ratio=0.1"),
            ({"steps": 9, "decay": "exp"}, "^Invalid decay: 'exp'. It must be one of 'linear', 'cosine', '1-sqrt'"),
        ]
    ),
]

ARRIVED = ("LinearLR", "PolynomialLR", "ConstantLR", "SWALR", "OneCycleLR", "ChainedScheduler with an end")


def random_change(rng, scheduler):
    """Something that a user may do to a plan; False if this one was refused."""
    ahead = getattr(scheduler, "last_epoch", 0) + rng.randint(1, 40)
    try:
        if rng.random() < 0.4:
            scheduler.extend(ahead)
        else:
            final = rng.choice([None, 0.01, [0.02, 0.0]])
            scheduler.branch(rng.randint(1, 25), final, rng.choice(["linear", "cosine", "1-sqrt"]))
    except (TypeError, ValueError):
        return False
    return True


def seeded(draw):
    return random.Random(SEED + 4000 + draw)
