# SPDX-License-Identifier: Apache-2.0
"""The README's scripts run as printed, the swap gives what torch gives, and what it points to is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
pytestmark = pytest.mark.skipif(not README.exists(), reason="needs the source tree")
TEXT = README.read_text() if README.exists() else ""


def blocks(language):
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.M | re.S)


def side(diff, sign):
    """The script before ("-") or after ("+") a diff."""
    return "\n".join(line[1:] for line in diff.splitlines() if line[:1] in ("", " ", sign))


def run(script):
    names = {"__name__": "__main__"}
    exec(compile(script, "README.md", "exec"), names)
    return names


@pytest.mark.parametrize("script", blocks("python"))
def test_a_script_runs_as_printed(script):
    run(script)


def test_the_swap_changes_neither_loss_nor_learning_rate():
    (diff,) = blocks("diff")
    theirs, ours = run(side(diff, "-")), run(side(diff, "+"))
    assert "fusedsched" not in side(diff, "-") and type(ours["opt"]).__module__.startswith("fusedsched")
    assert ours["loss"].item() == pytest.approx(theirs["loss"].item(), rel=1e-4)
    assert ours["sched"].get_last_lr() == pytest.approx(theirs["sched"].get_last_lr(), rel=1e-11, abs=1e-14)


def test_there_are_scripts_to_run():
    assert len(blocks("python")) == 3 and len(blocks("diff")) == 1


def test_files_and_make_targets_that_it_names_exist():
    paths = set(re.findall(r"\]\(([^)#:]+)\)", TEXT))
    paths |= set(re.findall(r"`((?:docs|csrc|fusedsched|benchmarks)/[\w./-]+)`", TEXT))
    missing = [path for path in paths if not (README.parent / path).exists()]
    assert paths and not missing
    makefile = (README.parent / "Makefile").read_text()
    named = set(re.findall(r"(?:^|`)make (\w+)", TEXT, re.M))
    assert named and all(re.search(rf"^{target}:", makefile, re.M) for target in named)


TABLES = re.findall(r"<!-- benchmark table: python (.+?) -->\n(.*?)<!-- end -->", TEXT, re.S)


@pytest.mark.parametrize(("command", "shown"), TABLES)
def test_a_table_of_figures_is_what_the_script_prints(command, shown):
    done = subprocess.run([sys.executable, *command.split()], cwd=README.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert shown.strip() == done.stdout.strip()


def test_there_are_times_and_counts():
    assert "gates passed" in TABLES[0][1] and "recompilations" in TABLES[1][1] and len(TABLES) == 2
