# SPDX-License-Identifier: Apache-2.0
"""Files of results and pictures: checked before the work, and written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def check_writable(path: Path) -> None:
    """Raises OSError if a file cannot be written. Tries a temporary file in its folder and removes it.

    >>> check_writable(Path("/no/such/folder/lr.svg"))
    Traceback (most recent call last):
    FileNotFoundError: '/no/such/folder/lr.svg' cannot be written: there is no folder '/no/such/folder'.
    """
    if not os.path.isdir(path.parent):
        raise FileNotFoundError(f"{str(path)!r} cannot be written: there is no folder {str(path.parent)!r}.")
    _check_no_folder(path)
    with _temporary(path) as temporary:
        temporary.write_bytes(b"")  # permission bits do not cover root and read-only file systems


def write_whole(path: Path, content: bytes) -> None:
    """Writes a temporary file and renames it, so that the file is never half-written. Raises OSError."""
    _check_no_folder(path)
    with _temporary(path) as temporary:
        temporary.write_bytes(content)
        os.replace(temporary, path)


def write_json(path: Path, content: Any) -> None:
    """Plain data as JSON, written as by `write_whole`. Raises OSError."""
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def make_folder(path: Path) -> None:
    """Creates a folder and its parents, if they are missing. Raises OSError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"{str(path)!r} cannot be made a folder: {error.strerror or error}.") from None


def _check_no_folder(path: Path) -> None:
    if os.path.isdir(path):  # False for a name that is too long; Path.is_dir() raises
        raise IsADirectoryError(f"{str(path)!r} cannot be written: it is a folder.")


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of a file. Removes it at the end; errors name the file itself."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
    except OSError as error:
        raise type(error)(f"{str(path)!r} cannot be written: {error.strerror or error}.") from None
    finally:
        with suppress(OSError):  # if it could not be written, there is nothing to remove
            temporary.unlink(missing_ok=True)
