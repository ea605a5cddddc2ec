# SPDX-License-Identifier: Apache-2.0
"""Every row of BAD_INPUTS is refused with a message that helps, and nothing has changed."""

import copy
import re

import pytest
import torch
from cases import BACKENDS, maker, torch_twin
from cases_errors import BAD_INPUTS, BadInput, Scene

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
            "clocks": optimizer._clocks.read() if hasattr(optimizer, "_clocks") else None,
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


def test_the_table_is_long_enough():
    assert len(BAD_INPUTS) >= 40


@pytest.mark.parametrize("mistake", ("nothing raised", "raised too late"))
def test_the_law_can_fail(mistake):
    def do(scene):
        yield
        if mistake == "raised too late":
            scene.optimizer.step()
            raise ValueError("too late")

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        assert_refused(BadInput(do, (), ValueError, "", False), torch_twin, "AdamW")
