# SPDX-License-Identifier: Apache-2.0
"""Properties of GreedyLR alone: arguments, states, messages. Its decisions: test_metric_decisions.py."""

import copy
import math

import pytest
import torch
from cases import maker
from cases_lr_schedulers import optimizer as plain
from cases_metric import GREEDY, Oracle, built, groups_of, shown, tensor

import fusedsched
from fusedsched import lr_scheduler as L

KEYS = (
    "factor min_lrs max_lrs patience verbose cooldown warmup cooldown_counter warmup_counter mode threshold "
    "threshold_mode best num_bad_epochs num_good_epochs eps last_epoch smooth window_size reset_start "
    "reset_start_original _last_lr _init_lrs"
).split()
DEFAULTS = dict(min_lr=1e-3, max_lr=1.0, mode="min", threshold_mode="abs", threshold=1e-6, eps=1e-8)


def test_it_is_a_scheduler(product):
    sched = built("greedy", product, [0.4])
    # Trainers call step(metrics) of a scheduler that is a ReduceLROnPlateau.
    assert (
        isinstance(sched, torch.optim.lr_scheduler.ReduceLROnPlateau) and fusedsched.lr_scheduler.GreedyLR is L.GreedyLR
    )
    assert "initial_lr" not in sched.optimizer.param_groups[0] and "step" not in sched.optimizer.__dict__


@pytest.mark.parametrize("smooth", [False, True])
def test_states(product, smooth):
    """The keys of transformers' class, and one; saved and loaded at any time, it continues as ever."""
    options = dict(patience=1, factor=0.5, cooldown=1, warmup=1, smooth=smooth, window_size=3, reset_start=2)
    metrics = [3.0, 2.0, 1.0, 0.5, 2.0, 3.0, 3.0, 3.0, math.inf, 1.0, 4.0, 0.25]
    for at in (0, 2, 5, 9):
        whole, oracle = built("greedy", product, [0.4, 0.1], **options), Oracle([0.4, 0.1], **DEFAULTS, **options)
        for metric in metrics[:at]:
            whole.step(tensor(metric))
            oracle.step(metric)
        state = copy.deepcopy(whole.state_dict())
        assert sorted(state) == sorted([*KEYS, *["_streaming_avg"] * smooth])
        if smooth:
            assert state["_streaming_avg"] == {"window_size": 3, "values": oracle.seen, "sum": oracle.total}
        part = built("greedy", product, [0.4, 0.1], smooth=False)
        part.load_state_dict(state)
        twin = copy.deepcopy(whole)
        for metric in metrics[at:]:
            oracle.step(metric)
            for sched in (whole, part, twin):
                sched.step(tensor(metric))
        for sched in (whole, part, twin):
            assert shown(sched, GREEDY) == oracle.shown()


def test_verbose_prints_on_the_host(capsys):
    sched = built(
        "greedy", maker("cuda"), [0.4], patience=0, factor=0.5, verbose=True, max_lr=0.8, min_lr=0.4, reset_start=1
    )
    for metric in (2.0, 3.0, 3.0):
        sched.step(tensor(metric))
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "Epoch 1: increasing learning rate of group 0 to 8.0000e-01.",
        "Epoch 2: reducing learning rate of group 0 to 4.0000e-01.",
        "Scheduler reset to initial state.",
        "Epoch 3: increasing learning rate of group 0 to 8.0000e-01.",
    ]


BAD = {
    "factor": (dict(factor=1.0), ValueError, r"^Factor should be < 1\.0\."),
    "factor 0": (dict(factor=0.0), ValueError, "invalid factor: 0"),
    "mode": (dict(mode="best"), ValueError, "^mode best is unknown!"),
    "threshold mode": (dict(threshold_mode="no"), ValueError, "^threshold mode no is unknown!"),
    "min_lr": (dict(min_lr=[0.1]), ValueError, "^expected 2 min_lrs, got 1"),
    "max_lr": (dict(max_lr=[0.1] * 3), ValueError, "^expected 2 max_lrs, got 3"),
    "threshold": (dict(threshold=math.nan), ValueError, "invalid threshold: nan"),
    "patience": (dict(patience="many"), TypeError, "patience must be a number"),
    "window_size": (dict(smooth=True, window_size=0), ValueError, "invalid window_size: 0"),
}


@pytest.mark.parametrize("row", BAD)
def test_refused_before_anything_changed(row):
    arguments, error, words = BAD[row]
    opt = plain([0.1, 0.2])
    before = copy.deepcopy(opt.state_dict())
    with pytest.raises(error, match=words):
        L.GreedyLR(opt, **arguments)
    assert opt.state_dict() == before


def test_a_late_group_needs_its_bounds(product):
    sched = built("greedy", product, [0.4], patience=0, factor=0.5)
    sched.step(tensor(2.0))
    sched.optimizer.add_param_group(groups_of([0.3])[0])
    with pytest.raises(RuntimeError, match="min_lrs has 1 values, the optimizer has 2 param groups"):
        for _ in range(2):
            sched.step(tensor(1.0))
            sched.optimizer.step()
    for name in ("min_lrs", "max_lrs", "_init_lrs"):
        getattr(sched, name).append(0.6)
    sched.step(tensor(0.5))
    assert [group["lr"] for group in sched.optimizer.param_groups] == [1.0, 0.6]
