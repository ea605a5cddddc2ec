# SPDX-License-Identifier: Apache-2.0
"""Scenarios that see with our package what they see with torch's."""

import functools
import inspect

import pytest
import torch


def compared(ours, theirs):
    """The decorator that makes a test of a scenario `(m, ...)`, where `m` is the one package or the other.

    The scenario gets what the test gets, and returns numbers and tensors in lists and tuples. They agree to the bit, or
    to a relative bound where one is given.
    """

    def as_torch(scenario=None, *, bound=0.0):
        if scenario is None:
            return functools.partial(as_torch, bound=bound)

        @functools.wraps(scenario)
        def test(**given):
            mine, other = (list(_flat(scenario(m, **given))) for m in (ours, theirs))
            assert len(mine) == len(other)
            for value, expected in zip(mine, other, strict=True):
                if isinstance(expected, torch.Tensor):
                    torch.testing.assert_close(value, expected, rtol=bound, atol=bound)
                else:
                    assert value == (pytest.approx(expected, rel=bound, abs=bound / 1e3) if bound else expected)

        test.__signature__ = inspect.Signature(list(inspect.signature(scenario).parameters.values())[1:])
        return test

    return as_torch


def _flat(value):
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _flat(part)
    else:
        yield value


def equal(a, b):
    """Whether two nested results are the same to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b
