# SPDX-License-Identifier: Apache-2.0
"""Picks the number of threads and of steps, so that the demo takes about three minutes on any machine, busy or not."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import torch

from fusedsched.demo.text import batch
from fusedsched.demo.train import Config, start, train_step

SECONDS = 180.0  # for both runs
FEWEST = 50  # steps, however slow the machine is
_TRIED = 3  # steps, after one that is not timed


def seconds_per_step(config: Config, device: torch.device, text: torch.Tensor) -> float:
    """The median time of some training steps of one run, with the present number of threads."""
    run = start("trial", torch.optim, torch.optim.lr_scheduler, config, device)
    draw = torch.Generator().manual_seed(config.seed)
    for _ in range(1 + _TRIED):
        inputs, targets = (part.to(device) for part in batch(text, config.batch, config.length, draw))
        train_step(run, inputs, targets, config.clip)
    run.finish()
    return median(run.loop_times[1:])


def choose_threads(config: Config, device: torch.device, text: torch.Tensor) -> float:
    """Sets one thread or all of them, whichever is faster, and returns the seconds of a step of one run.

    On a machine with other work, threads wait for each other's time slices, and one thread may be faster.
    """
    most = torch.get_num_threads()
    times = {}
    for threads in dict.fromkeys((most, 1)) if device.type == "cpu" else (most,):
        torch.set_num_threads(threads)
        times[threads] = seconds_per_step(config, device, text)
    best = min(times, key=times.__getitem__)
    torch.set_num_threads(best)
    return times[best]


def shortened(config: Config, seconds: float) -> Config:
    """The configuration with as many steps as both runs can take in `SECONDS`, at most those that it has.

    >>> shortened(Config(steps=1000), 0.05).steps, shortened(Config(steps=1000), 0.9).steps
    (1000, 100)
    """
    steps = max(FEWEST, min(config.steps, int(SECONDS / (2 * seconds))))
    return replace(config, steps=steps, warmup=max(1, steps // 10))
