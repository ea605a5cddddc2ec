# SPDX-License-Identifier: Apache-2.0
"""Loads that do everything or nothing: state from a file may be damaged anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

# What code raises that did not expect its input: it says nothing to a user.
_BARE = (AttributeError, IndexError, KeyError, OverflowError, RecursionError)


@contextmanager
def all_or_nothing(what: str, undo: Callable[[], None]) -> Iterator[None]:
    """Undoes what was done where something raises, and says what cannot be loaded: KeyError and ValueError.

    >>> with all_or_nothing("This state", lambda: print("undone")):
    ...     {}["state"]
    Traceback (most recent call last):
        ...
    KeyError: "This state cannot be loaded: KeyError: 'state'. It is damaged or of another kind. Nothing was changed."
    """
    try:
        yield
    except Exception as error:
        undo()
        if not isinstance(error, _BARE):
            raise
        kind = KeyError if isinstance(error, KeyError) else ValueError
        raise kind(
            f"{what} cannot be loaded: {type(error).__name__}: {error}. It is damaged or of another kind. Nothing was "
            "changed."
        ) from error
