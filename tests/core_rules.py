# SPDX-License-Identifier: Apache-2.0
"""The rules as the headers of csrc/core list them, read off their text."""

import re
from pathlib import Path
from typing import NamedTuple

CORE = Path(__file__).resolve().parents[1] / "csrc" / "core"


class CoreRule(NamedTuple):
    """`template` and `arguments`: of its type."""

    name: str
    template: str
    arguments: tuple[str, ...]


def rules() -> list[CoreRule]:
    """In the order of FS_RULES, which numbers them."""
    text = "".join(path.read_text() for path in sorted(CORE.glob("*.h"))).replace("\\\n", " ")
    lists = dict(re.findall(r"#define (FS_\w+_RULES)\(X\)(.*)", text))
    found = []
    for name in re.findall(r"FS_\w+_RULES", re.search(r"#define FS_RULES\(X\)(.*)", text)[1]):
        for rule, template, words in re.findall(r"X\(k(\w+), (\w+)(?:<([^>]*)>)?\)", lists[name]):
            found.append(CoreRule(rule, template, tuple(word.strip() for word in words.split(",") if word)))
    return found
