# SPDX-License-Identifier: Apache-2.0
"""Schedules as plain data for checkpoints, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
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


def read(data: Any, kinds: Mapping[str, type]) -> Any:
    """The schedule that `to_plain` wrote, or its text. Raises ValueError for anything else."""
    try:
        data = json.loads(data) if isinstance(data, str) else data
        return from_plain(data if isinstance(data, dict) else {"schedule": data}, kinds)
    except RecursionError:
        raise ValueError("This is not a saved schedule: it is nested too deeply.") from None


def from_plain(data: Any, kinds: Mapping[str, type]) -> Any:
    """The schedule that `to_plain` wrote. `kinds`: the classes by name. Raises ValueError for what it did not write."""
    if isinstance(data, list):
        return tuple(from_plain(item, kinds) for item in data)
    if not isinstance(data, Mapping):
        return data
    name = data.get("schedule")
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(
            f"This is not a saved schedule: its kind is {name!r}. Known kinds: {sorted(kinds)}. It may come from a "
            "newer version."
        )
    known = {field.name: field.default is MISSING for field in fields(kind)}
    unknown = sorted(set(data) - set(known) - {"schedule"})
    missing = [field for field, needed in known.items() if needed and field not in data]
    if unknown or missing:
        raise ValueError(
            f"This is not a saved schedule: {name} has unknown fields {unknown} and lacks {missing}. Known fields: "
            f"{sorted(known)}. It may come from a newer version."
        )
    values = {field: from_plain(value, kinds) for field, value in data.items() if field != "schedule"}
    try:
        return kind(**values)
    except (TypeError, AttributeError) as error:
        types = ", ".join(f"{field}: {type(value).__name__}" for field, value in data.items())
        raise ValueError(f"This is not a saved schedule: {name} got a wrong type ({error}). It has {types}.") from error
