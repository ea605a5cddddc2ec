# SPDX-License-Identifier: Apache-2.0
"""`python -m fusedsched verify`."""

from __future__ import annotations

import argparse
import difflib
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from fusedsched.files import check_writable, write_json
from fusedsched.progress import progress
from fusedsched.runtime.backends import backends
from fusedsched.verify import (
    agreement,
    compiling,
    edges,
    evaluators,
    formulas,
    machine,
    replaying,
    report,
    resuming,
    size,
    skipping,
    updates,
)
from fusedsched.verify.check import DEFAULT, FULL, LEVELS, QUICK, Check, Level, run_check

KINDS = (formulas, evaluators, updates, agreement, edges, size, skipping, resuming, compiling, replaying)
_NEAR = 5  # similar names to list for an unknown one
EXAMPLES = """\
examples:
  python -m fusedsched verify --quick                                fewer checks, under a minute
  python -m fusedsched verify --full --json report.json              all checks, and a report for a bug
  python -m fusedsched verify --backend cpu                          the checks of one backend
  python -m fusedsched verify --case AdamW/float32/cosine/cpu        one check again

Exit codes: 0 trusted, 1 not, 2 the command line was not understood.
"""


def checks(level: Level) -> Iterator[Check]:
    """All checks of this machine, in the order of the report."""
    for kind in KINDS:
        numbers = count()
        for check in kind.checks(level):
            slow = check.backend is not None and machine.slow(check.backend)
            if not slow or next(numbers) % level.slow_part == 0:
                yield check


def left_out(level: Level) -> list[tuple[str, str]]:
    """What cannot be verified here, with the reason."""
    rows = [row for kind in KINDS if hasattr(kind, "left_out") for row in kind.left_out(level)]
    slow = [backend for backend in machine.present() if machine.slow(backend)]
    if slow and level.slow_part > 1:
        why = f"its kernels are interpreted, so only one check in {level.slow_part} is run; --full runs all"
        rows += [(f"most of {backend}", why) for backend in slow]
    return rows


def find(wanted: str, level: Level) -> Check:
    """The check with this id. Raises ValueError with similar ids for an unknown one."""
    missing = backends().get(wanted.rpartition("/")[2])
    if missing is not None:
        raise ValueError(f"The backend of {wanted} is missing here: {missing}.")
    parsed = updates.parse(wanted, level)
    if parsed is not None:
        return parsed
    known: dict[str, Check] = {}
    for some in (level, *LEVELS):
        for check in checks(some):
            if check.id == wanted:
                return check
            known.setdefault(check.id, check)
    begins = [name for name in known if name.startswith(wanted)][:_NEAR]
    near = begins or difflib.get_close_matches(wanted, known, n=_NEAR)
    hint = f"Near ids: {', '.join(near)}." if near else "An id is like AdamW/float32/cosine/cpu or edge/threads/cpu."
    raise ValueError(f"Unknown case: {wanted!r}. {hint} All of them: python -m fusedsched verify --full --list")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m fusedsched verify",
        description="Compares every backend of this machine with a computation in a wider type and with torch, and "
        "prints whether the machine can be trusted.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    amount = found.add_mutually_exclusive_group()
    amount.add_argument("--quick", action="store_true", help="fewer checks, under a minute")
    amount.add_argument("--full", action="store_true", help="all checks, over 1,000 updates")
    found.add_argument("--backend", metavar="NAME", help="only the checks of this backend: " + ", ".join(backends()))
    found.add_argument("--case", metavar="ID", help="one check, such as AdamW/float32/cosine/cpu")
    found.add_argument("--list", action="store_true", help="print the ids of the checks, and run none")
    found.add_argument("--json", type=Path, metavar="FILE", help="write a report there, to attach to a bug")
    return found


def _understood(command: argparse.ArgumentParser, args: argparse.Namespace) -> tuple[Level, list[Check]]:
    level = QUICK if args.quick else FULL if args.full else DEFAULT
    if args.backend is not None and backends().get(args.backend, "unknown") is not None:
        here = ", ".join(name for name, missing in backends().items() if missing is None)
        why = backends().get(args.backend, "there is no such backend")
        command.error(f"--backend {args.backend}: {why}. Available: {here}.")
    try:
        if args.json is not None:
            check_writable(args.json)
    except OSError as error:
        command.error(f"--json: {error}")
    try:
        todo = [find(args.case, level)] if args.case is not None else list(checks(level))
    except ValueError as error:
        command.error(str(error))
    todo = [check for check in todo if args.backend is None or check.backend == args.backend]
    if not todo:
        command.error(f"--case {args.case} does not run on the backend {args.backend}")
    return level, todo


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the checks. Returns 0 if all pass and 1 if one fails. Exits with 2, before any work, if an argument is
    wrong."""
    command = parser()
    args = command.parse_args(argv)
    level, todo = _understood(command, args)
    if args.list:
        print("\n".join(check.id for check in todo))
        return 0
    whole = args.case is None and args.backend is None
    absent = left_out(level) if whole else []
    report.heading(todo, absent)
    began, results = time.monotonic(), []
    with progress(len(todo)) as show, updates.one_thread():
        for done, check in enumerate(todo):
            show(done, check.id)
            results.append(run_check(check))
    seconds = time.monotonic() - began
    report.tables(results)
    failed = [result for result in results if not result.verdict.passed]
    report.failures(failed)
    if args.json is not None:
        write_json(args.json, report.collect(results, level, absent, whole, seconds))
        print(f"{args.json}: written; attach it to a bug as it is.")
    report.last_line(results, level, whole, seconds)
    return 1 if failed else 0
