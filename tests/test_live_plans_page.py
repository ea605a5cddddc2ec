# SPDX-License-Identifier: Apache-2.0
"""The scripts in docs/live-plans.md run as printed."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "live-plans.md"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="needs the source tree")
SCRIPTS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text() if PAGE.exists() else "", re.M | re.S)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_as_printed(script):
    exec(compile(script, "live-plans.md", "exec"), {"__name__": "__main__"})


def test_there_are_scripts_to_run():
    assert len(SCRIPTS) == 2
