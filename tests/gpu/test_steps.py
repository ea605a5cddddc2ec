# SPDX-License-Identifier: Apache-2.0
"""What a step does to the stream, and where it may be called: launches, waits, hooks, streams, GradScaler, resuming."""

import copy

import pytest
import torch
from cases import VISIBLE
from scenes import SCHEDULERS, Scene, build, fill, parameters
from tolerances import close

import fusedsched
from fusedsched import lr_scheduler as L, schedules as S


@pytest.mark.smoke
def test_a_step_never_waits(backend, never_waits):
    params = parameters((100, 3), 17)
    optimizer = build(backend, "AdamW", params, lr=S.warmup_cosine(0.1, 3, 20))
    scheduled = Scene(backend, "SGD", SCHEDULERS["CosineAnnealingLR"])
    for update in range(3):
        fill(params, update)
        optimizer.step()
    with never_waits():
        for _ in range(5):
            for p in params:
                p.grad = torch.ones_like(p)  # elsewhere at each step
            optimizer.step()
            optimizer.zero_grad()
            scheduled.step()


def test_reports_of_a_monitor_never_wait(backend, never_waits):
    p = parameters(1000)[0]
    optimizer = build(backend, "AdamW", [p], lr=S.linear(1.0, 0.0, steps=100))
    watch, reports = fusedsched.Monitor(optimizer, every=5), []

    def train():
        p.grad = torch.ones_like(p)
        optimizer.log_grad_norm(torch.linalg.vector_norm(p.grad))
        optimizer.step()
        reports.append(watch.step())

    for _ in range(3):
        train()
    with never_waits():
        for _ in range(17):
            train()
    updates = [u for report in [*reports, watch.read()] if report for u in report.telemetry.update.tolist()]
    assert updates == list(range(20))


@pytest.mark.smoke
@pytest.mark.parametrize("groups", (1, 465))
def test_one_launch_per_step(groups, backend, gpu):
    if backend != "cuda":
        pytest.skip("Triton has one launch more, which prepares the scalars")
    params = parameters(*[(64,)] * 465)
    size = len(params) // groups
    parts = [{"params": params[i : i + size]} for i in range(0, len(params), size)]
    optimizer = build(backend, "AdamW", parts, lr=S.warmup_cosine(0.1, 3, 50))
    for update in range(3):
        fill(params, update)
        optimizer.step()
    assert len(gpu.launches(optimizer.step)) == 1


@pytest.mark.parametrize("name", VISIBLE)
def test_grad_scaler(name, backend, gpu):
    params, plain = parameters(40, 7), parameters(40, 7)
    optimizer, other = build(backend, name, params), build(backend, name, plain)
    scaler = torch.amp.GradScaler(gpu.device.type, init_scale=64.0, growth_interval=1000)
    for update in range(6):
        scaler.scale(torch.zeros((), device=gpu.device))  # makes the scale
        fill(params, update, float(scaler.get_scale()))
        fill(plain, update)
        broken = update in (0, 3)
        if broken:
            params[0].grad[3] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        if not broken:
            other.step()
    assert optimizer.skipped_steps == 2
    for p, q in zip(params, plain, strict=True):
        close(p.detach().cpu(), q.detach().cpu(), 6, "param")


def test_steps_from_hooks_of_the_backward_pass(backend, gpu):
    """Hooks run in a thread of autograd's, on the stream of the forward pass."""

    def step_of(optimizer):
        def hook(param):
            optimizer.step()
            optimizer.zero_grad()

        return hook

    results = []
    for hooked in (True, False):
        params = parameters(50, 4097)
        optimizers = {p: build(backend, "AdamW", [p]) for p in params}
        if hooked:
            for p, optimizer in optimizers.items():
                p.register_post_accumulate_grad_hook(step_of(optimizer))
        for _ in range(4):
            sum(p.square().sum() for p in params).backward()
            for optimizer in [] if hooked else optimizers.values():
                optimizer.step()
                optimizer.zero_grad()
        results.append([p.detach().cpu() for p in params])
    assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))


def test_steps_on_several_streams(backend, real_gpu):
    """Tables written on one stream, steps on another, a group added on a third, memory taken by others meanwhile."""
    scene, other = Scene(backend), Scene(backend)
    streams = [torch.cuda.Stream() for _ in range(3)]
    for update in range(3, 12):
        stream = streams[update % 3]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            if update == 6:
                for one in (scene, other):
                    one.params += parameters(21)
                    one.optimizer.add_param_group({"params": one.params[-1:]})
            fill(scene.params, update)
            scene.step()
            torch.full((1 << 20,), float("nan"), device="cuda")
        torch.cuda.current_stream().wait_stream(stream)
        fill(other.params, update)
        other.step()
    assert scene.numbers() == other.numbers()


def test_a_second_gpu_leaves_the_first_alone(backend, real_gpu):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    before = torch.cuda.memory_reserved(0)
    params = parameters(50, 17, device="cuda:1")
    optimizer = build(backend, "AdamW", params, lr=S.warmup_cosine(0.1, 3, 20))
    for update in range(3):
        fill(params, update)
        optimizer.step()
    assert torch.cuda.memory_reserved(0) == before and torch.cuda.current_device() == 0


@pytest.mark.parametrize("schedule", ("CosineAnnealingLR", "SequentialLR", None))
def test_a_run_resumed_from_a_checkpoint_is_the_run(schedule, backend, gpu):
    make = SCHEDULERS[schedule] if schedule else None
    options = {} if schedule else {"lr": S.warmup_cosine(0.1, 4, 40)}
    whole = Scene(backend, "AdamW", make, steps=10, **options)
    first = Scene(backend, "AdamW", make, steps=5, **options)
    saved = copy.deepcopy([p.detach().clone() for p in first.params])
    states = copy.deepcopy([x.state_dict() for x in (first.optimizer, first.scheduler) if x is not None])
    second = Scene(backend, "AdamW", make, steps=0, **options)
    with torch.no_grad():
        for p, value in zip(second.params, saved, strict=True):
            p.copy_(value)
    for x, state in zip([x for x in (second.optimizer, second.scheduler) if x is not None], states, strict=True):
        x.load_state_dict(state)
    for update in range(5, 10):
        second.train(update)
    assert second.numbers() == whole.numbers()


def test_a_metric_on_the_device_decides_without_a_wait(backend, gpu, never_waits):
    scene = Scene(backend, "SGD", lambda opt: L.ReduceLROnPlateau(opt, patience=0, factor=0.5), steps=0)
    first, metric = scene.numbers()[2], torch.ones((), device=gpu.device)

    def train():
        scene.optimizer.step()
        scene.scheduler.step(metric)

    fill(scene.params, 0)
    train()
    with never_waits():
        for _ in range(3):
            train()
    assert scene.numbers()[2] == [0.5**3 * x for x in first]
