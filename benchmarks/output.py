# SPDX-License-Identifier: Apache-2.0
"""Files of results, as JSON."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Save = Callable[[dict[str, Any]], None]


def ignore(results: dict[str, Any]) -> None:
    """Where nothing is to be saved."""


def read_results(path: Path) -> dict[str, Any]:
    """Results that `bench --json` wrote. Raises ValueError for anything else."""
    try:
        results = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"{path}: is not JSON") from None
    if not isinstance(results, dict) or not {"machine", "rows"} <= results.keys():
        raise ValueError(f"{path}: holds no results; write some with: python -m fusedsched bench --json {path}")
    return results
