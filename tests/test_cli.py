# SPDX-License-Identifier: Apache-2.0
"""The command line: help that lists everything, exit codes, and an `info` that tells the truth."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fusedsched as fs
from fusedsched import _native, cli, files, info

ROOT = Path(__file__).resolve().parents[1]
needs_extension = pytest.mark.skipif(_native.module() is None, reason=f"no extension: {_native.reason()}")


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    assert re.match(rf"usage: (python -m )?fusedsched {name} ", capsys.readouterr().out)


TRIAL = """
import torch
def trial(**more):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    batches = [(x, x.sum(1, keepdim=True)) for x in torch.randn(8, 16, 4)]
    return dict(model=model, loader=batches, loss_fn=torch.nn.functional.mse_loss) | more
def ends_early(): return trial(loader=iter(trial()["loader"]))
def no_batches(): return trial(loader=[])
def no_parameters(): return trial(model=torch.nn.ReLU())
def frozen(): return trial(model=torch.nn.Linear(4, 1).requires_grad_(False))
def infinite(): return trial(loss_fn=lambda out, target: out.sum() * float("inf"))
def no_steps(): return trial(steps=float("nan"))
def other_optimizer(): return trial(optimizer=torch.optim.SGD([torch.zeros(1)]))
def no_gradient(): return trial(loader=lambda: torch.zeros(()))
def not_a_trial(): return 3
nothing = None
"""

# (arguments, exit code, words of the message): commands as people mistype them
BAD = {
    "nothing": ([], 2, "a command is missing"),
    "unknown": (["walk"], 2, "no command 'walk'. There are: info, verify, bench, plot, lr-find, demo."),
    "unlike any": (["train"], 2, "There are: info, verify,"),
    "near": (["inf"], 2, "Near names: info."),
    "near, without a hyphen": (["lrfind"], 2, "Near names: lr-find."),
    "near, longer": (["benchmark"], 2, "Near names: bench."),
    "an option first": (["--json", "info"], 2, "no command '--json'"),
    "empty": ([""], 2, "a command is missing"),
    "info: an option too many": (["info", "--loud"], 2, "unrecognized arguments: --loud"),
    "info: a word too many": (["info", "now"], 2, "unrecognized arguments: now"),
    "demo: words for numbers": (["demo", "--steps", "many"], 2, "'many' is not a whole number of 2 or more"),
    "demo: one step": (["demo", "--steps", "1"], 2, "'1' is not a whole number of 2 or more"),
    "demo: a negative seed": (["demo", "--seed", "-1"], 2, "'-1' is not a whole number from 0"),
    "demo: a seed of many digits": (["demo", "--seed", "9" * 40], 2, "is not a whole number from 0"),
    "demo: no device": (["demo", "--quick", "--device", "quantum"], 2, "it must be cpu or cuda"),
    "demo: not for training": (["demo", "--quick", "--device", "meta"], 2, "it must be cpu or cuda"),
    "demo: too many GPUs": (["demo", "--quick", "--device", "cuda:99"], 2, "GPUs."),
    "demo: a file as folder": (["demo", "--quick", "--out", "trials.py"], 2, "cannot be made a folder"),
    "demo: nowhere": (["demo", "--quick", "--out", "/proc/demo"], 2, "cannot be made a folder"),
    "plot: nothing": (["plot"], 2, "SCHEDULE"),
    "plot: an unknown schedule": (["plot", "warmup_cosin(1)"], 2, "Near names: warmup_cosine"),
    "plot: not a number": (["plot", "cosine(nan, 0, 5)"], 2, "no schedule 'nan'"),
    "plot: overflow": (["plot", "cosine(1e999, 0, 5)"], 2, "cosine: "),
    "plot: code": (["plot", "__import__('os').getcwd()"], 2, "cannot be called here"),
    "plot: too few steps": (["plot", "0.1", "--steps", "0"], 2, "is not a whole number of 1 or more"),
    "plot: part of a step": (["plot", "0.1", "--steps", "1e3"], 2, "'1e3' is not a whole number"),
    "plot: another kind of file": (["plot", "0.1", "--out", "lr.gif"], 2, "'lr.gif' must end in .png or .svg"),
    "plot: no folder": (["plot", "0.1", "--out", "no/lr.svg"], 2, "there is no folder 'no'"),
    "plot: not writable": (["plot", "0.1", "--out", "/proc/lr.svg"], 2, "'/proc/lr.svg' cannot be written"),
    "plot: a long name": (["plot", "0.1", "--out", "x" * 300 + ".svg"], 2, "cannot be written"),
    "plot: no module": (["plot", "nowhere_at_all:x"], 2, "no module 'nowhere_at_all'"),
    "plot: no object": (["plot", "trials:trail"], 2, "has no 'trail'"),
    "plot: not a schedule": (["plot", "trials:nothing"], 2, "is a NoneType. Give a schedule"),
    "lr-find: nothing": (["lr-find"], 2, "MODULE:OBJECT"),
    "lr-find: a file": (["lr-find", "trials.py"], 2, "not of the form module:object"),
    "lr-find: no module": (["lr-find", "nowhere_at_all:x"], 2, "no module 'nowhere_at_all'"),
    "lr-find: not a trial": (["lr-find", "trials:not_a_trial"], 2, "must give (model, loader, loss_fn)"),
    "lr-find: no object": (["lr-find", "trials:nothing"], 2, "gave a NoneType"),
    "lr-find: start nan": (["lr-find", "trials:trial", "--start", "nan"], 2, "'nan' is not a learning rate"),
    "lr-find: stop infinite": (["lr-find", "trials:trial", "--stop", "inf"], 2, "'inf' is not a learning rate"),
    "lr-find: start negative": (["lr-find", "trials:trial", "--start=-1"], 2, "'-1' is not a learning rate"),
    "lr-find: start zero": (["lr-find", "trials:trial", "--start", "0"], 2, "'0' is not a learning rate"),
    "lr-find: falling": (["lr-find", "trials:trial", "--start", "1", "--stop", "0.1"], 2, "is not below --stop"),
    "lr-find: two steps": (["lr-find", "trials:trial", "--steps", "2"], 2, "not a whole number of 3 or more"),
    "lr-find: a mode": (["lr-find", "trials:trial", "--mode", "slow"], 2, "invalid choice: 'slow'"),
    "lr-find: steps nan": (["lr-find", "trials:no_steps"], 2, "Invalid steps: nan"),
    "lr-find: ends early": (["lr-find", "trials:ends_early"], 2, "The loader ended after 8 batches, and steps=100"),
    "lr-find: no batches": (["lr-find", "trials:no_batches"], 2, "no batches at all"),
    "lr-find: no parameters": (["lr-find", "trials:no_parameters"], 2, "ReLU has 0 parameters"),
    "lr-find: frozen": (["lr-find", "trials:frozen"], 2, "none of which requires a gradient"),
    "lr-find: infinite loss": (["lr-find", "trials:infinite"], 2, "The loss of the first step is"),
    "lr-find: another's optimizer": (["lr-find", "trials:other_optimizer"], 2, "holds no parameter of this model"),
    "lr-find: no gradient": (["lr-find", "trials:no_gradient"], 2, "No parameter of the optimizer got a gradient"),
    "lr-find: not writable": (["lr-find", "trials:trial", "--out", "/proc/lr.svg"], 2, "cannot be written"),
    "verify: no case": (["verify", "--case", "nope"], 2, "nknown"),
    "verify: an option": (["verify", "--slow"], 2, "unrecognized arguments: --slow"),
    "bench: no case": (["bench", "--case", "resnt50"], 2, "Near names: resnet50"),
    "bench: a word": (["bench", "compar", "a.json", "b.json"], 2, "unrecognized arguments: compar"),
    "bench: negative": (["bench", "--compile-tensors", "-3"], 2, "is not a whole number of 0 or more"),
    "bench: a dtype": (["bench", "--dtype", "int8"], 2, "invalid choice: 'int8'"),
    "bench: not writable": (["bench", "--json", "/proc/a/b.json"], 2, "cannot be made a folder"),
    "bench compare: one file": (["bench", "compare", "a.json"], 2, "B.json"),
    "bench compare: no files": (["bench", "compare", "a.json", "b.json"], 2, "a.json: cannot be read"),
    "bench compare: not results": (["bench", "compare", "trials.py", "trials.py"], 2, "is not JSON"),
    "bench counts: no scheduler": (["bench", "counts", "--scheduler", "CosineLR"], 2, "Near names: CosineAnnealingLR"),
    "bench counts: no steps": (["bench", "counts", "--steps", "0"], 2, "is not a whole number of 2 or more"),
    "bench counts: not writable": (["bench", "counts", "--json", "no/a.json"], 2, "there is no folder 'no'"),
}


def run(*argv):
    """The exit code of a command, however it ends."""
    try:
        return cli.main(list(argv))
    except SystemExit as end:
        return end.code


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a module in it."""
    (tmp_path / "trials.py").write_text(TRIAL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))  # fusedsched.benchmarks of a source tree
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "trials", raising=False)
    yield tmp_path
    sys.modules.pop("trials", None)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_command_line_gets_a_sentence_and_leaves_nothing(name, folder, capsys):
    argv, code, words = BAD[name]
    assert run(*argv) == code
    printed = capsys.readouterr()
    assert words in printed.err and "Traceback" not in printed.err and printed.out == ""
    assert {path.name for path in folder.iterdir()} <= {"trials.py", "__pycache__"}


def test_without_an_error_the_law_above_would_fail(folder, capsys):
    assert run("plot", "linear(1, 0, 5)") == 0 and run("lr-find", "trials:trial") == 0
    printed = capsys.readouterr()
    assert printed.out and printed.err == ""


def test_the_table_has_every_command():
    assert {argv[0] for argv, _, _ in BAD.values() if argv} >= set(cli.COMMANDS)


def test_an_error_in_the_users_own_code_is_shown_where_it_happened(folder, capsys):
    (folder / "trials.py").write_text("def trial():\n    raise ValueError('no data')\n")
    for command in ("plot", "lr-find"):
        assert run(command, "trials:trial") == 1
        assert 'trials.py", line 2, in trial' in capsys.readouterr().err


def test_an_interrupted_command_says_so(monkeypatch, capsys):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "main", interrupted)
    assert run("info") == 130 and capsys.readouterr().err == "\ninterrupted\n"


def test_a_disk_that_is_full_by_now_is_named(monkeypatch, tmp_path, capsys):
    def filled(argv):
        monkeypatch.setattr(Path, "write_bytes", lambda self, data: (_ for _ in ()).throw(OSError(28, "disk full")))
        files.write_whole(tmp_path / "a.json", b"{}")

    monkeypatch.setattr(info, "main", filled)
    assert run("info") == 2 and capsys.readouterr().err == f"error: '{tmp_path}/a.json' cannot be written: disk full.\n"
    assert list(tmp_path.iterdir()) == []


OPTIONAL = ("matplotlib", "numpy", "triton")
WITHOUT = "import sys; sys.modules.update(dict.fromkeys({!r})); from fusedsched import cli; sys.exit(cli.main({!r}))"


def process(*argv, without=(), **environment):
    """A command in a process of its own, into pipes, without some packages."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "TERM": "xterm-256color", **environment}
    env.pop("NO_COLOR", None)
    env["OMP_NUM_THREADS"] = "1"  # on a machine with other work, threads would wait for each other
    code = WITHOUT.format(without, list(argv))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=env, timeout=300)


# command -> what it prints without the optional packages, into pipes
LEAN = {
    ("info",): "not installed (pictures as files): pip install 'fusedsched[plot]'",
    ("plot", "linear(1, 0, 5)"): "lr: linear(1, 0, 5)",
    ("lr-find", "trials:trial"): "steepest descent",
    ("demo", "--quick", "--steps", "4", "--device", "cpu"): "pip install 'fusedsched[plot]'",
    ("bench", "--smoke", "--case", "tiny-300"): "300 x 16",
    ("verify", "--quick", "--case", "AdamW/float32/cosine/reference"): "1 of 1 checks passed",
}


@pytest.mark.parametrize("argv", LEAN, ids=lambda argv: argv[0])
def test_commands_need_no_optional_package_and_send_no_control_characters_into_pipes(argv, folder):
    done = process(*argv, without=OPTIONAL)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert LEAN[argv] in done.stdout
    assert not any(sign in done.stdout + done.stderr for sign in ("\x1b", "\r", "\b"))


@pytest.mark.parametrize(
    "argv",
    [("plot", "0.1", "--out", "a.svg"), ("lr-find", "trials:trial", "--out", "a.svg")],
    ids=lambda argv: argv[0],
)
def test_what_needs_a_package_says_which_extra_to_install_and_leaves_nothing(argv, folder):
    done = process(*argv, without=OPTIONAL)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "pip install 'fusedsched[plot]'" in done.stderr and not (folder / "a.svg").exists()


def test_letters_that_an_output_lacks_are_no_error(folder):
    done = process("demo", "--quick", "--steps", "4", "--device", "cpu", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr


def test_help_of_help(capsys):
    assert run("help") == 0 and capsys.readouterr().out == cli.usage()
    assert run("help", "plot") == 0 and capsys.readouterr().out.startswith("usage: python -m fusedsched plot ")


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="needs the source tree")
def test_the_document_shows_the_help_and_a_line_for_each_command():
    text = (ROOT / "docs" / "command-line.md").read_text()
    assert f"$ python -m fusedsched --help\n{cli.usage()}```" in text
    assert all(f"\n| `{name}` | " in text for name in (*cli.COMMANDS, "bench compare", "bench counts"))


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_has_an_example_and_exit_codes(name, folder, capsys):
    assert cli.COMMANDS[name].example.split()[0] == name
    assert run(name, "--help") == 0
    printed = capsys.readouterr().out.lower()
    assert "exit codes" in printed and f"python -m fusedsched {name}" in printed


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"fusedsched {fs.__version__}\n"


def test_info_prints_versions_and_backends(capsys):
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"^torch +{re.escape(torch.__version__)}$", printed, re.M)
    assert re.search(r"^  reference +works$", printed, re.M)
    assert re.search(r"^optional packages$", printed, re.M)


def test_info_as_json(capsys):
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["problems"] == [] and facts["fusedsched"] == fs.__version__
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
