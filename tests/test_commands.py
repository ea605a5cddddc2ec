# SPDX-License-Identifier: Apache-2.0
"""Properties of all commands: exit codes and words, JSON, help, progress, colours, whole files, interrupts. The
table of command lines is cases_commands.py; commands in processes of their own: test_command_processes.py."""

import io
import json
import re
import sys

import pytest
import torch
from cases_commands import BAD, GOOD, JSON, ROOT, WORK, folder as folder, written
from tiers import full

import fusedsched as fs
from fusedsched import _native, cli, info, schedules as S
from fusedsched.plotting import figure, objects, of_schedules
from fusedsched.progress import progress
from fusedsched.verify import bounds, check, report

PROGRESS = re.compile(r"(\d+ cases, about .* on an idle machine|[ \d]+ % +\d+ s left  .*)\n")
LINES = {**GOOD, **BAD}
needs_extension = pytest.mark.skipif(_native.module() is None, reason=f"no extension: {_native.reason()}")


def slow_to_full(commands):
    """The names of commands; the seconds of some are spent in the full tier alone."""
    return [full(name) if name in ("bench counts", "demo") else name for name in commands]


def skip_what_cannot_run(command):
    if command.startswith("bench") and _native.module() is None:
        pytest.skip(f"nothing to measure: {_native.reason()}")


def run(*argv):
    """The exit code of a command, however it ends."""
    try:
        return cli.main(list(argv))
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize("name", LINES)
def test_exit_codes_and_words(name, folder, capsys):
    argv, code, words = LINES[name]
    skip_what_cannot_run(" ".join(argv[:1]))
    assert run(*argv) == code
    printed = capsys.readouterr()
    assert words in (printed.err if code else printed.out)
    assert ("Traceback" in printed.err) == (code == 1)  # the user's own errors are shown where they happened
    assert printed.out == "" if code else PROGRESS.sub("", printed.err) == ""
    assert written(folder) == set()


def test_the_table_has_every_command():
    assert {argv[0] for argv, _, _ in BAD.values() if argv} >= set(cli.COMMANDS)


@pytest.mark.parametrize("name", slow_to_full(JSON))
def test_json_is_all_that_is_in_its_place(name, folder, capsys):
    skip_what_cannot_run(name)
    argv, key = JSON[name]
    assert run(*argv) == 0
    printed = capsys.readouterr()
    text = (folder / "FILE").read_text() if "FILE" in argv else printed.out
    assert key in json.loads(text) and PROGRESS.sub("", printed.err) == ""
    assert written(folder) == ({"FILE"} if "FILE" in argv else set())


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


def raising(error):
    def fails(*args, **options):
        raise error

    return fails


FAULTS = {
    "interrupted": (None, KeyboardInterrupt(), 130, "\ninterrupted\n"),
    "a write fails": ("pathlib.Path.write_bytes", OSError(28, "disk full"), 2, "'{}' cannot be written: disk full.\n"),
    "a rename fails": ("os.replace", OSError(28, "disk full"), 2, "'{}' cannot be written: disk full.\n"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", slow_to_full(WORK))
def test_a_command_that_is_cut_short_says_so_and_leaves_the_old_file(name, fault, folder, monkeypatch, capsys):
    """`None` stands for the function that does the work of the command."""
    skip_what_cannot_run(name)
    if name in ("plot", "lr-find") and not figure.available():
        pytest.skip("needs matplotlib")
    (argv, names, work), (where, error, code, words) = WORK[name], FAULTS[fault]
    for file in names:
        (folder / file).write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(where or work, raising(error))
        assert run(*argv) == code
    printed = capsys.readouterr().err
    assert "Traceback" not in printed and any(words.format(file) in printed for file in names)
    assert written(folder) == {*names} and {(folder / file).read_text() for file in names} == {"old"}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def failed_check():
    return check.Result(check.Check("id", "cpu", "AdamW", "float32", None), bounds.Verdict("", 3.0, 2.0), 0.0)


PRINTERS = {
    "plot": lambda: of_schedules([("lr", [("a", S.constant(1)), ("b", S.constant(2))])]).show(),
    "verify": lambda: report.tables([failed_check()]),
}


@pytest.mark.parametrize("printer", PRINTERS.values(), ids=list(PRINTERS))
@pytest.mark.parametrize(
    ("stream", "no_color", "term", "coloured"),
    (
        (Terminal, "", "xterm", True),
        (Terminal, "1", "xterm", False),
        (Terminal, "", "dumb", False),
        (io.StringIO, "", "xterm", False),
    ),
)
def test_colours_only_in_a_terminal_that_wants_them(stream, no_color, term, coloured, printer, monkeypatch):
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr("sys.stdout", stream())
    printer()
    assert bool(re.search("\x1b\\[3[1-6]m", sys.stdout.getvalue())) is coloured
    assert coloured or "\x1b" not in sys.stdout.getvalue()


@pytest.mark.parametrize("stream", (io.StringIO, Terminal))
@pytest.mark.parametrize(("lines", "after", "printed"), ((10, 0.0, 10), (3, 0.0, 3), (10, 60.0, 0)))
def test_progress_is_a_few_plain_lines_and_none_for_what_is_over_at_once(stream, lines, after, printed):
    out = stream()
    with progress(100, lines=lines, after=after, stream=out) as show:
        for done in range(1, 101):
            show(done, f"[loss] {done}")
    text = out.getvalue().splitlines()
    assert len(text) == printed and not any(sign in out.getvalue() for sign in "\x1b\r\b")
    assert not text or text[-1] == "100 %     0 s left  [loss] 100"


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
