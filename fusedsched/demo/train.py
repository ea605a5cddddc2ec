# SPDX-License-Identifier: Apache-2.0
"""Two runs with the same model, batches and settings; only the module of the optimizer differs."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import fusedsched
from fusedsched.demo.model import ByteModel
from fusedsched.demo.text import batch
from fusedsched.monitor import Monitor, Report
from fusedsched.range_test.log import LossLog


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


class Clock:
    """Time marks, read after the run: of the host, or on a GPU of its stream, since the host runs ahead.

    >>> clock = Clock(torch.device("cpu"))
    >>> clock.seconds(clock.mark(), clock.mark()) >= 0.0
    True
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"

    def mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: Any, end: Any) -> float:
        """Seconds between two marks that the device has passed."""
        return begin.elapsed_time(end) / 1e3 if self._on_gpu else end - begin


@dataclass
class Run:
    """One of the two runs and its measurements. `step_times` is opt.step() + sched.step(), in seconds.

    `losses`: those that have arrived from the device. `report`: the latest of the monitor, which only our run has.
    """

    name: str
    model: ByteModel
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    clock: Clock
    log: LossLog
    monitor: Monitor | None
    report: Report | None = None
    lrs: list[list[float]] = field(default_factory=list)  # [step][group]
    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    marks: list[tuple[Any, Any, Any, Any]] = field(default_factory=list)
    step_times: list[float] = field(default_factory=list)
    zero_times: list[float] = field(default_factory=list)
    loop_times: list[float] = field(default_factory=list)

    def finish(self) -> None:
        """Waits for the device and reads the remaining losses and times."""
        self.losses += self.log.rest(len(self.marks))
        if self.monitor is not None:
            self.report = self.monitor.read() or self.report
        for begin, before, after, end in self.marks:
            self.step_times.append(self.clock.seconds(before, after))
            self.zero_times.append(self.clock.seconds(after, end))
            self.loop_times.append(self.clock.seconds(begin, end))


def groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices with weight decay; biases, norms and other vectors without."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def start(name: str, optim: Any, lr_scheduler: Any, config: Config, device: torch.device) -> Run:
    """A fresh run. `optim` and `lr_scheduler` are modules: torch's or ours. Nothing else differs."""
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
    ours = isinstance(optimizer, fusedsched.AdamW)
    monitor = Monitor(optimizer, every=min(20, max(1, config.steps // 4))) if ours else None
    return Run(name, model, optimizer, scheduler, Clock(device), LossLog(config.steps), monitor)


def train_step(run: Run, inputs: Tensor, targets: Tensor, clip: float) -> None:
    """One update, with its parts timed. The host never waits for the device here."""
    begin = run.clock.mark()
    loss = run.model.loss(inputs, targets)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), clip)
    run.lrs.append([float(group["lr"]) for group in run.optimizer.param_groups])  # numbers, on the host
    if run.monitor is not None:
        run.optimizer.log_grad_norm(norm)
    before = run.clock.mark()
    run.optimizer.step()
    run.scheduler.step()
    after = run.clock.mark()
    run.optimizer.zero_grad()
    run.marks.append((begin, before, after, run.clock.mark()))
    run.log.record(len(run.marks) - 1, loss)
    run.losses += run.log.new()
    if run.monitor is not None:
        run.report = run.monitor.step() or run.report


@torch.no_grad()
def evaluate(model: ByteModel, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Mean loss over fixed batches."""
    return sum(model.loss(inputs, targets).item() for inputs, targets in batches) / len(batches)


def train(runs: list[Run], train_text: Tensor, held_out: Tensor, config: Config, device: torch.device) -> Iterator[int]:
    """Trains all runs and yields the number of finished steps. The host waits for the device when it computes the
    validation loss, and at the end.

    Every step runs both models, in alternating order, so that other load on the machine affects both equally.
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
    for run in runs:
        run.finish()
