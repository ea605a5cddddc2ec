# SPDX-License-Identifier: Apache-2.0
"""One regression case per trouble that was found in torch or beside it: `trouble/m9-scheduler-loaded-alone`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from fusedsched.verify import compiling, machine, trouble_schedulers, trouble_updates
from fusedsched.verify.check import Check, Level

TROUBLES = trouble_updates.TROUBLES | trouble_schedulers.TROUBLES
_NOT_SHOWN = {
    "m15": "16-bit parameters that small updates cannot move stay where they are, as with torch",
    "m17": "launches per step are counted by make test-gpu",
}


def _by_number(name: str) -> tuple[int, str]:
    return int(name.split("-")[0][1:]), name


def checks(level: Level) -> Iterator[Check]:
    compiles = compiling.absent() is None
    for name in sorted(TROUBLES, key=_by_number):
        trouble = TROUBLES[name]
        if trouble.compiles and not compiles:
            continue
        if not trouble.per_backend:
            yield Check(f"trouble/{name}", "trouble", name, "any", trouble.run)
            continue
        for backend in machine.present():
            yield Check(f"trouble/{name}/{backend}", "trouble", name, backend, partial(trouble.run, backend), backend)


def left_out(level: Level) -> Iterator[tuple[str, str]]:
    yield from ((f"trouble {name}", reason) for name, reason in _NOT_SHOWN.items())
