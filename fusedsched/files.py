# SPDX-License-Identifier: Apache-2.0
"""Files of results and pictures: tried before minutes are spent on them, and written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def check_writable(path: Path) -> None:
    """Raises OSError where a file cannot be written. A file beside it is tried, and gone when this returns.

    >>> check_writable(Path("/no/such/folder/lr.svg"))
    Traceback (most recent call last):
    FileNotFoundError: '/no/such/folder/lr.svg' cannot be written: there is no folder '/no/such/folder'.
    """
    if not os.path.isdir(path.parent):
        raise FileNotFoundError(f"{str(path)!r} cannot be written: there is no folder {str(path.parent)!r}.")
    _check_no_folder(path)
    with _beside(path) as beside:
        beside.write_bytes(b"")  # permission bits tell root nothing, and know of no read-only file system


def write_whole(path: Path, content: bytes) -> None:
    """Writes beside the target and renames, so that nobody ever sees a half-written file. Raises OSError."""
    _check_no_folder(path)
    with _beside(path) as beside:
        beside.write_bytes(content)
        os.replace(beside, path)


def write_json(path: Path, content: Any) -> None:
    """Plain data as JSON, written as by `write_whole`. Raises OSError."""
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, if they are missing. Raises OSError where that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"{str(path)!r} cannot be made a folder: {error.strerror or error}.") from None


def _check_no_folder(path: Path) -> None:
    if os.path.isdir(path):  # which is no for a name that is too long; Path.is_dir() raises there
        raise IsADirectoryError(f"{str(path)!r} cannot be written: it is a folder.")


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A name beside a file, for this process; what is left there is removed, and an error names the file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
    except OSError as error:
        raise type(error)(f"{str(path)!r} cannot be written: {error.strerror or error}.") from None
    finally:
        with suppress(OSError):  # where nothing can be written there is nothing to remove
            beside.unlink(missing_ok=True)
