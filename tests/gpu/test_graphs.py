# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: replays equal eager steps to the bit, for every scheduler, with GradScaler, metrics and tokens."""

import pytest
import torch
from cases_rates import LRS
from scenes import EAGER, SCHEDULERS, SHAPES, Scene, build, fill, parameters, replays_equal_eager_steps

from fusedsched import lr_scheduler as L, schedules as S


def needs_graphs_of(backend, kind="floats"):
    if backend == "triton" and kind == "floats":
        pytest.skip("on Triton, schedulers in graphs need a tensor lr")


@pytest.fixture
def replays(gpu):
    return 300 if gpu.real else 20


@pytest.mark.smoke
@pytest.mark.parametrize("name", ("AdamW", "SGD"))
def test_native_schedules(name, backend, gpu, replays):
    options = {"lr": S.warmup_cosine(0.1, 4, 400)}
    replays_equal_eager_steps(gpu, Scene(backend, name, **options), Scene(backend, name, **options), replays)


@pytest.mark.parametrize("name", ("AdamW", "SGD"))
@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_schedulers_of_float_rates(name, schedule, backend, gpu, replays):
    needs_graphs_of(backend)
    scenes = [Scene(backend, name, SCHEDULERS[schedule]) for _ in range(2)]
    replays_equal_eager_steps(gpu, *scenes, min(replays, 20) if schedule == "OneCycleLR" else replays)


@pytest.mark.smoke
def test_edits_between_replays(backend, gpu):
    needs_graphs_of(backend)

    def between(update, scene):
        if update % 5 == 2:
            scene.optimizer.param_groups[0]["lr"] *= 0.5
            scene.optimizer.sync_hparams()

    scenes = [Scene(backend, "AdamW", SCHEDULERS["CosineAnnealingLR"]) for _ in range(2)]
    replays_equal_eager_steps(gpu, *scenes, 20, between)


@pytest.mark.smoke
def test_a_grad_scaler_in_the_graph(backend, gpu):
    """`found_inf` and `grad_scale` are tensors that a replay reads anew: a skipped update changes nothing."""
    scenes = [Scene(backend, "AdamW", lr=S.warmup_cosine(0.1, 4, 400)) for _ in range(2)]
    for scene in scenes:
        scene.found_inf = torch.zeros((), device=gpu.device)
        scene.grad_scale = torch.full((), 8.0, device=gpu.device)
        scene.optimizer.found_inf, scene.optimizer.grad_scale = scene.found_inf, scene.grad_scale

    def between(update, scene):
        scene.found_inf.fill_(float(update % 4 == 1))

    replays_equal_eager_steps(gpu, *scenes, 12, between)
    assert scenes[0].optimizer.skipped_steps == 3


@pytest.mark.smoke
def test_a_metric_in_the_graph(backend, gpu):
    needs_graphs_of(backend)
    scenes = []
    for _ in range(2):
        scene = Scene(backend, "SGD", lambda opt: L.ReduceLROnPlateau(opt, patience=1, factor=0.5), steps=0)
        scene.metric = torch.ones((), device=gpu.device)
        scene.step = lambda s=scene: (s.optimizer.step(), s.scheduler.step(s.metric))
        for update in range(EAGER):
            scene.train(update)
        scenes.append(scene)

    def between(update, scene):
        scene.metric.fill_((2.0, 1.0, 0.5, 3.0, 3.0, 3.0, float("nan"))[update % 7])

    replays_equal_eager_steps(gpu, *scenes, 14, between)


def test_rates_in_tensors_of_torchs_optimizer(backend, real_gpu):
    scenes = []
    for _ in range(2):
        params = parameters(*[(5,)] * len(LRS))
        groups = [{"params": [p], "lr": torch.tensor(lr, device="cuda")} for p, lr in zip(params, LRS, strict=True)]
        opt = torch.optim.AdamW(groups, capturable=True)
        opt._fusedsched_backend = backend
        sched = SCHEDULERS["CosineAnnealingLR"](opt)
        for update in range(EAGER):
            fill(params, update)
            opt.step()
            sched.step()
        scenes.append((params, opt, sched))
    (params, opt, sched), (others, twin, rival) = scenes
    replay = real_gpu.record(lambda: (opt.step(), sched.step()))
    for update in range(200):
        if update % 50 == 7:
            for o in (opt, twin):
                o.param_groups[1]["lr"].mul_(0.5)
        for group in (params, others):
            fill(group, update % 7)
        replay()
        twin.step()
        rival.step()
    assert [g["lr"].item() for g in opt.param_groups] == [g["lr"].item() for g in twin.param_groups]
    assert sched.last_epoch == rival.last_epoch == EAGER + 200
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))


@pytest.mark.parametrize("lr", ("native", "CosineAnnealingLR"))
def test_forward_backward_and_step_in_one_graph(lr, backend, real_gpu):
    """With a scheduler, whose tables are written in the capture: no temporary of the graph may lie there."""
    if lr != "native":
        needs_graphs_of(backend)
    results = []
    for graphed in (True, False):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).cuda()
        x = torch.randn(32, 8, device="cuda")
        native = lr == "native"
        optimizer = build(backend, "AdamW", model.parameters(), lr=S.warmup_cosine(0.01, 5, 60) if native else 0.01)
        scheduler = None if native else L.CosineAnnealingLR(optimizer, T_max=60)

        def train(model=model, optimizer=optimizer, scheduler=scheduler, x=x):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                train()
        torch.cuda.current_stream().wait_stream(stream)
        run = real_gpu.record(train) if graphed else train
        for _ in range(50):
            run()
        results.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))


@pytest.mark.smoke
def test_tokens_a_new_schedule_and_telemetry(backend, gpu):
    schedule, tokens = S.linear(0.1, 0.01, steps=5_000, unit="token"), torch.tensor(0, device=gpu.device)
    params = parameters(*SHAPES)
    optimizer = build(backend, "AdamW", params, lr=schedule)
    optimizer.enable_telemetry(64)

    def train():
        optimizer.advance(tokens=tokens)
        optimizer.step()

    for update in range(EAGER):
        fill(params, update)
        train()
    replay, expected, seen = gpu.record(train), [], 0
    for update in range(40):
        if update == 20:
            schedule = S.cosine(0.2, 0.0, steps=1_000, unit="token")
            optimizer.set_schedule("lr", schedule)
        tokens.fill_(update)
        fill(params, update)
        replay()
        seen += update
        expected.append(schedule(seen))
    telemetry = optimizer.telemetry(last=40)
    assert telemetry.lr.flatten().tolist() == pytest.approx(expected, rel=1e-14)
    assert telemetry.update.tolist() == list(range(EAGER, EAGER + 40))
    tokens.fill_(-1)
    replay()
    gpu.synchronize()
    with pytest.raises(ValueError, match="negative number of tokens"):
        optimizer.step()
    assert optimizer._runtime.clocks.read()[2] == seen


@pytest.mark.parametrize("mode", ("default", "reduce-overhead", "max-autotune-no-cudagraphs"))
def test_compiled_steps(mode, backend, real_gpu):
    """torch.compile, with graphs of its own in "reduce-overhead"."""
    scenes = [Scene(backend, lr=torch.tensor(0.01, device="cuda"), schedule=SCHEDULERS["CosineAnnealingLR"])]
    scenes.append(Scene(backend, lr=torch.tensor(0.01, device="cuda"), schedule=SCHEDULERS["CosineAnnealingLR"]))
    run = torch.compile(scenes[0].step, mode=mode)
    for update in range(EAGER, 12):
        for scene in scenes:
            fill(scene.params, update)
        run()
        scenes[1].step()
    assert scenes[0].numbers() == scenes[1].numbers()
