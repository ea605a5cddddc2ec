# SPDX-License-Identifier: Apache-2.0
"""Files of results: checked before minutes are spent on them, and written whole or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Save = Callable[[dict[str, Any]], None]


def ignore(results: dict[str, Any]) -> None:
    """Where nothing is to be saved."""


def writable(path: Path) -> str | None:
    """Why a file cannot be written there; None where it can. Makes the folder.

    >>> writable(Path("/proc/no/such.json"))[:30]
    '/proc/no/such.json: cannot be '
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{path}: cannot be written: {error.strerror}"
    if path.is_dir():
        return f"{path}: cannot be written: it is a folder"
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return f"{path}: cannot be written: no permission"
    return None


def write(path: Path, data: bytes) -> None:
    """Replaces the file at once."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_results(path: Path, results: dict[str, Any]) -> None:
    write(path, (json.dumps(results, indent=1) + "\n").encode())


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
