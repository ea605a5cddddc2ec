# SPDX-License-Identifier: Apache-2.0
"""Progress: a bar in a terminal, lines or nothing elsewhere, and control characters only where they are obeyed."""

import io

import pytest

from fusedsched import progress

CONTROL = ("\x1b", "\r", "\b")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream, lines):
    with progress.progress(100, lines=lines, stream=stream) as show:
        for done in range(1, 101):
            show(done, f"[loss] {done}")
    return stream.getvalue()


@pytest.mark.parametrize("rich", (True, False), ids=("with rich", "without rich"))
@pytest.mark.parametrize(
    ("stream", "term"), ((io.StringIO, "xterm"), (Terminal, "dumb"), (Terminal, "xterm")), ids=("pipe", "dumb", "xterm")
)
@pytest.mark.parametrize("lines", (0, 10))
def test_control_characters_reach_a_terminal_that_obeys_them_alone(monkeypatch, stream, term, rich, lines):
    monkeypatch.setenv("TERM", term)
    if rich:
        pytest.importorskip("rich")
    else:
        monkeypatch.setattr(progress, "find_spec", lambda name: None)
    text = shown(stream(), lines)
    if stream is Terminal and term == "xterm" and rich:
        assert any(sign in text for sign in CONTROL) and "[loss] 100" in text
    else:
        assert not any(sign in text for sign in CONTROL)
        assert len(text.splitlines()) == lines
        assert lines == 0 or text.splitlines()[-1].endswith("left  [loss] 100")


def test_no_color_takes_the_colours_from_a_bar(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm-256color")
    texts = []
    for value in ("", "1"):
        monkeypatch.setenv("NO_COLOR", value)
        texts.append(shown(Terminal(), 0))
    coloured, plain = ("\x1b[38;" in text or "\x1b[3" in text for text in texts)
    assert coloured and not plain
