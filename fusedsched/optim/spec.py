# SPDX-License-Identifier: Apache-2.0
"""The scalars of a group that can be checked and scheduled: where they sit, what they may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


def not_negative(what: str) -> Callable[[Any], None]:
    """A check with torch's sentence, `Invalid {what}: {value}`."""

    def check(value: Any) -> None:
        if not 0.0 <= value:
            raise ValueError(f"Invalid {what}: {value}. It must be zero or more.")

    return check


def not_nan(what: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if value != value:
            raise ValueError(f"Invalid {what}: {value}. It must be a number.")

    return check


def one_of_unit_interval(what: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if not 0.0 <= value < 1.0:
            raise ValueError(f"Invalid {what}: {value}. It must be in [0, 1).")

    return check


@dataclass(frozen=True)
class Slot:
    """One scalar of a group: `group[key]`, or `group[key][item]`."""

    name: str
    key: str
    item: int | None
    check: Callable[[Any], None]
    schedulable: bool = True

    def read(self, group: dict[str, Any]) -> Any:
        value = group[self.key]
        return value if self.item is None else value[self.item]

    def write(self, group: dict[str, Any], value: Any) -> None:
        if self.item is not None:
            value = tuple(value if i == self.item else x for i, x in enumerate(group[self.key]))
        group[self.key] = value

    def verify(self, group: dict[str, Any]) -> None:
        """Raises ValueError if the group's value is not allowed. A value on a device is not looked at: that waits.
        None is to be filled in before the first step, which asks for numbers."""
        if group[self.key] is None:
            return
        value = self.read(group)
        if isinstance(value, Tensor) and (value.device.type != "cpu" or value.numel() != 1):
            return
        self.check(value)
