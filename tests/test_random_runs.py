# SPDX-License-Identifier: Apache-2.0
"""A random program cannot tell ours from torch's. `python tests/random_runs.py 0 1000` runs more of them."""

import pytest
import random_runs
from cases import BACKENDS

SEEDS = 25
FOUND = (700266, 712687, 720690)  # what differed once: rates of schedulers whose states were carried along


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", (*range(SEEDS), *FOUND))
def test_a_random_program_sees_what_it_sees_with_torch(seed, backend):
    random_runs.run(seed, backend)


def test_programs_come_to_their_ends():
    """They do something: few end early since both refuse what they do, and every action is among them."""
    histories = [random_runs.run(seed, "reference") for seed in range(SEEDS)]
    assert sum(history.count("update") for history in histories) > 0.9 * 12 * SEEDS
    assert {action.__name__ for action in random_runs.ACTIONS} <= {name for history in histories for name in history}


def test_another_optimizer_is_noticed(monkeypatch):
    def wrong(backend):
        return lambda name, params, **options: random_runs.torch_twin(
            name, params, **{**options, "weight_decay": options.get("weight_decay", 0.0) + 0.01}
        )

    monkeypatch.setattr(random_runs, "maker", wrong)
    with pytest.raises(AssertionError):
        for seed in range(5):
            random_runs.run(seed, "torch")
