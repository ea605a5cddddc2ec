# SPDX-License-Identifier: Apache-2.0
"""Two runs in step: the same model, the same batches, the same settings; only the optimizer's module differs."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fusedsched.demo.model import ByteModel
from fusedsched.demo.text import batch


@dataclass(frozen=True)
class Config:
    """All numbers of a run. Times are in steps, losses in nats per byte."""

    steps: int = 1000
    warmup: int = 100
    peak: float = 2e-3
    final: float = 2e-5
    weight_decay: float = 0.1
    clip: float = 1.0
    batch: int = 16
    length: int = 128
    width: int = 128
    heads: int = 4
    depth: int = 5
    evaluations: int = 10
    seed: int = 0


@dataclass
class Run:
    """One of the two runs and what was measured of it. `step_times` is opt.step() + sched.step(), in seconds."""

    name: str
    model: ByteModel
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    lrs: list[list[float]] = field(default_factory=list)  # [step][group]
    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    step_times: list[float] = field(default_factory=list)
    zero_times: list[float] = field(default_factory=list)
    loop_times: list[float] = field(default_factory=list)


def groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and other vectors do not."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def start(name: str, optim: Any, lr_scheduler: Any, config: Config, device: torch.device) -> Run:
    """A fresh run. `optim` and `lr_scheduler` are modules: torch's, or ours in their place. That is the whole swap."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = ByteModel(config.width, config.heads, config.depth, config.length).to(device)
    optimizer = optim.AdamW(groups(model, config.weight_decay), lr=config.peak, betas=(0.9, 0.95), fused=True)
    scheduler = lr_scheduler.SequentialLR(
        optimizer,
        [
            lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=config.warmup),
            lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.steps - config.warmup, eta_min=config.final),
        ],
        milestones=[config.warmup],
    )
    return Run(name, model, optimizer, scheduler)


def _now(device: torch.device) -> float:
    if device.type == "cuda":  # else only the launches would be timed
        torch.cuda.synchronize(device)
    return time.perf_counter()


def train_step(run: Run, inputs: Tensor, targets: Tensor, clip: float) -> None:
    """One update, with its parts timed."""
    device = inputs.device
    begin = _now(device)
    loss = run.model.loss(inputs, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), clip)
    run.lrs.append([float(group["lr"]) for group in run.optimizer.param_groups])
    before = _now(device)
    run.optimizer.step()
    run.scheduler.step()
    after = _now(device)
    run.optimizer.zero_grad()
    end = _now(device)
    run.losses.append(loss.item())
    run.step_times.append(after - before)
    run.zero_times.append(end - after)
    run.loop_times.append(end - begin)


@torch.no_grad()
def evaluate(model: ByteModel, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Mean loss over fixed batches."""
    return sum(model.loss(inputs, targets).item() for inputs, targets in batches) / len(batches)


def train(runs: list[Run], train_text: Tensor, held_out: Tensor, config: Config, device: torch.device) -> Iterator[int]:
    """Trains all runs and yields the number of finished steps.

    The runs take turns within every step, and who goes first alternates, so that a disturbance of the machine falls
    on both alike.
    """
    draw = torch.Generator().manual_seed(config.seed + 1)
    draw_held_out = torch.Generator().manual_seed(config.seed + 2)
    checks = [batch(held_out, 2 * config.batch, config.length, draw_held_out) for _ in range(6)]
    checks = [(inputs.to(device), targets.to(device)) for inputs, targets in checks]
    every = max(1, config.steps // config.evaluations)
    for step in range(1, config.steps + 1):
        inputs, targets = (part.to(device) for part in batch(train_text, config.batch, config.length, draw))
        for run in runs if step % 2 else reversed(runs):
            train_step(run, inputs, targets, config.clip)
        if step % every == 0 or step == config.steps:
            for run in runs:
                run.validation.append((step, evaluate(run.model, checks)))
        yield step
