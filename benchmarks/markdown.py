# SPDX-License-Identifier: Apache-2.0
"""Tables as Markdown."""

from collections.abc import Sequence


def markdown(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up as plain text too.

    >>> print(markdown([("a", "<"), ("time", ">")], [["x", "1 s"]]))
    | a | time |
    | - | ---: |
    | x |  1 s |
    """
    lines = [[name for name, _ in columns], *rows]
    sides = [side for _, side in columns]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * (w - 1) + (":" if side == ">" else "-") for w, side in zip(widths, sides, strict=True)]
    padded = [
        [f"{text:{side}{width}}" for text, side, width in zip(line, sides, widths, strict=True)] for line in lines
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])
