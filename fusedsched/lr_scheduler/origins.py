# SPDX-License-Identifier: Apache-2.0
"""From where a closed form comes."""

from __future__ import annotations

from typing import Any, NamedTuple


class Origins(NamedTuple):
    """Where the closed form of each group starts, (clock, rate), and the settings under which that is so.

    Without any, it starts where the scheduler stands, from the rate that it wrote last.
    """

    points: list[tuple[int, float]]
    settings: tuple[Any, ...]
