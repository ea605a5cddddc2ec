# SPDX-License-Identifier: Apache-2.0
"""Troubles with GradScaler and skipped steps. More about ours, and the warning about the order: test_amp.py."""

import pytest
import torch
from amp_runs import SCALE, give_scaled, scaler
from cases import VISIBLE, torch_twin
from scripting import give_gradients, parameters
from watching import Recording

import fusedsched as fs
from fusedsched import lr_scheduler as L, schedules as S


def torch_fused(name, params, **options):
    return getattr(torch.optim, name)(params, fused=True, **options)


@pytest.fixture
def uninitialized_is_nan():
    """Memory that nobody wrote shows: PyTorch fills it with NaN in its deterministic mode."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_momentum_is_garbage_after_a_skipped_first_step(uninitialized_is_nan, product):
    """torch's fused SGD makes the buffer, skips what would have filled it, and takes it for filled at the next step."""
    for make in (torch_fused, product):
        params = parameters(4)
        optimizer, scaling = make("SGD", params, lr=0.1, momentum=0.9), scaler()
        for update in range(2):
            give_scaled(params, update, scaling.get_scale(), broken=update == 0)
            scaling.step(optimizer)
            scaling.update()
        assert bool(params[0].isnan().all()) is (make is torch_fused)


def test_a_gradient_that_comes_late_breaks_momentum(product):
    """torch's fused SGD raises TypeError when a parameter gets its first gradient later than others."""
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
    """A warmup loses its beginning. A native schedule counts applied updates, and so does a drop-in one if asked to."""

    def first_rate(optimizer, scheduler=None):
        params, scaling = optimizer.param_groups[0]["params"], scaler()
        for update in range(4):
            give_scaled(params, update, SCALE, broken=update < 3)
            rate = float(optimizer.param_groups[0]["lr"])
            scaling.step(optimizer)
            scaling.update()
            if scheduler is not None:
                scheduler.step()
        return rate

    torchs = torch_twin(name, parameters(4), **{**VISIBLE[name], "lr": 0.1})
    scheduler = torch.optim.lr_scheduler.LinearLR(torchs, start_factor=0.25, total_iters=6)
    assert first_rate(torchs, scheduler) == pytest.approx(0.0625)
    ours = product(name, parameters(4), **{**VISIBLE[name], "lr": S.linear(0.025, 0.1, steps=6)})
    assert first_rate(ours) == pytest.approx(0.025)
    ours = product(name, parameters(4), **{**VISIBLE[name], "lr": 0.1})
    scheduler = L.LinearLR(ours, start_factor=0.25, total_iters=6, advance_on_skip=False)
    assert first_rate(ours, scheduler) == pytest.approx(0.025)


def test_nobody_says_that_a_step_was_skipped(product):
    """With torch one compares the scale before and after, which reads it twice. Ours counts on the device."""
    for make in (torch_fused, product):
        params = parameters(4)
        optimizer, scaling = make("AdamW", params, lr=0.1), scaler()
        for update in range(3):
            give_scaled(params, update, scaling.get_scale(), broken=update == 1)
            before = scaling.get_scale()
            assert scaling.step(optimizer) is None
            scaling.update()
            assert (scaling.get_scale() < before) is (update == 1)
            assert Recording(scaling.get_scale).waits == 1
            if make is product:
                assert optimizer.skipped_steps == int(update >= 1)


def test_fused_optimizers_are_refused_for_clipping():
    """Lightning refuses its gradient clipping where an optimizer says that it unscales by itself. With ours,
    `fused=False` leaves that to the GradScaler and changes nothing else."""
    assert torch_fused("AdamW", parameters(4))._step_supports_amp_scaling
    optimizer = fs.AdamW(parameters(4), fused=False)
    assert not optimizer._step_supports_amp_scaling and optimizer.backend == fs.AdamW(parameters(4)).backend


@pytest.mark.parametrize("module", (L, torch.optim.lr_scheduler), ids=("ours", "torch"))
def test_step_is_no_patched_method(module):
    """torch's schedulers replace `optimizer.step` by a wrapper that holds it; several packages do so again."""
    torchs, ours = torch.optim.AdamW(parameters(4)), fs.AdamW(parameters(4))
    for optimizer in (torchs, ours):
        module.StepLR(optimizer, 3)
        assert ("step" in vars(optimizer)) is (optimizer is torchs)
