# SPDX-License-Identifier: Apache-2.0
"""Names, arguments, warnings and attributes are torch's; nothing keeps an optimizer alive; users' subclasses and
functions are obeyed.
"""

import copy
import gc
import warnings
import weakref
from unittest import mock

import pytest
import torch
from cases_lr_schedulers import CONFIGURED, SCHEDULERS, make, numbers, optimizer, rate, run
from scheduler_pairs import as_torch
from torch.optim import lr_scheduler as theirs

import fusedsched
from fusedsched import lr_scheduler as ours

named = pytest.mark.parametrize("row", SCHEDULERS, ids=lambda row: row.name)


@pytest.mark.parametrize("row", [r for r in SCHEDULERS if r.closed_form], ids=lambda row: row.name)
def test_nothing_is_kept_alive(row):
    """Scheduler and optimizer go when their last names go, without the garbage collector."""
    run(*make(row), 1)  # torch imports torch._dynamo in its first step, and exceptions caught there keep frames alive
    gc.collect()
    gc.disable()
    try:
        opt, sched = make(row)
        run(opt, sched, 4)
        seen = [weakref.ref(sched), weakref.ref(opt)]
        del sched
        assert seen[0]() is None
        del opt
        assert seen[1]() is None
    finally:
        gc.enable()


def test_a_cycle_through_the_optimizer_is_collected():
    opt = optimizer([0.1])
    opt.scheduler = ours.StepLR(opt, 2)
    for _ in range(3):
        opt.scheduler.step()
    seen = weakref.ref(opt)
    del opt
    gc.collect()
    assert seen() is None


class Doubling(ours.StepLR):
    """A user's subclass that computes rates itself."""

    def get_lr(self):
        return [2 * group["lr"] for group in self.optimizer.param_groups]


def test_a_users_subclass_is_obeyed():
    opt = optimizer([1.0])
    sched = Doubling(opt, 5)
    run(opt, sched, 4)
    assert opt.param_groups[0]["lr"] == 32.0 and type(sched._driver).__name__ not in ("HostDriver", "PythonHostDriver")


@named
def test_what_tools_look_for(row):
    """`isinstance` and attributes as Lightning, Accelerate and Transformers ask for them."""
    opt, sched = make(row)
    assert isinstance(sched, row.theirs) and isinstance(sched, torch.optim.lr_scheduler.LRScheduler)
    assert sched.optimizer is opt and sched.last_epoch == 0 and len(sched.base_lrs) == 2
    assert sched.get_last_lr() == sched._last_lr == [group["lr"] for group in opt.param_groups]
    assert isinstance(sched.state_dict(), dict) and callable(sched.load_state_dict)
    expected = run(*make(row), 12)
    seen = run(opt, sched, 6)
    if row.name not in ("CosineAnnealingWarmRestarts", "SWALR"):  # one has no such count; the other is timed by it
        sched._step_count += 1  # Accelerate, while gradients are accumulated
    assert seen + run(opt, sched, 6) == expected
    assert getattr(sched, "total_steps", 999) == 999  # read by Accelerate


def test_names():
    """Every scheduler of torch is here, under the same name and with the same arguments, and one of ours."""
    import inspect

    for name in theirs.__all__:
        mine, other = getattr(ours, name), getattr(theirs, name)
        arguments = dict(inspect.signature(mine).parameters)
        if mine is not other:
            assert arguments.pop("advance_on_skip").default is True
        assert list(arguments) == list(inspect.signature(other).parameters)
        defaults = [p.default for p in inspect.signature(other).parameters.values()]
        assert [p.default for p in arguments.values()] == defaults
        assert issubclass(mine, other) and mine.__name__ == name
    assert ours.LRScheduler is theirs.LRScheduler and ours._LRScheduler is theirs._LRScheduler


@pytest.mark.parametrize("module", [ours, theirs], ids=["ours", "torch"])
def test_warnings(module):
    """Torch's warnings, at the same calls."""
    opt = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    sched = module.StepLR(opt, 3)
    with pytest.warns(UserWarning, match=r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        sched.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sched.step()
    with pytest.warns(UserWarning, match="The epoch parameter in `scheduler.step"):
        sched.step(3)
    for cls, arguments in (
        (module.StepLR, (3,)),
        (module.ConstantLR, ()),
        (module.OneCycleLR, (0.1, 9)),
        (module.CyclicLR, (0.1, 0.2)),
    ):
        other = cls(optimizer([0.1]), *arguments)
        with pytest.warns(UserWarning, match=r"To get the last learning rate .* please use `get_last_lr\(\)`"):
            other.get_lr()
    opt = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    sched = module.StepLR(opt, 3)
    opt.step = lambda: None
    with pytest.warns(UserWarning, match=r"`optimizer.step\(\)` has been overridden after"):
        sched.step()


@pytest.mark.parametrize("name", ["StepLR", "LambdaLR", "MultiplicativeLR"])
@pytest.mark.parametrize("module", [ours, theirs], ids=["ours", "torch"])
def test_a_count_that_is_set_back_warns_again(module, name):
    """As torch's do where `_step_count` is 1."""
    opt = optimizer([0.1])
    sched = getattr(module, name)(opt, 3 if name == "StepLR" else lambda t: 0.5)
    run(opt, sched, 3)
    sched._step_count, opt._opt_called = 1, False
    with pytest.warns(UserWarning, match=r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        sched.step()
    assert sched._step_count == 2


@pytest.mark.parametrize("module", [ours, theirs], ids=["ours", "torch"])
def test_warnings_name_the_line_of_the_user(module):
    """With Python's own filters, each wrong line is told once."""
    opt = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        for cls in (module.ExponentialLR, module.ConstantLR):
            for _ in range(2):
                cls(opt, 0.5).step()
        module.StepLR(optimizer([0.1]), 3).step(3)
    assert [warning.filename for warning in found] == [__file__] * 2
    assert len({str(warning.message) for warning in found}) == 2


def test_a_warning_that_is_an_error_comes_before_the_step():
    """Nothing has changed then."""
    sched = ours.ExponentialLR(torch.optim.SGD([torch.zeros(1)], lr=0.1), 0.5)
    before = sched.state_dict()
    with warnings.catch_warnings(), pytest.raises(UserWarning, match="Detected call of"):
        warnings.simplefilter("error")
        sched.step()
    assert sched.state_dict() == before


@named
@pytest.mark.parametrize("kind", ["sgd", "our sgd"])
def test_what_is_put_around_step(row, kind):
    """A wrapper in the place of an object's `step` may call the one that was there."""
    expected = run(*make(row, kind=kind), 8)
    opt, sched = make(row, kind=kind)
    seen = run(opt, sched, 4)
    with mock.patch.object(sched, "step", wraps=sched.step):
        assert seen + run(opt, sched, 4) == expected


@named
@pytest.mark.parametrize("kinds", [("sgd", "our sgd"), ("our sgd", "sgd"), ("sgd", "sgd")])
def test_another_optimizer_is_put_in(row, kinds):
    """A scheduler whose `optimizer` is replaced goes on with the other's groups."""
    opt, sched = make(row, kind=kinds[0])
    run(opt, sched, 4)
    other, lone = optimizer([0.3, 0.2], kinds[1]), copy.deepcopy(sched)
    other.load_state_dict(opt.state_dict())
    sched.optimizer = other
    assert run(other, sched, 4) == run(lone.optimizer, lone, 4)


class Halving(ours.ExponentialLR):
    """A user's subclass whose setting is computed."""

    gamma = property(lambda self: 0.5, lambda self, value: None)


def test_a_setting_that_is_computed():
    """A property in the place of a setting is obeyed."""
    opt = optimizer([1.0])
    run(opt, Halving(opt, 0.9), 3)
    assert opt.param_groups[0]["lr"] == 0.125


def test_a_method_that_is_replaced_under_way():
    """A `get_lr` that somebody puts into the object is called from then on."""
    opt = optimizer([1.0])
    sched = ours.ExponentialLR(opt, 0.5)
    run(opt, sched, 4)
    sched.get_lr = lambda: [7.0]
    sched.step()
    assert opt.param_groups[0]["lr"] == 7.0


@as_torch
def test_a_scale_function_that_is_put_in_under_way(m):
    """A `scale_fn` that user code puts into the object is called from then on, when torch calls it."""
    seen, opt = [], optimizer([1.0])
    sched = m.CyclicLR(opt, 0.25, 1.0, step_size_up=3, cycle_momentum=False)
    run(opt, sched, 3)
    sched.scale_fn = lambda x: seen.append(x) or 0.5
    run(opt, sched, 4)
    assert len(seen) == 4
    return seen, rate(opt)


@as_torch
def test_functions_are_called_when_torch_calls_them(m):
    """A user's function sees the same steps in the same order."""
    seen = []
    opt = optimizer([0.3, 0.2])
    function = lambda t: seen.append(t) or 0.5  # noqa: E731
    for build in (
        lambda: m.LambdaLR(opt, function),
        lambda: m.MultiplicativeLR(opt, function),
        lambda: m.CyclicLR(opt, 0.1, 0.2, 3, scale_fn=function),
        lambda: m.SequentialLR(opt, [m.LambdaLR(opt, function), m.StepLR(opt, 2)], [2]),
    ):
        run(opt, build(), 4)
    return seen


class Wrapper(torch.optim.Optimizer):
    """As trainers wrap an optimizer: an optimizer itself, whose groups and state are the other's."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)
    defaults = property(lambda self: self.optimizer.defaults)

    def step(self, closure=None):
        return self.optimizer.step(closure)


@pytest.mark.parametrize("kind", [torch.optim.SGD, fusedsched.SGD])
@pytest.mark.parametrize(
    "name", ["CosineAnnealingLR", "OneCycleLR", "SequentialLR of three", "ChainedScheduler", "ReduceLROnPlateau"]
)
@as_torch(bound=1e-12)
def test_schedulers_of_a_wrapper(m, name, kind):
    inner = kind if m is ours else torch.optim.SGD
    optimizer = inner([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.5)
    wrapper = Wrapper(optimizer)
    scheduler = CONFIGURED[name](wrapper, m)
    metric = (1.0,) if name == "ReduceLROnPlateau" else ()
    seen = []
    for _ in range(8):
        wrapper.step()
        scheduler.step(*metric)
        seen.append(numbers(optimizer))
    scheduler.load_state_dict(scheduler.state_dict())
    return seen
