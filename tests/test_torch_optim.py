# SPDX-License-Identifier: Apache-2.0
"""Drop-in: whatever a program does with a torch optimizer, it sees the same with ours.

The scripts run with torch's class and with ours; tensors must agree to rounding, everything else exactly.
"""

import gc
import inspect
import weakref

import pytest
import scripts_gradients
import scripts_groups
import scripts_state
import torch
from cases import DROP_INS, DTYPES, OPTIMIZERS, VISIBLE, maker, named, torch_twin
from scripting import SCRIPTS, assert_same, give_gradients, parameters, seen, train

import fusedsched

assert SCRIPTS, (scripts_gradients, scripts_groups, scripts_state)


# What these do is torch's alone: options of its classes, its differentiable step, the name of its function.
OF_TORCH = ("amsgrad_or_dampening", "differentiable", "pre_hook_with_a_wrong_answer")
RUNS = [(run, name) for run in SCRIPTS for name in VISIBLE if name in DROP_INS or run.__name__ not in OF_TORCH]


@pytest.mark.parametrize("run, name", RUNS, ids=[f"{run.__name__}-{name}" for run, name in RUNS])
def test_a_script_sees_what_it_sees_with_torch(run, name, product):
    assert_same(run(product, name), run(torch_twin, name))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("row", named(OPTIMIZERS))
def test_every_row_in_every_type(row, dtype, product):
    if dtype == torch.float16 and "float16" not in row.dtypes:
        return  # torch's own result is infinite
    results = []
    for make in (product, torch_twin):
        params = parameters((7, 5), 11, (), dtype=dtype)
        optimizer = make(row.optimizer, params, **row.options)
        train(optimizer, params, 5)
        results.append(seen(optimizer, params))
    assert_same(*results)


@pytest.mark.parametrize("name", DROP_INS)
def test_is_torchs_class_with_torchs_signature(name):
    ours, torchs = getattr(fusedsched, name), getattr(torch.optim, name)
    assert issubclass(ours, torchs)
    mine = dict(inspect.signature(ours).parameters)
    assert mine.pop("backend").default == "auto"
    theirs = inspect.signature(torchs).parameters
    assert list(mine) == list(theirs)
    for key, parameter in theirs.items():
        assert (mine[key].default, mine[key].kind) == (parameter.default, parameter.kind), key
    assert inspect.signature(ours.step) == inspect.signature(torchs.step)


@pytest.mark.parametrize("flags", ({}, {"fused": True}, {"foreach": True}, {"fused": False, "foreach": False}), ids=str)
@pytest.mark.parametrize("name", VISIBLE)
def test_flags_choose_nothing_but_what_lightning_asks(name, flags, product):
    results = []
    for more in (flags, {}):
        params = parameters(4, 5)
        optimizer = product(name, params, **VISIBLE[name], **more)
        train(optimizer, params)
        results.append(torch.cat([p.detach() for p in params]))
    assert torch.equal(*results)
    assert product(name, params, **flags)._step_supports_amp_scaling is (flags.get("fused") is not False)


@pytest.mark.parametrize("name", VISIBLE)
def test_a_scheduler_of_torch_leaves_our_step_alone(name, product):
    params = parameters(4)
    optimizer = product(name, params, **VISIBLE[name])
    step = optimizer.step.__func__
    torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
    assert optimizer.step.__func__ is step and "step" not in optimizer.__dict__
    give_gradients(params)
    optimizer.step()
    assert optimizer._opt_called


@pytest.mark.parametrize("name", VISIBLE)
def test_goes_away_without_the_garbage_collector(name, product):
    params = parameters(4)
    optimizer = product(name, params, **VISIBLE[name])
    train(optimizer, params)
    gone = weakref.ref(optimizer)
    gc.disable()
    try:
        del optimizer
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("name", VISIBLE)
def test_a_skipped_update_changes_nothing_at_all(name, product):
    """The first one included: state, counters, and native schedules hold."""
    schedule = fusedsched.schedules.linear(0.1, 0.2, steps=10)
    results = []
    for skips in ((True, False, True, False), (False, False)):
        params = parameters(4, 5)
        optimizer = product(name, params, **{**VISIBLE[name], "lr": schedule})
        kept = 0
        for skip in skips:
            give_gradients(params, kept)
            optimizer.found_inf, optimizer.grad_scale = torch.tensor(float(skip)), None
            before = seen(optimizer, params)
            optimizer.step()
            if skip:
                assert_same(seen(optimizer, params), before)
            kept += not skip
        results.append(seen(optimizer, params))
    assert_same(*results)


@pytest.mark.parametrize("name", VISIBLE)
def test_scaled_gradients_are_unscaled_in_the_update(name, product):
    results = []
    for scale in (None, 64.0):
        params = parameters(4, 5)
        optimizer = product(name, params, **VISIBLE[name])
        for update in range(3):
            give_gradients(params, update)
            if scale is not None:
                for p in params:
                    p.grad.mul_(scale)
                optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.tensor(0.0)
            optimizer.step()
        results.append(seen(optimizer, params))
    assert_same(*results)


@pytest.mark.parametrize("name", VISIBLE)
def test_a_gradient_of_two_parameters_is_unscaled_once(name, product):
    results = []
    for scale in (None, 64.0):
        params = parameters(4, 4, 5)
        optimizer = product(name, params, **VISIBLE[name])
        for update in range(3):
            give_gradients(params, update)
            params[1].grad = params[0].grad
            if scale is not None:
                for p in (params[0], params[2]):
                    p.grad.mul_(scale)
                optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.tensor(0.0)
            optimizer.step()
        results.append(seen(optimizer, params, left=params[0].grad.clone()))
    assert_same(*results)


# The comparison can fail.


@pytest.mark.parametrize("name", VISIBLE)
def test_another_optimizer_is_noticed(name):
    def wrong(name, params, **options):
        return torch_twin(name, params, **{**options, "weight_decay": options["weight_decay"] * 0.999})

    with pytest.raises(AssertionError):
        assert_same(scripts_gradients.late_gradients(wrong, name), scripts_gradients.late_gradients(torch_twin, name))


def test_the_scripts_run_with_the_reference_classes():
    eager = maker("reference-classes")
    assert_same(scripts_groups.groups(eager, "AdamW"), scripts_groups.groups(torch_twin, "AdamW"))


class Wrapped:
    """A wrapper as trainers give it to users: of the optimizer's class, and all attributes are the optimizer's."""

    def __init__(self, optimizer):
        self._optimizer = optimizer
        self.__class__ = type("Wrapped" + type(optimizer).__name__, (type(self), type(optimizer)), {})

    def step(self, closure=None):
        return self._optimizer.step(closure)

    def __getattr__(self, name):
        return getattr(self._optimizer, name)


def test_a_wrapper_of_its_class_shows_its_attributes(product):
    p = torch.ones(3, requires_grad=True)
    optimizer = product("AdamW", [p], lr=0.5)
    wrapped = Wrapped(optimizer)
    p.square().sum().backward()
    wrapped.step()
    wrapped.zero_grad()
    assert isinstance(wrapped, torch.optim.AdamW) and wrapped.param_groups is optimizer.param_groups
    assert wrapped.state is optimizer.state and wrapped.backend == optimizer.backend and wrapped.skipped_steps == 0
    assert p.grad is None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = wrapped.nonsense
