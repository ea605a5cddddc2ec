# SPDX-License-Identifier: Apache-2.0
"""Numbers that are given as texts, as numpy arrays without dimensions, or in a wrong count."""

import numpy as np
import pytest
import torch
from cases import BACKENDS, DROP_INS, REFERENCE_CLASSES, VISIBLE, maker, torch_twin

NUMBERS = {"lr": 1e-3, "weight_decay": 0.25, "eps": 1e-2, "betas": (0.5, 0.75), "momentum": 0.5, "dampening": 0.125}
TEXTS = {
    "lr": "1e-3",
    "weight_decay": " 0.25",
    "eps": "1.E-2",
    "betas": ("0.5", "+.75"),
    "momentum": "0.5",
    "dampening": "12.5e-2",
}
OTHERS = tuple(name for name in VISIBLE if name.isidentifier() and name not in DROP_INS)  # no classes of torch
EVERYWHERE = (*BACKENDS, REFERENCE_CLASSES)
ROWS = [
    pytest.param(backend, name, key, id=f"{backend}-{name}-{key}")
    for backend in EVERYWHERE
    for name in ("AdamW", "SGD", *OTHERS)
    for key in NUMBERS
    if key in VISIBLE[name] or key in ("lr", "weight_decay") or (name == "AdamW" and key in ("eps", "betas"))
]


def run(make, name, options, group, write=None):
    """Two updates of a parameter; `write` comes between them. Returns it, and the optimizer."""
    p = torch.full((3,), 2.0, requires_grad=True)
    optimizer = make(name, [{"params": [p], **group}], **options)
    for update in range(2):
        if update and write:
            optimizer.param_groups[0].update(write)
        p.grad = torch.ones(3) / (1 + update)
        optimizer.step()
    return p.detach(), optimizer


def options_of(name):
    return {"momentum": 0.75} if name == "SGD" else {}


@pytest.mark.parametrize("in_group", (False, True), ids=("argument", "group"))
@pytest.mark.parametrize("backend, name, key", ROWS)
def test_a_text_that_is_a_plain_number_is_that_number(backend, name, key, in_group):
    results = []
    for value in (NUMBERS[key], TEXTS[key]):
        given, options = {key: value}, options_of(name)
        results.append(
            run(maker(backend), name, options if in_group else {**options, **given}, given if in_group else {})
        )
    (expected, _), (found, optimizer) = results
    assert torch.equal(found, expected) and optimizer.param_groups[0][key] == NUMBERS[key]


@pytest.mark.parametrize("text", ("fast", "", "nan", "inf", "1e", "0x1", "1_000", "0.1,0.2"))
@pytest.mark.parametrize("backend, name, key", ROWS)
def test_any_other_text_is_refused_with_its_name(backend, name, key, text):
    value = (0.5, text) if key == "betas" else text
    where = r"betas\[1\]" if key == "betas" else key
    with pytest.raises(TypeError, match=rf"{where} is '{text}', which is not a number\. Set it to a float"):
        run(maker(backend), name, {**options_of(name), key: value}, {})
    with pytest.raises(TypeError, match=rf"Group 0: {where} is '{text}', which is not a number"):
        run(maker(backend), name, options_of(name), {key: value})


@pytest.mark.parametrize("backend, name, key", ROWS)
def test_a_text_written_later_is_refused_with_its_group(backend, name, key):
    write = {key: (0.5, "0.75") if key == "betas" else "0.75"}
    with pytest.raises(TypeError, match=rf"param_groups\[0\]\['{key}'\] is '0\.75', which is not a number\. Set it"):
        run(maker(backend), name, options_of(name), {}, write)


@pytest.mark.parametrize("when", ("argument", "group", "later"))
@pytest.mark.parametrize("key", ("lr", "weight_decay"))
@pytest.mark.parametrize("name", ("AdamW", "SGD"))
@pytest.mark.parametrize("backend", EVERYWHERE)
def test_an_array_without_dimensions_is_a_number(backend, name, key, when):
    results = []
    for value in (NUMBERS[key], np.array(NUMBERS[key])):
        given = {key: value}
        arguments = [{**options_of(name), **(given if when == "argument" else {})}, given if when == "group" else {}]
        results.append(run(maker(backend), name, *arguments, given if when == "later" else None)[0])
    assert torch.equal(*results)


BETAS = {
    "three": (0.5, 0.6, 0.7),
    "three in a list": [0.5, 0.6, 0.7],
    "three tensors": (torch.tensor(0.5), torch.tensor(0.6), torch.tensor(0.7)),
    "one": (0.5,),
    "a number": 0.5,
    "two in a list": [0.5, 0.6],
}


@pytest.mark.parametrize("when", ("argument", "group", "later"))
@pytest.mark.parametrize("count", BETAS)
@pytest.mark.parametrize("name", ("AdamW", "Adam", *OTHERS))
@pytest.mark.parametrize("backend", EVERYWHERE)
def test_betas_are_two_where_torch_says_so(backend, name, count, when):
    """Law: what torch refuses is refused with its type and sentence, by the first step at the latest."""

    def outcome(make, name):
        given = {"betas": BETAS[count]}
        group = given if when == "group" else {}
        try:
            return run(make, name, given if when == "argument" else {}, group, given if when == "later" else None)[0]
        except (TypeError, ValueError, IndexError) as error:
            return error

    ours, theirs = outcome(maker(backend), name), outcome(torch_twin, "AdamW" if name in OTHERS else name)
    if count in ("one", "a number"):
        assert f"{BETAS[count]!r}. Set it to two numbers." in str(ours)
    if not isinstance(theirs, Exception):
        assert not isinstance(ours, Exception)
    elif name not in OTHERS and when != "group":
        assert type(ours) is type(theirs)
        assert isinstance(theirs, TypeError) or str(ours).startswith(str(theirs))
    else:  # torch checks no group
        assert isinstance(ours, (TypeError, ValueError, IndexError))
