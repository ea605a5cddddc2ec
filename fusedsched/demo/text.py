# SPDX-License-Identifier: Apache-2.0
"""The training text: the source of Python's standard library, which every machine with Python has."""

import sysconfig
from pathlib import Path

import torch

# Not part of the library proper, or not the same on every machine.
SKIPPED = {"__pycache__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "site-packages", "test", "tests"}
HELD_OUT = 12  # every 12th file is validation data


def source_files(root: Path) -> list[Path]:
    """The library's files, in the order of their relative paths (not of the file system)."""
    named = ((path.relative_to(root), path) for path in root.rglob("*.py"))
    return [path for name, path in sorted((n.as_posix(), p) for n, p in named) if not SKIPPED & set(name.split("/"))]


def read(limit: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (train, validation): uint8 tensors, one byte an element. `limit` is the number of files to read.

    Raises `RuntimeError` if Python was installed without the source of its library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = source_files(root)[:limit]
    if len(files) < HELD_OUT:
        raise RuntimeError(
            f"This Python has no source of its standard library in {root}; the demo has no training text."
        )
    train, validation = bytearray(), bytearray()
    for i, path in enumerate(files):
        (validation if i % HELD_OUT == HELD_OUT - 1 else train).extend(path.read_bytes())
    return torch.frombuffer(train, dtype=torch.uint8), torch.frombuffer(validation, dtype=torch.uint8)


def batch(text: torch.Tensor, size: int, length: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws `size` pieces of `length` bytes: (inputs, targets), int64, [size, length]; targets are one byte further."""
    starts = torch.randint(len(text) - length, (size,), generator=generator)
    pieces = torch.stack([text[start : start + length + 1] for start in starts.tolist()]).long()
    return pieces[:, :-1], pieces[:, 1:]
