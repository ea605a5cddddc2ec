# SPDX-License-Identifier: Apache-2.0
"""How much memory a step takes, and how much there is."""

from __future__ import annotations

import os
import re
from pathlib import Path

_STATUS, _REFS, _MEMINFO = (Path("/proc") / name for name in ("self/status", "self/clear_refs", "meminfo"))


def _kilobytes(text: str, name: str) -> int | None:
    """A field of a file of /proc.

    >>> _kilobytes("VmHWM:\\t  2048 kB\\nVmRSS:\\t 1024 kB\\n", "VmRSS")
    1024
    """
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.M)
    return int(found[1]) if found else None


class Peak:
    """`bytes`: by how much this process grew while the block ran, at most; None where the system does not say."""

    bytes: int | None = None

    def __enter__(self) -> Peak:
        try:
            _REFS.write_text("5")  # sets the high water mark to what is used now
            self._before = _kilobytes(_STATUS.read_text(), "VmRSS")
        except OSError:
            self._before = None
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is None:
            return
        after = _kilobytes(_STATUS.read_text(), "VmHWM")
        self.bytes = None if after is None else max(0, after - self._before) * 1024


def available() -> int | None:
    """Bytes that may be taken without paging; None where the system does not say."""
    try:
        kilobytes = _kilobytes(_MEMINFO.read_text(), "MemAvailable")
    except OSError:
        try:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError):
            return None
    return None if kilobytes is None else kilobytes * 1024
