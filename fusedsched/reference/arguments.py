# SPDX-License-Identifier: Apache-2.0
"""What may stand for a number: texts that are plain numbers, as YAML reads `1e-4`, and what errors say of the rest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

from torch import Tensor

_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*", re.IGNORECASE)
_FIX = "Set it to a float, an int or a tensor with one element."


def read_texts(group: dict[str, Any], keys: Iterable[str]) -> None:
    """Replaces texts that are plain numbers by the numbers, in lists and tuples too.

    >>> group = {"lr": "1e-4", "betas": ("0.9", 0.99), "eps": "small"}
    >>> read_texts(group, group.keys())
    >>> group
    {'lr': 0.0001, 'betas': (0.9, 0.99), 'eps': 'small'}
    """
    for key in keys:
        value = group.get(key)
        if type(value) in (list, tuple) and any(isinstance(item, str) for item in value):
            group[key] = type(value)(map(_read, value))
        elif isinstance(value, str):
            group[key] = _read(value)


def _read(value: Any) -> Any:
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


@contextmanager
def naming_faults(scalars: dict[str, Any], keys: Iterable[str]) -> Iterator[None]:
    """Adds to the TypeError or IndexError of torch's constructor which argument is no number, or not two."""
    try:
        yield
    except (TypeError, IndexError) as error:
        fault = first_fault(scalars, keys)
        if not fault or fault in str(error):
            raise
        raise type(error)(f"{error}. {fault}") from None


def first_fault(group: dict[str, Any], keys: Iterable[str]) -> str:
    """What is wrong with the first value that neither is a number nor converts to one; empty if there is none.

    >>> first_fault({"lr": 0.1, "betas": (0.9, "high")}, ("lr", "betas"))
    "betas[1] is 'high', which is not a number. Set it to a float, an int or a tensor with one element."
    >>> first_fault({"betas": (0.9,)}, ("betas",))
    'betas is (0.9,). Set it to two numbers.'
    """
    for key in keys:
        value = group.get(key)
        if key == "betas" and not (hasattr(value, "__len__") and len(value) > 1):
            return f"{key} is {value!r}. Set it to two numbers."
        pair = isinstance(value, (list, tuple)) and key == "betas"
        for i, item in enumerate(value if pair else (value,)):
            if not is_number(item):
                return not_a_number(f"{key}[{i}]" if pair else key, item)
    return ""


def is_number(value: Any) -> bool:
    """Whether a value is a number, a tensor, or converts to a number as numpy's arrays without dimensions do."""
    if isinstance(value, (Real, Tensor)):
        return True
    converts = hasattr(type(value), "__float__") or hasattr(type(value), "__index__")
    return converts and getattr(value, "ndim", 0) == 0


def not_a_number(name: str, value: Any) -> str:
    return f"{name} is {value!r}, which is not a number. {_FIX}"


def place(index: int, key: str) -> str:
    """How errors name an item of a group."""
    return f"param_groups[{index}][{key!r}]"


def check_pair(value: Any, index: int, key: str) -> None:
    """Raises, with Python's sentences for `beta1, beta2 = group["betas"]`, if there are not two."""
    found = f"{place(index, key)} is {value!r}. Set it to two numbers."
    try:
        n = len(value)
    except TypeError:
        raise TypeError(found) from None
    if n > 2:
        raise ValueError(f"too many values to unpack (expected 2). {found}")
    if n < 2:
        raise ValueError(f"not enough values to unpack (expected 2, got {n}). {found}")


def check_group(group: dict[str, Any], index: int, keys: Iterable[str]) -> None:
    """Raises TypeError or ValueError for an item of a group that is not a number, or not two."""
    for key in keys:
        value = group[key]
        if key == "betas":
            check_pair(value, index, key)
        for item in value if key == "betas" else (value,):
            if not is_number(item):
                raise TypeError(not_a_number(place(index, key), item))


def with_floats(group: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """The group, with floats where it has what torch's operations do not all take, as numpy's arrays."""
    floats = {key: _float(group[key]) for key in keys if key in group and _float(group[key]) is not group[key]}
    return {**group, **floats} if floats else group


def _float(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and not all(isinstance(item, (float, int, Tensor)) for item in value):
        return tuple(map(_float, value))
    return value if isinstance(value, (float, int, list, tuple, Tensor)) or not is_number(value) else float(value)
