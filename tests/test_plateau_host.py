# SPDX-License-Identifier: Apache-2.0
"""Laws: steps of ReduceLROnPlateau on the host are torch's, whatever is given to them or set between."""

import pytest
import torch
from test_plateau import pair, same


@pytest.mark.parametrize("metric", ["0.5", b"0.25", 3, True, torch.tensor(0.125)], ids=repr)
def test_a_metric_is_whatever_float_takes(product, metric):
    two = pair(product, patience=0, factor=0.5)
    for value in (1.0, metric, 2.0, metric):
        for sched in two:
            sched.step(value)
    assert same(two)


def test_quiet_steps_see_what_users_set(product):
    """Steps that change no rate take a shorter way; options, methods and counters that were set hold there too."""
    two = pair(product, patience=5, cooldown=2)
    for i, metric in enumerate((2.0, 2.0, 1.5, 3.0, 3.0, 3.0, 1.0, 4.0, 4.0, 4.0, 4.0)):
        for sched in two:
            sched.step(metric)
            if i == 3:
                sched.patience, sched.mode = 0, "max"
            if i == 5:
                sched.best, sched.threshold, sched.optimizer.param_groups[0]["lr"] = 3.5, 0.5, 0.7
            if i == 8:
                sched._is_better = lambda a, best: a == 4.0
        assert same(two), i
