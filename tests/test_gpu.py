# SPDX-License-Identifier: Apache-2.0
"""Properties on a real GPU: `make test-gpu`. Everywhere else the same kernels run emulated and interpreted."""

import pytest
import torch
from cases import VISIBLE
from test_capture import SCHEDULERS
from tolerances import close

import fusedsched
from fusedsched import schedules as S
from fusedsched.runtime.backends import backends
from fusedsched.verify.table import cases
from fusedsched.verify.updates import run, unjudged

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
]
BACKENDS = [name for name in ("cuda", "triton") if torch.cuda.is_available() and backends()[name] is None]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
EAGER, REPLAYS = 5, 1000


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def build(backend, name, params, **options):
    return getattr(fusedsched, name)(params, **{**VISIBLE[name], "backend": backend, **options})


def parameters(*shapes, dtype=torch.float32, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to("cuda", dtype).requires_grad_() for shape in shapes]


def fill(params, update):
    """Gradients that stay where they are."""
    generator = torch.Generator().manual_seed(100 + update)
    for p in params:
        if p.grad is None:
            p.grad = torch.empty_like(p)
        p.grad.copy_(torch.randn(p.shape, generator=generator))


@pytest.mark.parametrize("case", [c for c in cases(quick=True, randoms=24) if unjudged(c) is None], ids=lambda c: c.id)
def test_update_within_the_bound(case, backend):
    def on_gpu(name, params, **options):
        twins = [p.detach().to("cuda").requires_grad_() for p in params]
        return _Mirrored(getattr(fusedsched, name)(twins, **{**options, "backend": backend}), params, twins)

    verdict = run(on_gpu, case, 200)
    assert verdict.passed, str(verdict)


class _Mirrored:
    """An optimizer on the GPU whose parameters the caller sees on the CPU."""

    def __init__(self, optimizer, params, twins):
        self._optimizer, self._params, self._twins = optimizer, params, twins

    def __getattr__(self, name):
        return getattr(self._optimizer, name)

    def step(self):
        for p, twin in zip(self._params, self._twins, strict=True):
            twin.grad = None if p.grad is None else p.grad.to("cuda")
        self._optimizer.step()
        with torch.no_grad():
            for p, twin in zip(self._params, self._twins, strict=True):
                p.copy_(twin)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", VISIBLE)
def test_backends_agree(name, dtype, backend):
    shapes = [(n,) for n in (*range(1, 20), 4095, 4096, 4097, 100_003)]
    results = []
    for device in ("cuda", "cpu"):
        params = [p.detach().to(device).requires_grad_() for p in parameters(*shapes, dtype=dtype)]
        optimizer = build(backend if device == "cuda" else "cpu", name, params)
        for update in range(4):
            fill(params, update)
            optimizer.step()
        results.append([p.detach().cpu() for p in params])
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs, 4, "param")


def test_a_step_never_waits(backend):
    params = parameters((100, 3), 17)
    optimizer = build(backend, "AdamW", params, lr=S.warmup_cosine(0.1, 3, 20))
    scheduler = fusedsched.lr_scheduler.LinearLR(build(backend, "SGD", parameters(9)), total_iters=9)
    for update in range(3):
        fill(params, update)
        optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            for p in params:
                p.grad = torch.ones_like(p)  # elsewhere at each step
            optimizer.step()
            optimizer.zero_grad()
            scheduler.optimizer.step()
            scheduler.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("groups", (1, 465))
def test_one_launch_per_step(groups):
    if "cuda" not in BACKENDS:
        pytest.skip("built without CUDA")
    params = parameters(*[(64,)] * 465)
    size = len(params) // groups
    optimizer = build("cuda", "AdamW", [{"params": params[i : i + size]} for i in range(0, len(params), size)])
    for update in range(3):
        fill(params, update)
        optimizer.step()
    for _ in range(2):  # the first recording of a process may miss its first kernels
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            optimizer.step()
            torch.cuda.synchronize()
    events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    kernels = [e for e in events if not e.name.startswith("Optimizer.")]  # the mark of torch's hook, on the GPU's line
    assert len(kernels) == 1, [e.name for e in kernels]


@pytest.mark.parametrize("name", ("AdamW", "SGD"))
@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_replays_equal_eager_steps(name, schedule):
    if "cuda" not in BACKENDS:
        pytest.skip("built without CUDA")
    scenes = []
    for _ in range(2):
        params = parameters((50, 3), 17, 4097)
        optimizer = build("cuda", name, params)
        scheduler = SCHEDULERS[schedule](optimizer)
        for update in range(EAGER):
            fill(params, update)
            optimizer.step()
            scheduler.step()
        scenes.append((params, optimizer, scheduler))
    (params, optimizer, scheduler), (others, other, rival) = scenes
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
        scheduler.step()
    steps = 30 if schedule == "OneCycleLR" else REPLAYS
    for update in range(steps):
        for group in (params, others):
            fill(group, update % 7)
        graph.replay()
        other.step()
        rival.step()
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))
    assert scheduler.last_epoch == rival.last_epoch == EAGER + steps
    assert scheduler.get_last_lr() == pytest.approx(rival.get_last_lr(), rel=1e-13)


@pytest.mark.parametrize("lr", ("native", "CosineAnnealingLR"))
def test_forward_backward_and_step_in_one_graph(lr):
    """With a drop-in scheduler, whose tables are written in the capture: no temporary of the graph may lie there."""
    if "cuda" not in BACKENDS:
        pytest.skip("built without CUDA")
    results = []
    for graphed in (True, False):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).cuda()
        x = torch.randn(32, 8, device="cuda")
        native = lr == "native"
        optimizer = build("cuda", "AdamW", model.parameters(), lr=S.warmup_cosine(0.01, 5, 60) if native else 0.01)
        scheduler = None if native else fusedsched.lr_scheduler.CosineAnnealingLR(optimizer, T_max=60)

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
        if graphed:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                train()
            for _ in range(50):
                graph.replay()
        else:
            for _ in range(50):
                train()
        results.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))


def test_tokens_a_new_schedule_and_telemetry_in_replays(backend):
    schedule, tokens = S.linear(0.1, 0.01, steps=5_000, unit="token"), torch.tensor(0, device="cuda")
    params = parameters(50, 4097)
    optimizer = build(backend, "AdamW", params, lr=schedule)
    optimizer.enable_telemetry(64)

    def train():
        optimizer.advance(tokens=tokens)
        optimizer.step()

    for update in range(EAGER):
        fill(params, update)
        train()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        train()
    expected, seen = [], 0
    for update in range(40):
        if update == 20:
            schedule = S.cosine(0.2, 0.0, steps=1_000, unit="token")
            optimizer.set_schedule("lr", schedule)
        tokens.fill_(update)
        fill(params, update)
        graph.replay()
        seen += update
        expected.append(schedule(seen))
    telemetry = optimizer.telemetry(last=40)
    assert telemetry.lr.flatten().tolist() == pytest.approx(expected, rel=1e-14)
    assert telemetry.update.tolist() == list(range(EAGER, EAGER + 40))
    tokens.fill_(-1)
    graph.replay()
    torch.cuda.synchronize()
    with pytest.raises(ValueError, match="negative number of tokens"):
        optimizer.step()
    assert optimizer._runtime.clocks.read()[2] == seen


@pytest.mark.parametrize("name", VISIBLE)
def test_grad_scaler(name, backend):
    params, plain = parameters(40, 7), parameters(40, 7)
    optimizer, other = build(backend, name, params), build(backend, name, plain)
    scaler = torch.amp.GradScaler("cuda", init_scale=64.0, growth_interval=1000)
    for update in range(6):
        scaler.scale(torch.zeros((), device="cuda"))  # makes the scale
        fill(params, update)
        fill(plain, update)
        for p in params:
            p.grad.mul_(float(scaler.get_scale()))
        broken = update in (0, 3)
        if broken:
            params[0].grad[3] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        if not broken:
            other.step()
    assert optimizer.skipped_steps == 2
    for p, q in zip(params, plain, strict=True):
        close(p.detach(), q.detach(), 6, "param")


def test_above_two_to_the_31_elements(backend):
    n = 2**31 + 8
    if torch.cuda.mem_get_info()[0] < 10 * n:
        pytest.skip("too little GPU memory")
    p = torch.zeros(n, dtype=torch.bfloat16, device="cuda").requires_grad_()
    p.grad = torch.ones_like(p)
    optimizer = build(backend, "AdamW", [p], lr=0.5, weight_decay=0.0, eps=0.0)
    optimizer.step()
    assert bool((p.detach()[-16:] == -0.5).all()) and bool((p.detach()[:16] == -0.5).all())
    assert int((p.detach() != -0.5).sum()) == 0
