# SPDX-License-Identifier: Apache-2.0
"""Progress: a few plain lines, the same in a terminal as elsewhere, and none for what is over at once."""

import io

import pytest

from fusedsched.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", (io.StringIO, Terminal))
@pytest.mark.parametrize(("lines", "after", "printed"), ((10, 0.0, 10), (3, 0.0, 3), (10, 60.0, 0)))
def test_lines_without_control_characters(stream, lines, after, printed):
    out = stream()
    with progress(100, lines=lines, after=after, stream=out) as show:
        for done in range(1, 101):
            show(done, f"[loss] {done}")
    text = out.getvalue().splitlines()
    assert len(text) == printed and not any(sign in out.getvalue() for sign in "\x1b\r\b")
    assert not text or text[-1] == "100 %     0 s left  [loss] 100"
