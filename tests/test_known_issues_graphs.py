# SPDX-License-Identifier: Apache-2.0
"""What docs/known-issues.md says of CUDA graphs and of GradScaler, shown with torch and with this package.

A capture of torch is a model (watching.py), one of this package the emulated capture.
"""

import pytest
import torch
from amp_runs import give_scaled, scaler
from cases import VISIBLE, torch_twin
from scripting import give_gradients, parameters
from test_capture import both, emulated, fill, scene
from watching import Recording

import fusedsched as fs
from fusedsched import lr_scheduler as L, schedules as S

T = torch.optim.lr_scheduler
TORCH = {
    "AdamW": dict(lr=torch.tensor(0.1), weight_decay=0.5, fused=True),  # reads a tensor lr through its address
    "SGD": dict(lr=0.1, momentum=0.5, foreach=False),
}


def torch_fused(name, params, **options):
    return getattr(torch.optim, name)(params, fused=True, **options)


def torch_scene(name, schedule=None):
    params = parameters((5, 3), 17)
    options = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in TORCH[name].items()}
    optimizer = getattr(torch.optim, name)(params, **options)
    give_gradients(params)
    optimizer.step()
    return params, optimizer, schedule and schedule(optimizer)


def replays_equal_eager_steps(build, capture, between=lambda o, update: None):
    """Whether they do. `build()`: parameters whose gradients stay in place, optimizer, scheduler. `between(optimizer,
    update)`: what is written before each replay or step."""
    ends = []
    for graphed in (True, False):
        params, optimizer, scheduler = build()
        call = both(optimizer, scheduler)
        fill(params, 9)
        step = capture(call) if graphed else call
        for update in range(3):
            between(optimizer, update)
            getattr(optimizer, "sync_hparams", int)()
            fill(params, update)
            step()
        ends.append([p.detach() for p in params])
    return all(torch.equal(p, q) for p, q in zip(*ends, strict=True))


def torchs(name, schedule=None, between=lambda o, update: None):
    def build():
        params, optimizer, scheduler = made = torch_scene(name, schedule)
        if built:  # the model of a capture runs what it records; the other run has one step more
            fill(params, 9)
            both(optimizer, scheduler)()
        built.append(made)
        return made

    built = []
    return replays_equal_eager_steps(build, lambda call: Recording(call).replay, between)


def ours(name, schedule=None, between=lambda o, update: None, **options):
    def capture(call):
        graph = emulated().record(call)
        return lambda: emulated().replay(graph)

    return replays_equal_eager_steps(lambda: scene(name, schedule, **options), capture, between)


@pytest.mark.parametrize("name", TORCH)
def test_the_model_of_a_capture_is_right(name):
    """Where nothing changes, replays equal eager steps; so what differs below is what was frozen."""
    assert torchs(name)


FROZEN = {
    "SGD": [("lr", 0.01), ("momentum", 0.9), ("weight_decay", 0.1)],
    "AdamW": [("weight_decay", 0.0), ("betas", (0.5, 0.9)), ("eps", 0.1)],
}


@pytest.mark.parametrize("name, key, value", [(n, *row) for n, rows in FROZEN.items() for row in rows])
def test_numbers_are_frozen_in_a_graph(name, key, value):
    def write(optimizer, update):
        for group in optimizer.param_groups:
            group[key] = value

    assert not torchs(name, between=write) and ours(name, between=write)


SCHEDULES = {
    "a scheduler, float lr": ("SGD", lambda m: lambda o: m.StepLR(o, 2, 0.5)),
    "a scheduler, tensor lr": ("AdamW", lambda m: lambda o: m.StepLR(o, 2, 0.5)),
    "cycled betas": ("AdamW", lambda m: lambda o: m.OneCycleLR(o, 0.2, total_steps=9)),
}


@pytest.mark.parametrize("row", SCHEDULES)
def test_a_scheduler_is_frozen_in_a_graph(row):
    """A float lr: nothing of sched.step() is in the graph. A tensor lr: what StepLR decided at the capture is."""
    name, schedule = SCHEDULES[row]
    assert not torchs(name, schedule(T)) and ours(name, schedule(L))


def test_a_ramp_of_weight_decay_is_frozen_in_a_graph():
    """As a training loop writes it with torch, between steps; ours is a schedule."""
    ramp = S.linear(0.0, 0.5, steps=4)
    assert not torchs("AdamW", between=lambda o, update: o.param_groups[0].update(weight_decay=ramp(update)))
    assert ours("AdamW", weight_decay=ramp)


def test_a_flag_is_needed_for_a_capture():
    """torch: `capturable`, which refuses parameters on the CPU. SGD has no flag and freezes its numbers silently."""
    params = parameters(4)
    optimizer = torch.optim.AdamW(params, lr=0.1, capturable=True)
    give_gradients(params)
    with pytest.raises(AssertionError, match="capturable=True, params and state_steps must be on supported devices"):
        optimizer.step()
    assert "capturable" not in torch.optim.SGD(params, lr=0.1).param_groups[0]
    assert all(ours("AdamW", capturable=capturable) for capturable in (False, True))


def test_launches_grow_with_the_groups():
    params = parameters(*[(3,)] * 20)
    optimizer = torch.optim.AdamW([{"params": [p], "lr": 0.1 + i} for i, p in enumerate(params)], fused=True)
    give_gradients(params)
    optimizer.step()
    assert Recording(optimizer.step).count() == 2 * 20
    _, optimizer, _ = scene("AdamW")
    for p in parameters(*[(3,)] * 20):
        p.grad = torch.zeros_like(p)
        optimizer.add_param_group({"params": [p], "lr": 0.2})
    optimizer.step()
    assert emulated().nodes(emulated().record(optimizer.step)) == 1


# GradScaler


def behind_a_scaler(optimizer, broken, updates, after=lambda: None):
    """Trains; gradients of the updates in `broken` are infinite. The rate before each update."""
    params, scaling, rates = optimizer.param_groups[0]["params"], scaler(), []
    for update in range(updates):
        give_scaled(params, update, scaling.get_scale(), broken=update in broken)
        rates.append(float(optimizer.param_groups[0]["lr"]))
        before = scaling.get_scale()
        scaling.step(optimizer)
        scaling.update()
        assert (scaling.get_scale() < before) is (update in broken)
        after()
    return rates


def test_momentum_is_garbage_after_a_skipped_first_step(product):
    """torch's fused SGD makes the buffer, skips what would have filled it, and takes it for filled at the next step.
    In the deterministic mode memory that was never written is NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        for make in (torch_fused, product):
            params = parameters(4)
            behind_a_scaler(make("SGD", params, lr=0.1, momentum=0.9), broken=(0,), updates=2)
            assert bool(params[0].isnan().all()) is (make is torch_fused)
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_gradient_that_comes_late_breaks_momentum(product):
    for make in (torch_fused, product, torch_twin):
        params = parameters(4, 5)
        optimizer = make("SGD", params, lr=0.1, momentum=0.9)
        give_gradients(params[:1])
        optimizer.step()
        give_gradients(params)
        if make is torch_fused:
            with pytest.raises(TypeError, match="NoneType"):
                optimizer.step()
        else:
            optimizer.step()


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("name", VISIBLE)
def test_the_first_rates_are_lost_when_the_first_steps_are_skipped(name, product):
    """A warmup loses its beginning. Native schedules count applied updates, drop-in ones do if they are asked to."""

    def last_rate(optimizer, module=None, **options):
        warmup = module and module.LinearLR(optimizer, start_factor=0.25, total_iters=6, **options)
        return behind_a_scaler(optimizer, (0, 1, 2), 4, warmup.step if warmup else lambda: None)[-1]

    options = {**VISIBLE[name], "lr": 0.1}
    assert last_rate(torch_twin(name, parameters(4), **options), T) == pytest.approx(0.0625)
    assert last_rate(product(name, parameters(4), **options), L, advance_on_skip=False) == pytest.approx(0.025)
    options["lr"] = S.linear(0.025, 0.1, steps=6)
    assert last_rate(product(name, parameters(4), **options)) == pytest.approx(0.025)


def test_only_the_scale_shows_that_a_step_was_skipped(product):
    """torch: the scale before and after. Ours counts skipped steps on the device."""
    for make in (torch_fused, product):
        optimizer = make("AdamW", parameters(4), lr=0.1)
        behind_a_scaler(optimizer, broken=(1,), updates=3)
        assert Recording(scaler().get_scale).waits == 1
        assert getattr(optimizer, "skipped_steps", None) == (1 if make is product else None)


def test_fused_optimizers_are_refused_for_clipping():
    """Lightning refuses to clip for an optimizer that says that it unscales. `fused=False` leaves that to the
    GradScaler and changes nothing else."""
    assert torch_fused("AdamW", parameters(4))._step_supports_amp_scaling
    optimizer = fs.AdamW(parameters(4), fused=False)
    assert not optimizer._step_supports_amp_scaling and optimizer.backend == fs.AdamW(parameters(4)).backend
