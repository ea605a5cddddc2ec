# SPDX-License-Identifier: Apache-2.0
"""GradScaler as users write it: scale and `found_inf` are consumed in the update, and a skipped one changes nothing."""

import copy
import warnings

import pytest
import torch
from amp_runs import (
    ROWS,
    SCALE,
    SKIPPED,
    STEPS,
    check_bounds,
    check_scale,
    check_skipping,
    drive,
    give_scaled,
    micro_batches,
    outcome,
    scaler,
    several_optimizers,
)
from cases import DROP_INS, VISIBLE, torch_twin
from cases_lr_schedulers import CONFIGURED
from compared import equal
from compiling import QUIET
from scripting import assert_same, give_gradients, parameters, seen

from fusedsched import lr_scheduler as L, schedules as S
from fusedsched.verify.table import OPTIMIZERS

pytestmark = QUIET


def torch_fused(name, params, **options):
    return getattr(torch.optim, name)(params, fused=True, **options)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_a_scaled_run_is_as_near_to_float64_as_torchs_plain_one(row, dtype, product):
    check_bounds(product, row, dtype)


@pytest.mark.parametrize("row", ROWS)
def test_scale_and_results_are_those_of_torchs_run(row, product):
    check_scale(product, row)


@pytest.mark.parametrize("before, late", ((0, False), (2, False), (2, True)))
@pytest.mark.parametrize("row", ROWS)
def test_a_skipped_update_changes_nothing_at_all(row, before, late, product):
    check_skipping(product, row, before, late)


@pytest.mark.parametrize("name", VISIBLE)
def test_micro_batches_unscaled_and_clipped(name, product):
    assert_same(micro_batches(product, name), micro_batches(torch_twin, name))


def test_several_optimizers_and_one_scaler(product):
    assert_same(several_optimizers(product, None), several_optimizers(torch_twin, None))


@pytest.mark.parametrize("name", VISIBLE)
def test_native_schedules_wait_for_applied_updates(name, product):
    schedule = S.linear(0.1, 0.2, steps=50)
    history, optimizer = drive(product, name, schedule=schedule)
    applied = [sum(u not in SKIPPED for u in range(update + 1)) for update in range(STEPS)]
    assert [what["next lr"] for what in history] == pytest.approx([schedule(u) for u in applied], rel=1e-15)
    assert optimizer._runtime.clocks.read() == [STEPS - len(SKIPPED), 0, 0, len(SKIPPED)]


@pytest.mark.parametrize("name", DROP_INS)
def test_an_optimizer_without_gradients_beside_one_that_has_some(name, product):
    """torch's fused optimizers take it; its others fail, since the scaler has checked nothing."""
    results = []
    for make in (product, torch_fused):
        params = parameters(4, 5)
        optimizers, scaling = [make(name, [p], **VISIBLE[name]) for p in params], scaler()
        for update in range(3):
            give_scaled(params, update, scaling.get_scale())
            if update != 1:
                params[1].grad = None
            for optimizer in optimizers:
                scaling.step(optimizer)
            scaling.update()
        results.append([seen(o, [p]) for o, p in zip(optimizers, params, strict=True)])
    for ours, torchs in zip(*results, strict=True):
        assert_same(ours, torchs)


def test_a_scale_of_the_users_own_counts_too(product):
    """`optimizer.grad_scale`, which torch multiplies by the scaler's, or takes alone after unscale_."""
    for unscale in (False, True):
        results = []
        for make in (product, torch_fused):
            params = parameters(4, 5)
            optimizer, scaling = make("AdamW", params, **VISIBLE["AdamW"]), scaler()
            for update in range(3):
                give_scaled(params, update, scaling.get_scale() * 8.0)
                if unscale:
                    scaling.unscale_(optimizer)
                optimizer.grad_scale = torch.tensor(8.0)
                scaling.step(optimizer)
                scaling.update()
            results.append(seen(optimizer, params, grads=torch.cat([p.grad for p in params])))
        assert_same(*results)


MISTAKES = {
    "unscaled twice": lambda s, o: (s.unscale_(o), s.unscale_(o)),
    "unscaled after the step": lambda s, o: (s.step(o), s.unscale_(o)),
    "stepped twice": lambda s, o: (s.step(o), s.step(o)),
    "a closure": lambda s, o: s.step(o, closure=lambda: None),
    "an update without a step": lambda s, o: s.update(),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_raise_what_they_raise_with_torch(mistake, product):
    raised = []
    for make in (product, torch_fused):
        params = parameters(4)
        optimizer, scaling = make("AdamW", params, **VISIBLE["AdamW"]), scaler()
        give_scaled(params, 0, SCALE)
        with pytest.raises((RuntimeError, AssertionError)) as error:
            MISTAKES[mistake](scaling, optimizer)
        raised.append((error.type, str(error.value)))
    assert raised[0] == raised[1]


def test_float16_gradients_are_unscaled_in_the_update_alone(product):
    """torch's scaler refuses to unscale them itself, and asks fused optimizers to."""
    params = parameters(40, dtype=torch.float16)
    optimizer, scaling = product("SGD", params, lr=0.5), scaler()
    give_scaled(params, 0, SCALE)
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        scaling.unscale_(optimizer)
    before, grad, scaling = params[0].detach().clone(), params[0].grad.clone(), scaler()
    scaling.step(optimizer)
    assert torch.equal(params[0].detach(), (before.float() - 0.5 * grad.float() / SCALE).half())
    assert torch.equal(params[0].grad, grad / SCALE)


@pytest.mark.parametrize("options", ({"fused": False}, {"differentiable": True}), ids=str)
@pytest.mark.parametrize("name", DROP_INS)
def test_where_the_scaler_does_the_skipping(name, options, product):
    """Optimizers that do not say that they can: the scaler unscales, looks at the flag, and does not call them."""
    results = []
    for make, more in ((product, options), (torch_twin, {})):
        params = [p.detach().clone() for p in parameters(4, 5)]
        optimizer, scaling = make(name, params, **{**VISIBLE[name], **more}), scaler()
        assert not getattr(optimizer, "_step_supports_amp_scaling", False)
        for update in range(4):
            give_scaled(params, update, scaling.get_scale(), update in (0, 2))
            scaling.step(optimizer)
            scaling.update()
        results.append(seen(optimizer, optimizer.param_groups[0]["params"]))
    assert_same(*results)


def test_a_scaler_that_is_switched_off(product):
    results = []
    for enabled in (False, None):
        params = parameters(4)
        optimizer, scaling = product("AdamW", params, **VISIBLE["AdamW"]), torch.amp.GradScaler("cpu", enabled=False)
        for update in range(3):
            give_gradients(params, update)
            optimizer.step() if enabled is None else scaling.step(optimizer)
            scaling.update()
        results.append(outcome(params, optimizer))
    assert equal(*results)


# Stopping and going on


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("stop", (1, 4, 6))
def test_going_on_from_a_checkpoint_is_never_having_stopped(row, stop, product):
    """Right after a skipped first update too: SGD's momentum must not start from a buffer of zeros."""
    given, ends = OPTIMIZERS[row], []
    for interrupted in (False, True):
        params = parameters((5, 3), 17)
        optimizer, scaling = product(given.optimizer, params, **given.options), scaler()
        for update in range(9):
            if interrupted and update == stop:
                saved = copy.deepcopy((optimizer.state_dict(), scaling.state_dict()))
                params = [p.detach().clone().requires_grad_() for p in params]
                optimizer, scaling = product(given.optimizer, params, **given.options), scaler()
                optimizer.load_state_dict(saved[0])
                scaling.load_state_dict(saved[1])
            give_scaled(params, update, scaling.get_scale(), update in SKIPPED)
            scaling.step(optimizer)
            scaling.update()
        ends.append((outcome(params, optimizer), scaling.state_dict()))
    assert equal(*ends)


# torch.compile


@pytest.mark.parametrize("whole", (True, False))
@pytest.mark.parametrize("row", ("AdamW", "Adam-amsgrad", "SGD-dampening"))
def test_a_compiled_step_of_the_scaler(row, whole, product):
    """All of `scaler.step`, or the step that it calls. State that a skipped first step left is as good as none."""
    given, ends = OPTIMIZERS[row], []
    for wrap in (lambda f: f, lambda f: torch.compile(f, backend="aot_eager", fullgraph=not whole)):
        torch._dynamo.reset()
        params = parameters((5, 3), 17)
        optimizer, scaling = product(given.optimizer, params, **given.options), scaler()
        step = lambda o=optimizer, s=scaling: s.step(o)  # noqa: E731
        if whole:
            step = wrap(step)
        else:
            optimizer.step = wrap(optimizer.step)
        for update in range(6):
            give_scaled(params, update, scaling.get_scale(), update in (0, 3))
            step()
            scaling.update()
        ends.append(outcome(params, optimizer))
        assert optimizer.skipped_steps == 2
    assert equal(*ends)


# The warning about the order of calls

SCHEDULERS = ("StepLR", "LambdaLR", "OneCycleLR", "SequentialLR")


def warned(make, module, scheduler, order="right", **options):
    """Whether torch's warning comes, in a run whose first update is skipped."""
    params = parameters(4)
    optimizer, scaling = make("SGD", params, lr=0.1, momentum=0.5, **options), scaler()
    sched = CONFIGURED[scheduler](optimizer, module)

    def step():
        scaling.step(optimizer)
        scaling.update()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for update in range(3):
            optimizer.zero_grad()
            if order == "right":
                give_scaled(params, update, SCALE, broken=update == 0)
                step()
                sched.step()
            else:
                sched.step()
                give_scaled(params, update, SCALE, broken=update == 0)
                step()
    return any("lr_scheduler.step()` before `optimizer.step()" in str(w.message) for w in caught)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("fused", (None, True, False))
def test_no_warning_where_the_order_is_right(fused, scheduler, product):
    for module in (L, torch.optim.lr_scheduler):
        assert not warned(product, module, scheduler, fused=fused)
    assert warned(torch_twin, torch.optim.lr_scheduler, scheduler)  # torch, in the right order
    assert not warned(torch_twin, L, scheduler)  # our schedulers on torch's optimizer


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_warning_where_the_order_is_wrong(scheduler, product):
    for module in (L, torch.optim.lr_scheduler):
        assert warned(product, module, scheduler, "wrong", fused=False)


# The properties can fail.


def test_an_update_that_keeps_its_scale_is_noticed():
    class Deaf(torch.optim.SGD):
        _step_supports_amp_scaling = True  # and never looks

        def step(self, closure=None):
            del closure
            held = self.grad_scale, self.found_inf
            self.grad_scale = self.found_inf = None
            super().step()
            self.grad_scale, self.found_inf = held

    def deaf(name, params, **options):
        return Deaf(params, foreach=False, **options)

    with pytest.raises(AssertionError):
        check_bounds(deaf, "SGD-momentum", "float32")
    with pytest.raises(AssertionError):
        assert_same(micro_batches(deaf, "SGD"), micro_batches(torch_twin, "SGD"))
