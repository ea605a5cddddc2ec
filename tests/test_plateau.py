# SPDX-License-Identifier: Apache-2.0
"""Properties: what user code does to a ReduceLROnPlateau, its optimizer and its states has the effect that it has in
torch, on the host and on a device. Its decisions: test_metric_decisions.py.
"""

import copy
import gc

import pytest
import torch
from cases import maker
from cases_metric import PLATEAU, THEIRS, both, groups_of, pair, same, same_parameters, shown, tensor
from plateau_rule import emulated

from fusedsched import lr_scheduler as L


def test_a_step_on_a_device_waits_for_nothing(monkeypatch):
    two = pair(maker("cuda"), patience=0, factor=0.5)
    both(two, [2.0])
    optimizer = two[0].optimizer
    before = emulated().launches()

    def waits(*_):
        raise AssertionError("this waits for the device")

    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "cpu", "numpy", "__float__", "__bool__", "__int__"):
            patch.setattr(torch.Tensor, name, waits)
        for metric in (2.0, 1.0, 3.0):
            two[0].step(tensor(metric))
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
        with pytest.raises(AssertionError, match="this waits"):
            two[0].best  # noqa: B018
    assert emulated().launches() - before == 6
    for metric in (2.0, 1.0, 3.0):
        two[1].step(metric)
    assert same(two)


def test_updates_use_the_rates(product):
    """Of each update, without anybody looking."""
    two = pair(product, patience=0, factor=0.5)
    for metric in (2.0, 3.0, 1.0, 1.0, 4.0):
        both(two, [metric])
        for sched in two:
            sched.optimizer.step()
    assert same_parameters(two) and same(two)


def test_edits_are_what_it_reduces_from(product):
    two = pair(product, patience=0, factor=0.5, cooldown=1)
    both(two, [2.0, 2.0])
    for sched in two:
        sched.optimizer.param_groups[1]["lr"] = 0.9
    for sched in two:
        sched.optimizer.step()
    assert same(two)
    both(two, [2.0, 2.0])
    for sched in two:
        sched.patience, sched.min_lrs[0], sched.best = 1, 0.15, 1.0
    both(two, [2.0, 2.0, 2.0])
    assert same(two)
    for sched in two:
        sched.step(0.5)  # a number: the host decides, from where the device is
        assert sched.num_bad_epochs == 0
        sched.optimizer.param_groups[0]["lr"] *= 2
    both(two, [2.0, 2.0, 2.0, 2.0])
    assert same_parameters(two) and same(two)


def test_quiet_steps_see_what_users_set(product):
    """Steps that change no rate take a shorter way; options, methods and counters that were set hold there too."""
    two = pair(product, patience=5, cooldown=2)
    for i, metric in enumerate((2.0, 2.0, 1.5, 3.0, 3.0, 3.0, 1.0, 4.0, 4.0, 4.0, 4.0)):
        for sched in two:
            sched.step(metric)
            if i == 3:
                sched.patience, sched.mode = 0, "max"
            if i == 5:
                sched.best, sched.threshold, sched.optimizer.param_groups[0]["lr"] = 3.5, 0.5, 0.7
            if i == 8:
                sched._is_better = lambda a, best: a == 4.0
        assert same(two), i


def test_late_groups(product):
    two = pair(product, patience=0, factor=0.5)
    both(two, [2.0, 2.0])
    for sched in two:
        sched.optimizer.add_param_group(groups_of([0.3])[0])
        sched.optimizer.step()
    both(two, [2.0, 2.0])
    assert same(two)
    two = pair(product, patience=0, min_lr=[0.1, 0.1])
    both(two, [2.0])
    two[0].optimizer.add_param_group(groups_of([0.3])[0])
    with pytest.raises(RuntimeError, match="^The number of param groups in the `optimizer`"):
        for _ in range(2):
            two[0].step(tensor(3.0))
            two[0].optimizer.step()


def test_states_go_both_ways(product):
    two = pair(product, patience=1, factor=0.5, cooldown=2)
    both(two, [2.0, 2.0, 2.0, 2.0])
    ours, theirs = two[0].state_dict(), two[1].state_dict()
    assert {k: v for k, v in ours.items() if k != "fusedsched"} == theirs
    crossed = pair(product)
    both(crossed, [9.0, 1.0, 5.0])
    for sched, states, optimizer in zip(crossed, (theirs, ours), (two[1], two[0]), strict=True):
        sched.optimizer.load_state_dict(optimizer.optimizer.state_dict())
        sched.load_state_dict(copy.deepcopy(states))
    assert same(crossed) and shown(crossed[0], PLATEAU) == shown(two[0], PLATEAU)
    both(crossed, [2.0] * 6)
    both(two, [2.0] * 6)
    assert same(crossed) and shown(crossed[0], PLATEAU) == shown(two[0], PLATEAU)
    twin = copy.deepcopy(two[0])
    both(two, [2.0] * 3)
    for _ in range(3):
        twin.step(tensor(2.0))
    assert shown(twin, PLATEAU) == shown(two[0], PLATEAU)


def test_the_rates_outlive_the_scheduler(product):
    two = pair(product, patience=0, factor=0.5)
    both(two, [2.0, 2.0, 2.0])
    ours, theirs = (sched.optimizer for sched in two)
    del two
    gc.collect()
    assert [g["lr"] for g in ours.param_groups] == [g["lr"] for g in theirs.param_groups] == [0.1, 0.05]
    for optimizer in (ours, theirs):
        optimizer.param_groups[0]["lr"] = 0.3
        optimizer.step()
    assert torch.allclose(ours.param_groups[0]["params"][0], theirs.param_groups[0]["params"][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("owner", ["ours", "torch"])
def test_tensor_rates_are_written_in_place(owner, dtype):
    """Of any optimizer, on a device that has kernels; here the CPU stands for one."""
    tensor_rates_are_written_in_place(owner, dtype, "cuda")


def tensor_rates_are_written_in_place(owner, dtype, backend):
    lrs = [torch.tensor(0.7, dtype=dtype), torch.tensor(0.2, dtype=dtype)]
    kinds = ([maker("cuda")("SGD", groups_of(lrs), lr=0.1)] if owner == "ours" else []) or [
        torch.optim.SGD(groups_of(lrs), lr=0.1)
    ]
    kinds[0]._fusedsched_backend = backend  # for an optimizer of torch: where its schedulers find kernels
    theirs = torch.optim.SGD(groups_of([lr.clone() for lr in lrs]), lr=0.1)
    options = dict(patience=0, factor=0.3, min_lr=[0.05, 0.1])
    two = L.ReduceLROnPlateau(kinds[0], **options), THEIRS(theirs, **options)
    for sched in two:
        sched.optimizer.step()
    both(two, [2.0, 2.0])
    assert two[0]._mirror is not None
    assert all(group["lr"] is lr for group, lr in zip(kinds[0].param_groups, lrs, strict=True)) and same(two)
    for sched in two:
        sched.optimizer.param_groups[0]["lr"].fill_(0.5)  # in place: seen at once
        sched.optimizer.param_groups[1]["lr"] = torch.tensor(0.9, dtype=dtype)
    both(two, [2.0, 2.0, 1.0, 5.0])
    assert same(two)
    assert [lr.dtype for lr in two[0].get_last_lr()] == [dtype] * 2


def test_two_on_one_optimizer(product):
    """The device follows one; the other decides on the host, and finds what the first has left."""
    ours, theirs = product("SGD", groups_of([0.4]), lr=0.1), torch.optim.SGD(groups_of([0.4]), lr=0.1)
    twos = [(L.ReduceLROnPlateau(ours, **o), THEIRS(theirs, **o)) for o in (dict(patience=0), dict(patience=1))]
    for metric in (2.0, 2.0, 1.0, 3.0, 3.0, 3.0):
        for optimizer in (ours, theirs):
            optimizer.step()
        for two in twos:
            both(two, [metric])
    assert all(map(same, twos))


def test_a_rule_of_the_users_own_runs_on_the_host(product):
    class Mine(L.ReduceLROnPlateau):
        def _is_better(self, a, best):
            return True

    sched = Mine(product("SGD", groups_of([0.4]), lr=0.1), patience=0)
    for metric in (1.0, 2.0, 3.0):
        sched.step(tensor(metric))
    assert sched.best == 3.0 and sched._mirror is None


def test_new_plans_go_on_with_the_rates(product):
    """Whatever makes an optimizer look at its tensors anew, with an edit that nobody has taken up yet or without."""
    two = pair(product, patience=0, factor=0.5)
    for i, metric in enumerate((2.0, 2.0, 1.0, 3.0, 3.0, 3.0, 3.0, 3.0)):
        both(two, [metric])
        for sched in two:
            if i == 3:
                sched.optimizer.param_groups[0]["lr"] = 0.3
            if i in (1, 3, 4):
                getattr(getattr(sched.optimizer, "_runtime", None), "rebuild", int)()
            if i == 4:
                sched.optimizer.param_groups  # noqa: B018
            if i == 6:
                sched.optimizer.load_state_dict(sched.optimizer.state_dict())
            sched.optimizer.step()
    rates = [[group["lr"] for group in sched.optimizer.param_groups] for sched in two]  # first: asks the optimizer
    assert rates[0] == rates[1] and same(two) and same_parameters(two)
