# SPDX-License-Identifier: Apache-2.0
"""Every row of BAD_INPUTS is refused with a message that helps, and nothing has changed."""

import copy
import re

import pytest
import torch
from cases import BACKENDS, maker, torch_twin
from cases_errors import BAD_INPUTS, BadInput, Scene
from tolerances import close

from fusedsched.schedules import constant

ROWS = [pytest.param(row, name, id=f"{key}-{name}") for key, row in BAD_INPUTS.items() for name in row.optimizers]
_OPTIONS = {"AdamW": {}, "Adam": {}, "SGD": {"momentum": 0.9}}


def _scene(make, name):
    generator = torch.Generator().manual_seed(7)
    params = [torch.randn(shape, generator=generator).requires_grad_() for shape in ((4,), (2, 3), (5,))]

    def build(params, **options):
        return make(name, params, **options)

    optimizer = build([{"params": params[:2]}, {"params": params[2:], "lr": 0.02}], **_OPTIONS[name])
    for _ in range(2):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return Scene(optimizer, params, build)


def _everything(scene):
    """All that an update or a load could have changed, copied."""
    optimizer = scene.optimizer
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    return copy.deepcopy(
        {
            "parameters": [p.detach() for p in scene.params],
            "gradients": [p.grad for p in scene.params],
            "state": [dict(optimizer.state[p]) if p in optimizer.state else {} for p in scene.params],
            "n_states": len(optimizer.state),
            "groups": groups,
            "members": [len(group["params"]) for group in optimizer.param_groups],
            "clocks": optimizer._runtime.clocks.read() if hasattr(optimizer, "_runtime") else None,
        }
    )


def _same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor) and a.layout == torch.strided:
        return a.dtype == b.dtype and torch.equal(a, b)
    return str(a) == str(b)


def assert_refused(row, make, name):
    scene = _scene(make, name)
    attempt = row.do(scene)
    next(attempt)
    before = _everything(scene)
    with pytest.raises(row.error) as caught:
        next(attempt, None)
    message = str(caught.value)
    assert re.search(row.match, message, re.DOTALL), message
    after = _everything(scene)
    changed = [key for key in before if not _same(before[key], after[key])]
    assert not changed, f"changed: {changed}"
    return caught.value


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row, name", ROWS)
def test_refused_and_nothing_changed(row, name, backend):
    ours = assert_refused(row, maker(backend), name)
    if row.torch:
        attempt = row.do(_scene(torch_twin, name))
        next(attempt)
        with pytest.raises(type(ours)) as theirs:
            next(attempt, None)
        sentence = str(theirs.value).split(". ")[0].rstrip(".")
        assert str(ours).startswith(sentence), f"torch says: {sentence}"


@pytest.mark.parametrize("added", (False, True), ids=("constructor", "add_param_group"))
@pytest.mark.parametrize("scheduled", (False, True), ids=("numbers", "schedule"))
@pytest.mark.parametrize("key", ("lr", "weight_decay"))
@pytest.mark.parametrize("name", _OPTIONS)
def test_numbers_may_be_filled_in_before_the_first_step(name, key, scheduled, added, product):
    """None in a group is accepted as torch accepts it, and refused by the first step; nothing has changed then."""
    other = "weight_decay" if key == "lr" else "lr"
    results = []
    for make in (product, torch_twin):
        params = [torch.ones(3, requires_grad=True) for _ in range(2)]
        groups = [{"params": [params[0]]}, {"params": [params[1]], key: None}]
        value = constant(0.25) if scheduled and make is product else 0.25
        optimizer = make(name, groups[: 1 if added else 2], **_OPTIONS[name], **{other: value})
        if added:
            optimizer.add_param_group(groups[1])
        for p in params:
            p.grad = torch.full_like(p, 0.5)
        if make is product:
            with pytest.raises(TypeError, match=rf"'{key}'. is None, which is not a number. Set it to"):
                optimizer.step()
            assert not optimizer.state and all(torch.equal(p, torch.ones(3)) for p in params)
        optimizer.param_groups[1][key] = 0.125
        optimizer.step()
        optimizer.step()
        assert float(optimizer.param_groups[1][other]) == 0.25
        results.append([p.detach() for p in params])
    for ours, torchs in zip(*results, strict=True):
        close(ours, torchs, 2)


@pytest.mark.parametrize("backend", ("auto", "reference", "reference-classes"))
@pytest.mark.parametrize("name", _OPTIONS)
def test_sparse_parameters_are_refused_by_the_right_name(name, backend):
    """The error names the class, and one that takes sparse gradients."""
    p = torch.eye(3).to_sparse().requires_grad_()
    optimizer = maker(backend)(name, [p], **_OPTIONS[name])
    p.grad = torch.eye(3).to_sparse()
    other = "torch.optim.SGD" if name == "SGD" else "SparseAdam"
    with pytest.raises(RuntimeError, match=f"^{name[:4]}W? does not support sparse .*please consider {other} instead"):
        optimizer.step()


def test_the_table_is_long_enough():
    assert len(BAD_INPUTS) >= 40


@pytest.mark.parametrize("mistake", ("nothing raised", "raised too late"))
def test_the_property_can_fail(mistake):
    def do(scene):
        yield
        if mistake == "raised too late":
            scene.optimizer.step()
            raise ValueError("too late")

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        assert_refused(BadInput(do, (), ValueError, "", False), torch_twin, "AdamW")


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.float8_e4m3fn])
def test_a_gradient_of_a_dtype_that_no_kernel_reads(dtype, backend):
    scene = _scene(maker(backend), "AdamW")
    for p in scene.params:
        p.grad, p.grad_dtype = None, None  # any dtype may be assigned
        p.grad = torch.ones_like(p, dtype=dtype, requires_grad=False)
    before = copy.deepcopy([(p.detach(), dict(scene.optimizer.state[p])) for p in scene.params])
    with pytest.raises(RuntimeError, match="gradient of parameter 0 of group 0 .*Cast it to the dtype"):
        scene.optimizer.step()
    assert _same(before, [(p.detach(), dict(scene.optimizer.state[p])) for p in scene.params])
