# SPDX-License-Identifier: Apache-2.0
"""Python values that a driver compares with what they were: `csrc/bindings/watched_value.h` in Python."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from torch import Tensor


def scalar(value: Any) -> float:
    """A rate as a Python float, also when it is a tensor of one element (on a device, this waits for it)."""
    return value.item() if isinstance(value, Tensor) else float(value)


def copied(value: Any) -> Any:
    """The value, or a copy of a tensor, which does not change with later writes."""
    return value.clone() if isinstance(value, Tensor) else value


def same(a: Any, b: Any) -> bool:
    """Whether two hyperparameters are the same object or equal numbers."""
    if type(a) is float and type(b) is float:  # as a rule
        return a is b or a == b
    return a is b and not isinstance(a, Tensor) or scalar(a) == scalar(b)


class WatchedValue(NamedTuple):
    """A number as it was: the object, the version of a tensor, the value."""

    item: Any
    version: int
    value: Any

    @classmethod
    def of(cls, item: Any) -> WatchedValue:
        return cls(item, version_of(item), copied(item))


def version_of(item: Any) -> int:
    """-1 for what has no version counter."""
    return item._version if isinstance(item, Tensor) and not item.is_inference() else -1


def snapshot(container: Any) -> Any:
    if isinstance(container, Counter):
        return dict(container)
    return None if container is None else [WatchedValue.of(item) for item in container]


def matches(container: Any, snapshot: Any) -> bool:
    if isinstance(snapshot, dict):
        return isinstance(container, dict) and dict.__eq__(container, snapshot) is True
    if container is None or snapshot is None:
        return container is snapshot
    return len(container) == len(snapshot) and all(map(is_equal, container, snapshot))


def is_equal(now: Any, before: WatchedValue) -> bool:
    if now is before.item and before.version >= 0 and now._version == before.version:
        return True  # the value of a tensor on a device would have to be waited for
    if now is None or before.value is None:
        return now is before.value
    try:
        return same(now, before.value)
    except TypeError:
        return False  # other members of a composite
