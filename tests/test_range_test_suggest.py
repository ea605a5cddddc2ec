# SPDX-License-Identifier: Apache-2.0
"""Suggestions lie where the loss falls, noise or not, and say why."""

import math
import random

import pytest

from fusedsched.range_test import stand_in, suggest


def curve(lrs, best=1e-2):
    """A loss that is flat, falls around a tenth of `best`, and rises after it."""
    return [2.0 - 1.5 / (1 + (best / 10 / lr) ** 1.5) + 0.2 * (lr / best / 10) ** 2 for lr in lrs]


def test_suggestions_lie_on_the_descent():
    lrs = stand_in.ramp(1e-7, 1.0, 100, "exponential").curve(100)
    losses = curve(lrs)
    bottom = lrs[losses.index(min(losses))]
    valley, steepest, tenth = suggest.suggestions(lrs, losses)
    assert tenth.lr == bottom / 10 and 3e-4 < steepest.lr < 3e-3
    assert 1e-5 < valley.lr < bottom
    assert all(s.reason for s in (valley, steepest, tenth))


def test_noise_does_not_move_the_suggestions_far():
    lrs = stand_in.ramp(1e-7, 1.0, 100, "exponential").curve(100)
    clean = suggest.suggestions(lrs, curve(lrs))
    generator = random.Random(0)
    for _ in range(20):
        noisy = [loss + generator.gauss(0, 0.05) for loss in curve(lrs)]
        found = suggest.suggestions(lrs, suggest.smooth(noisy))
        assert all(abs(math.log10(a.lr / b.lr)) < 1.0 for a, b in zip(found, clean, strict=True))


def test_a_loss_that_never_falls_suggests_nothing():
    found = suggest.suggestions([1e-3, 1e-2, 1e-1, 1.0], [1.0, 1.1, 1.2, 5.0])
    assert [s.lr for s in found] == [None] * 3 and "never fell" in found[0].reason


def test_means_look_both_ways():
    values = [math.sin(i / 3) for i in range(30)]
    wanted = []
    for i in range(30):
        weights = [0.7 ** abs(i - j) for j in range(30)]
        wanted.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    assert suggest.smooth(values, 0.7) == pytest.approx(wanted, rel=1e-12)
