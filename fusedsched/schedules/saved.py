# SPDX-License-Identifier: Apache-2.0
"""Schedules as plain data for checkpoints, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from typing import Any


def to_plain(value: Any) -> Any:
    """A schedule, or a field of one, as dicts, lists, strings and numbers. Fields at their default are left out."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if not hasattr(value, "__dataclass_fields__"):
        return value
    data = {"schedule": type(value).__name__}
    for field in fields(value):
        if getattr(value, field.name) != field.default:
            data[field.name] = to_plain(getattr(value, field.name))
    return data


def from_plain(data: Any, kinds: Mapping[str, type]) -> Any:
    """The schedule that `to_plain` wrote. `kinds`: the classes by name."""
    if isinstance(data, list):
        return tuple(from_plain(item, kinds) for item in data)
    if not isinstance(data, Mapping):
        return data
    kind = kinds.get(data.get("schedule"))
    known = {field.name for field in fields(kind)} if kind else set()
    unknown = sorted(set(data) - known - {"schedule"})
    if kind is None or unknown:
        raise ValueError(
            f"This is not a saved schedule: kind {data.get('schedule')!r}, unknown fields {unknown}. "
            f"Known kinds: {sorted(kinds)}. It may come from a newer version."
        )
    return kind(**{name: from_plain(value, kinds) for name, value in data.items() if name != "schedule"})
