# SPDX-License-Identifier: Apache-2.0
"""Random programs that are run twice, with torch's optimizer on its plain path and with ours: whatever they do, both
must agree. `python tests/random_runs.py FIRST LAST [BACKEND]` runs many and says which seed differs.
"""

import copy
import random
import sys
import warnings

import torch
from cases import BACKENDS, maker, torch_twin
from random_actions import ACTIONS, World, build, swap_states, update
from torch import Tensor
from torch.optim import lr_scheduler as theirs

from fusedsched import lr_scheduler as ours


def saved(world):
    return copy.deepcopy((world.optimizer.state_dict(), [s.state_dict() for s in world.schedulers]))


def differs(mine, other):
    """What is not alike, in words; None."""
    a, b = mine.optimizer, other.optimizer
    numbers = [g["lr"] for g in b.param_groups] + list(other.params)
    other.rounded |= any(isinstance(x, Tensor) and x.dtype == torch.float32 for x in numbers)
    limit = 2e-4 if other.rounded else 1e-10
    for i, (p, q) in enumerate(zip(mine.params, other.params, strict=True)):
        pairs = {"value": (p.detach(), q.detach())}
        s, t = a.state.get(p, {}), b.state.get(q, {})
        if {k for k, v in s.items() if v is not None} != {k for k, v in t.items() if v is not None}:
            return f"parameter {i} has the state {sorted(s)}, torch's {sorted(t)}"
        pairs |= {key: (s[key], t[key]) for key in s if t[key] is not None}
        for key, (x, y) in pairs.items():
            if x.shape != y.shape or x.dtype != y.dtype:
                return f"{key} of parameter {i}: {x.dtype} {x.shape}, torch {y.dtype} {y.shape}"
            if x.numel() and not torch.allclose(x, y, rtol=limit, atol=limit):
                return f"{key} of parameter {i} is off by {float((x - y).abs().max()):.3g}"
    for i, (g, h) in enumerate(zip(a.param_groups, b.param_groups, strict=True)):
        for key in ("lr", "initial_lr", "momentum", "betas", "weight_decay", "eps", "maximize"):
            if key in h:
                x, y = ([float(v) for v in (d[key] if key == "betas" else (d[key],))] for d in (g, h))
                if any(abs(v - w) > 1e-6 * max(abs(w), 1e-3) for v, w in zip(x, y, strict=True)):
                    return f"{key} of group {i}: {x}, torch {y}"
    for s, t in zip(mine.schedulers, other.schedulers, strict=True):
        for key in ("last_epoch", "_step_count", "num_bad_epochs", "best", "T_cur"):
            if getattr(s, key, None) != getattr(t, key, None):
                return f"{type(s).__name__}.{key}: {getattr(s, key, None)}, torch {getattr(t, key, None)}"
        if any(abs(float(v) - float(w)) > 1e-6 for v, w in zip(s.get_last_lr(), t.get_last_lr(), strict=True)):
            return f"{type(s).__name__}.get_last_lr(): {s.get_last_lr()}, torch {t.get_last_lr()}"
    return None


def run(seed, backend, steps=12):
    """What was done. Raises AssertionError with that, and what differs, where the worlds do."""
    worlds = World(maker(backend), ours), World(torch_twin, theirs)
    master, history = random.Random(seed), []

    def both(action):
        seed = master.randrange(2**31)
        history.append(action.__name__)
        if action is swap_states:
            for world, other in zip(worlds, worlds[::-1], strict=True):
                world.saved_by_other = saved(other)
        outcomes = []
        for world in worlds:
            try:
                action(world, random.Random(seed))
                outcomes.append(None)
            except Exception as error:  # noqa: BLE001
                outcomes.append(f"{type(error).__name__}: {error}")
        return outcomes if any(outcomes) else None

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raised = both(build)
        assert raised is None, raised
        for _ in range(steps):
            for _ in range(master.randrange(3)):
                raised = both(master.choice(ACTIONS))
                if raised:
                    break
            raised = raised or both(update)
            if raised:
                assert all(raised), (history, raised)
                return history  # both refuse it
            found = differs(*worlds)
            assert found is None, (history, found)
    return history


if __name__ == "__main__":
    first, last = int(sys.argv[1]), int(sys.argv[2])
    chosen = sys.argv[3:] or BACKENDS
    bad = 0
    for seed in range(first, last):
        for backend in chosen:
            try:
                run(seed, backend)
            except AssertionError as error:
                bad += 1
                print(seed, backend, str(error)[-400:])
    print(bad, "differ")
