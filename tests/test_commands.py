# SPDX-License-Identifier: Apache-2.0
"""Laws of all commands: exit codes and words, JSON, help, plain output, whole files, optional packages. The table of
command lines is cases_commands.py."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases_commands import BAD, FAILS, GOOD, JSON, MODULE

import fusedsched as fs
from fusedsched import _native, cli, files, info, schedules as S
from fusedsched.plotting import figure, objects

ROOT = Path(__file__).resolve().parents[1]
PROGRESS = re.compile(r"(\d+ cases, about .* on an idle machine|[ \d]+ % +\d+ s left  .*)\n")
LINES = {**GOOD, **BAD}
needs_extension = pytest.mark.skipif(_native.module() is None, reason=f"no extension: {_native.reason()}")


def run(*argv):
    """The exit code of a command, however it ends."""
    try:
        return cli.main(list(argv))
    except SystemExit as end:
        return end.code


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with the user's modules in it."""
    (tmp_path / "trials.py").write_text(MODULE)
    (tmp_path / "fails.py").write_text(FAILS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))  # fusedsched.benchmarks of a source tree
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("trials", "fails"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    sys.modules.pop("trials", None)


def written(folder):
    return {path.name for path in folder.iterdir()} - {"trials.py", "fails.py", "__pycache__"}


@pytest.mark.parametrize("name", LINES)
def test_exit_codes_and_words(name, folder, capsys):
    argv, code, words = LINES[name]
    if argv[:1] == ["bench"] and _native.module() is None:
        pytest.skip("nothing to measure")
    assert run(*argv) == code
    printed = capsys.readouterr()
    assert words in (printed.err if code else printed.out)
    assert ("Traceback" in printed.err) == (code == 1)  # the user's own errors are shown where they happened
    assert printed.out == "" if code else PROGRESS.sub("", printed.err) == ""
    assert written(folder) == set()


def test_the_table_has_every_command():
    assert {argv[0] for argv, _, _ in BAD.values() if argv} >= set(cli.COMMANDS)


@needs_extension
@pytest.mark.parametrize("name", JSON)
def test_json_is_all_that_is_in_its_place(name, folder, capsys):
    argv, key = JSON[name]
    assert run(*(str(folder / "a.json") if word == "FILE" else word for word in argv)) == 0
    printed = capsys.readouterr()
    text = (folder / "a.json").read_text() if "FILE" in argv else printed.out
    assert key in json.loads(text) and PROGRESS.sub("", printed.err) == ""
    assert written(folder) == ({"a.json"} if "FILE" in argv else set())


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_has_an_example_and_exit_codes(name, folder, capsys):
    assert cli.COMMANDS[name].example.split()[0] == name and name in cli.usage()
    assert run(name, "--help") == 0
    printed = capsys.readouterr().out
    assert re.match(rf"usage: (python -m )?fusedsched {name} ", printed)
    assert "exit codes" in printed.lower() and f"python -m fusedsched {name}" in printed


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="needs the source tree")
def test_the_document_shows_the_help_and_a_line_for_each_command():
    text = (ROOT / "docs" / "command-line.md").read_text()
    assert f"$ python -m fusedsched --help\n{cli.usage()}```" in text
    assert all(f"\n| `{name}` | " in text for name in (*cli.COMMANDS, "bench compare", "bench counts"))


@pytest.mark.parametrize("word", ("--version", "version"))
def test_version(word, capsys):
    assert run(word) == 0 and capsys.readouterr().out == f"fusedsched {fs.__version__}\n"


def test_an_interrupted_command_says_so(monkeypatch, capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "main", interrupted)
    assert run("info") == 130 and capsys.readouterr().err == "\ninterrupted\n"


def full(*args):
    raise OSError(28, "disk full")


BROKEN = {
    "write": lambda patch: patch.setattr(Path, "write_bytes", full),
    "rename": lambda patch: patch.setattr(os, "replace", full),
}


@pytest.mark.parametrize("fails", BROKEN.values(), ids=list(BROKEN))
def test_a_file_that_cannot_be_written_leaves_the_old_one_and_is_named(fails, monkeypatch, tmp_path, capsys):
    file = tmp_path / "a.json"
    file.write_text("old")
    monkeypatch.setattr(info, "main", lambda argv: files.write_json(file, {}))
    with monkeypatch.context() as patch:
        fails(patch)
        assert run("info") == 2
    assert capsys.readouterr().err == f"error: '{file}' cannot be written: disk full.\n"
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(not figure.available(), reason="needs matplotlib")
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_pictures_to_files(kind, folder, capsys):
    assert run("plot", "linear(1, 0, 5)", "--out", f"lr.{kind}") == 0
    assert run("lr-find", "trials:trial", "--json", "--out", f"find.{kind}") == 0
    printed = capsys.readouterr()
    first, rest = printed.out.split("\n", 1)
    assert first == f"lr.{kind}" and (folder / first).stat().st_size > 1000
    found = json.loads(rest)
    assert found["suggestion"] == found["suggestions"]["valley"]["lr"] and len(found["lrs"]) == len(found["losses"])
    assert f"find.{kind}" in printed.err and written(folder) == {f"lr.{kind}", f"find.{kind}"}


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
DEMO = ("demo", "--quick", "--steps", "4", "--device", "cpu")


def process(code, **environment):
    """A program in a process of its own, into pipes."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environment}
    env.pop("NO_COLOR", None)
    env["OMP_NUM_THREADS"] = "1"  # on a busy machine, threads would wait for each other
    return subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=env, timeout=300)


def without_packages(*commands, **environment):
    """What each of some commands prints where optional packages are missing, and what all write to stderr."""
    done = process(WITHOUT.format(without=OPTIONAL, commands=[list(argv) for argv in commands]), **environment)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert not any(sign in done.stdout + done.stderr for sign in ("\x1b", "\r", "\b"))
    found = re.findall(r"(.*?)exit code (\d+)\n", done.stdout, re.S)
    assert len(found) == len(commands)
    return [(text, int(code)) for text, code in found], done.stderr


def test_commands_need_no_optional_package_and_send_no_control_characters_into_pipes(folder):
    lines = [GOOD[name] for name in ("info", "plot: an expression", "lr-find", "verify: a case", "bench: smoke")]
    found, _ = without_packages(*(argv for argv, _, _ in lines))
    assert [(code, words in text) for (text, code), (_, _, words) in zip(found, lines, strict=True)] == [(0, True)] * 5


def test_the_demo_too_and_letters_that_an_output_lacks_are_no_error(folder):
    ((text, code),), _ = without_packages(DEMO, PYTHONIOENCODING="ascii")
    assert code == 0 and "pip install 'fusedsched[plot]'" in text


def test_what_needs_a_package_says_which_extra_to_install_and_leaves_nothing(folder):
    found, errors = without_packages(("plot", "0.1", "--out", "a.svg"), ("lr-find", "trials:trial", "--out", "a.svg"))
    assert [code for _, code in found] == [2, 2] and errors.count("pip install 'fusedsched[plot]'") == 2
    assert written(folder) == set()


def test_an_expression_is_drawn_without_torch_and_without_matplotlib():
    code = (
        "import sys; from fusedsched import cli; cli.main(['plot', 'linear(1, 0, 5)']); "
        "print({'torch', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    done = process(code)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_a_reader_that_has_gone_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    line = [sys.executable, "-u", "-m", "fusedsched", "plot", "0.1"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(line, stdout=writing, stderr=subprocess.PIPE, env=env, timeout=120)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


# ---- what single commands do ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "steps"), [("one_cycle", 50), ("cyclic", 60)])
def test_plot_draws_the_momentum_that_torch_cycles(name, steps, folder):
    curves = objects.schedules_of(f"trials:{name}")
    scheduler = objects.load(f"trials:{name}")
    for u in range(steps):
        (group,) = scheduler.optimizer.param_groups
        for key in ("lr", "momentum"):
            ((_, schedule),) = curves[key]
            assert schedule(u) == pytest.approx(group[key], rel=1e-11), (key, u)
        scheduler.optimizer.step()
        if u < steps - 1:
            scheduler.step()


def test_plot_searches_the_working_directory(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(folder))])
    assert objects.load("trials:schedule") == S.linear(1.0, 0.0, steps=10)
    assert isinstance(objects.load("trials:plain"), torch.optim.SGD)


def test_info_prints_versions_and_backends(capsys):
    assert run("info") == 0
    printed = capsys.readouterr().out
    assert re.search(rf"^torch +{re.escape(torch.__version__)}$", printed, re.M)
    assert re.search(r"^  reference +works$", printed, re.M)
    facts = info.collect()
    assert set(facts["optional packages"]) == {name for name, _, _ in info.OPTIONAL}
    assert facts["chosen by itself"]["cpu"] in facts["backends"]


@needs_extension
@pytest.mark.parametrize("threads", [1, 2])
def test_parallel_code_in_the_extension_runs_on_all_threads(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert _native.module().threads_used() == threads
    finally:
        torch.set_num_threads(before)


@needs_extension
def test_there_is_one_openmp_runtime():
    _native.module().threads_used()
    assert len(info.openmp_runtimes()) == 1


def test_info_notices_idle_threads_and_a_second_openmp():
    facts = {"extension": {"threads used": 1}, "torch threads": 2, "openmp": ["/a/libgomp.so.1", "/b/libiomp5.so"]}
    assert len(info.warnings_of(facts)) == 2
