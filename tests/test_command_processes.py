# SPDX-License-Identifier: Apache-2.0
"""Commands in processes of their own: into pipes, without optional packages, torch or a compiler."""

import os
import re
import subprocess
import sys

from cases_commands import DEMO, GOOD, ROOT, WORK, folder as folder, written

OPTIONAL = ("matplotlib", "numpy", "triton")
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({without!r}))
from fusedsched import cli
for argv in {commands!r}:
    try:
        code = cli.main(argv)
    except SystemExit as end:
        code = end.code
    print("exit code", code, flush=True)
"""


def process(*arguments, stdout=subprocess.PIPE, **environment):
    """Python in a process of its own, into pipes."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment}
    env.pop("NO_COLOR", None)
    env["OMP_NUM_THREADS"] = "1"  # on a busy machine, threads would wait for each other
    line = [sys.executable, *arguments]
    return subprocess.run(line, stdout=stdout, stderr=subprocess.PIPE, encoding="utf-8", env=env, timeout=300)


def without_packages(*commands, **environment):
    """What each of some commands prints where optional packages are missing, and what all write to stderr."""
    done = process("-c", WITHOUT.format(without=OPTIONAL, commands=[*commands]), **environment)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert not any(sign in done.stdout + done.stderr for sign in ("\x1b", "\r", "\b"))
    found = re.findall(r"(.*?)exit code (\d+)\n", done.stdout, re.S)
    assert len(found) == len(commands)
    return [(text, int(code)) for text, code in found], done.stderr


def test_commands_need_no_optional_package_and_send_no_control_characters_into_pipes(folder):
    lines = [GOOD[name] for name in ("info", "plot: an expression", "lr-find", "verify: an update", "bench: smoke")]
    found, _ = without_packages(*(argv for argv, _, _ in lines))
    assert [(code, words in text) for (text, code), (_, _, words) in zip(found, lines, strict=True)] == [(0, True)] * 5


def test_the_demo_too_and_letters_that_an_output_lacks_are_no_error(folder):
    ((text, code),), _ = without_packages(DEMO, PYTHONIOENCODING="ascii")
    assert code == 0 and "pip install 'fusedsched[plot]'" in text


def test_what_needs_a_package_says_which_extra_to_install_and_leaves_nothing(folder):
    found, errors = without_packages(WORK["plot"][0], WORK["lr-find"][0])
    assert [code for _, code in found] == [2, 2] and errors.count("pip install 'fusedsched[plot]'") == 2
    assert written(folder) == set()


def test_an_expression_is_drawn_without_torch_and_without_matplotlib():
    code = (
        "import sys; from fusedsched import cli; cli.main(['plot', 'linear(1, 0, 5)']); "
        "print({'torch', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    done = process("-c", code)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_a_reader_that_has_gone_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = process("-u", "-m", "fusedsched", "plot", "0.1", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_compiler_the_reference_is_verified():
    done = process("-m", "fusedsched", "verify", "--quick", "--list", FUSEDSCHED_NO_EXTENSION="1")
    listed = done.stdout.split()
    assert "AdamW/float32/fixed/reference" in listed and not any(name.endswith(("/cpu", "/C++")) for name in listed)
