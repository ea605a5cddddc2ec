# SPDX-License-Identifier: Apache-2.0
"""Shared by all commands: argparse types that check numbers and file names, and near names for unknown ones."""

from __future__ import annotations

import difflib
import math
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable
from pathlib import Path

PICTURE_KINDS = ("png", "svg")


def near_names(name: str, known: Iterable[str]) -> str:
    """A sentence with the known names near an unknown one; with all of them if none is near.

    >>> near_names("cosin", ["cosine", "linear"]), near_names("x", ["cosine", "linear"])
    ('Near names: cosine.', 'There are: cosine, linear.')
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=4, cutoff=0.6)
    if len(name) > 2:
        near += [other for other in names if other not in near and (name in other or other in name)]
    return f"Near names: {', '.join(near)}." if near else f"There are: {', '.join(names)}."


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """An argparse type: an integer from `least` to `most`.

    >>> integer(3)("100")
    100
    >>> integer(3)("2")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: '2' is not a whole number of 3 or more
    """
    wanted = f"of {least:,} or more" if most is None else f"from {least:,} to {most:,}"

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise ArgumentTypeError(f"{text!r} is not a whole number {wanted}")
        return value

    return read


def learning_rate(text: str) -> float:
    """An argparse type: a learning rate, above 0 and finite.

    >>> learning_rate("3e-4")
    0.0003
    >>> learning_rate("nan")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: 'nan' is not a learning rate: a finite number above 0
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise ArgumentTypeError(f"{text!r} is not a learning rate: a finite number above 0")
    return value


def picture_file(text: str) -> Path:
    """An argparse type: the name of a picture, .png or .svg.

    >>> picture_file("lr.gif")
    Traceback (most recent call last):
    argparse.ArgumentTypeError: 'lr.gif' must end in .png or .svg
    """
    if Path(text).suffix[1:].lower() not in PICTURE_KINDS:
        raise ArgumentTypeError(f"{text!r} must end in .png or .svg")
    return Path(text)
