# SPDX-License-Identifier: Apache-2.0
"""Two of everything: what is done to our scheduler is done to torch's, and what they write is compared."""

import copy
import math
import random
import warnings

import numpy as np
from cases_lr_schedulers import SCHEDULERS, SEED, numbers, optimizer
from compared import compared
from torch.optim import lr_scheduler as theirs

from fusedsched import lr_scheduler as ours

BOUND = 1e-11  # of max(|base|, peak, |value|); torch's own recursion in Python floats drifts by 2e-12 in 100,000 steps


as_torch = compared(ours, theirs)


class Pair:
    """The same optimizer and scheduler twice, once ours and once torch's; whatever is done is done to both."""

    def __init__(self, lrs, kind="sgd"):
        self.opts = [optimizer(copy.deepcopy(lrs), kind) for _ in range(2)]
        self.scheds = [[], []]
        self.peak = max(float(lr) for lr in lrs)

    def add(self, row, arguments):
        self.scheds[0].append(row.ours(self.opts[0], **arguments))
        self.scheds[1].append(row.theirs(self.opts[1], **arguments))

    def do(self, action):
        for opt, scheds in zip(self.opts, self.scheds, strict=True):
            action(opt, scheds)

    def step(self, which=0, *epoch):
        """False if torch's scheduler ends here, and ours with it."""
        ended = []
        for scheds in self.scheds:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The epoch parameter")
                try:
                    scheds[which].step(*epoch)
                except ValueError as error:
                    ended.append(str(error))
        assert len(ended) in (0, 2) and len(set(ended)) < 2, ended
        return not ended

    def compare(self, bound=BOUND, judge=None):
        for i, (mine, other) in enumerate(zip(*map(numbers, self.opts), strict=True)):
            self.peak = max(self.peak, abs(other[0])) if math.isfinite(other[0]) else self.peak
            for k in range(2):
                if abs(mine[k] - other[k]) <= bound * self.peak or mine[k] == other[k]:
                    continue
                assert judge is not None and k == 0, (i, mine, other)
                exact = judge(i)
                assert abs(mine[0] - exact) < abs(other[0] - exact), (i, mine, other, exact)
        for mine, other in zip(*self.scheds, strict=True):
            names = ("last_epoch", "_step_count", "T_cur", "T_i")
            assert [getattr(mine, n, None) for n in names] == [getattr(other, n, None) for n in names]
            assert [type(lr) for lr in mine.get_last_lr()] == [type(lr) for lr in other.get_last_lr()]


def random_case(rng, row, *, kind=None):
    lrs = [rng.uniform(0.01, 1.0) for _ in range(rng.randint(1, 3))]
    pair = Pair(lrs, kind or rng.choice(["sgd", "adam", "three", "our sgd", "our adam"]))
    arguments = row.configure(rng, len(lrs))
    pair.add(row, arguments)
    return pair, arguments


def exactly_cosine(pair, arguments):
    """CosineAnnealingLR in extended precision; its recursion in float64 loses digits at each low point."""
    if "T_max" not in arguments:
        return None
    low, span = np.longdouble(arguments["eta_min"]), arguments["T_max"]

    def judge(i):
        base, t = np.longdouble(pair.scheds[0][0].base_lrs[i]), pair.scheds[0][0].last_epoch % (2 * span)
        return low + (base - low) * np.cos(np.pi * np.longdouble(0.5) * t / span) ** 2

    return judge


def edit(rng, pair):
    """The user writes a rate into one group."""
    i, x, factor = rng.randrange(8), rng.uniform(0.01, 1.0), rng.random() < 0.5

    def write(opt, _):
        group = opt.param_groups[i % len(opt.param_groups)]
        group["lr"] = group["lr"] * x if factor else x

    pair.do(write)


def compose(rng, opt, module, depth):
    """A random composition, of those on which torch does not fail: chains of anything, sequences of leaves."""
    if depth and rng.random() < 0.7:
        if rng.random() < 0.5:
            members = [compose(rng, opt, module, depth - 1) for _ in range(rng.randint(1, 3))]
            return module.ChainedScheduler(members, opt)
        leaves = [compose(rng, opt, module, 0) for _ in range(rng.randint(1, 4))]
        milestones = sorted(rng.randint(0, 150) for _ in leaves[1:])
        return module.SequentialLR(opt, leaves, milestones)
    row = rng.choice([r for r in SCHEDULERS if r.name not in ("OneCycleLR", "SWALR", "ConstantLR")])
    arguments = row.configure(rng, len(opt.param_groups))
    if arguments.get("total_iters") == 0:
        arguments["total_iters"] = 3  # at a milestone torch divides by it
    return getattr(module, row.name)(opt, **arguments)


def check_edits(row, draw):
    """An edit of group["lr"] between steps has torch's effect, class by class."""
    rng = random.Random(SEED + 100 + draw)
    pair, _ = random_case(rng, row)
    for _ in range(300):
        if rng.random() < 0.05:
            edit(rng, pair)
        if not pair.step():
            break
        pair.compare(1e-9)  # torch divides an edit by how far the wave has sunk; that can cost it some digits
