# SPDX-License-Identifier: Apache-2.0
"""`plot` and `lr-find`: what they draw, what they refuse, their exit codes."""

import json
import os
import subprocess
import sys

import pytest
import torch

from fusedsched import cli, schedules as S
from fusedsched.plotting import figure, objects

MODULE = """
import torch
import fusedsched as fs
from fusedsched import schedules as S
from torch.optim import lr_scheduler as L

def sgd(**options):
    return torch.optim.SGD([torch.zeros(1)], lr=0.8, momentum=0.9, **options)

schedule = S.linear(1.0, 0.0, steps=10)
cosine = L.CosineAnnealingLR(sgd(), T_max=10)
half_wave = L.CosineAnnealingLR(sgd(), T_max=50)
ours = fs.lr_scheduler.StepLR(sgd(), 3)
anything = L.LambdaLR(sgd(), lambda t: 1 / (1 + t))
one_cycle = L.OneCycleLR(sgd(), 0.4, total_steps=50, base_momentum=0.5, max_momentum=0.9)
cyclic = L.CyclicLR(sgd(), 0.1, 0.4, 4, 6, mode="triangular2", base_momentum=0.5, max_momentum=0.9)
two = L.StepLR(torch.optim.SGD([{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr": 0.1}], lr=0.2), 5)
native = fs.AdamW([torch.zeros(1, requires_grad=True)], lr=S.cosine(1, 0, 10), weight_decay=S.linear(1, 0, 10))
plain = sgd()
number = 3
class Holder:
    schedule = S.linear(1.0, 0.5, steps=10)

net = torch.nn.Linear(2, 1)
def wants(n):
    return schedule
def make():
    return schedule
def broken():
    return {}["lr"]
def refuses():
    raise ValueError("no data")

def trial():
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    batches = [(x, x.sum(1, keepdim=True)) for x in torch.randn(8, 16, 4)]
    return model, batches, torch.nn.functional.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1)
def trial_dict():
    model, loader, loss, optimizer = trial()
    return dict(model=model, loader=loader, loss_fn=loss, optimizer=fs.SGD, steps=30)
def short():
    model, loader, *_ = trial()
    return dict(model=model, loader=loader, loss_fn=torch.nn.functional.mse_loss, cycle=False)
def empty():
    return torch.nn.ReLU(), [], len
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "drawn.py").write_text(MODULE)
    (tmp_path / "fails.py").write_text("import there_is_no_such_module\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("drawn", "fails"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    sys.modules.pop("drawn", None)


def run(*argv):
    """The exit code of a command, however it ends."""
    try:
        return cli.main(list(argv))
    except SystemExit as end:
        return end.code


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")


COMMANDS = {
    "an expression": (["plot", "linear(1, 0, 5)"], 0, "lr: linear"),
    "several": (["plot", "linear(1, 0, 5)", "cosine(1, 0, 5)"], 0, "b cosine"),
    "panels": (
        ["plot", "linear(1, 0, 5)", "--momentum", "0.9", "--weight-decay", "cosine(1, 0, 5)"],
        0,
        "weight_decay",
    ),
    "steps": (["plot", "linear(1, 0, 5)", "--steps", "1000", "--log"], 0, "999"),
    "schedule": (["plot", "drawn:schedule"], 0, "lr: drawn:schedule"),
    "scheduler": (["plot", "drawn:cosine"], 0, "drawn:cosine"),
    "our scheduler": (["plot", "drawn:ours"], 0, "drawn:ours"),
    "a function": (["plot", "drawn:make"], 0, "drawn:make"),
    "dotted": (["plot", "drawn:Holder.schedule"], 0, "drawn:Holder.schedule"),
    "tabulated": (["plot", "drawn:anything", "--steps", "20"], 0, "drawn:anything"),
    "momentum": (["plot", "drawn:one_cycle"], 0, "momentum: drawn:one_cycle"),
    "groups": (["plot", "drawn:two"], 0, "drawn:two, group 1"),
    "optimizer": (["plot", "drawn:native"], 0, "weight_decay: drawn:native"),
    "a low point and no more": (["plot", "drawn:half_wave"], 0, " 50"),
    "a model": (["plot", "drawn:net"], 2, "drawn:net is a Linear. Give a schedule"),
    "a function with arguments": (["plot", "drawn:wants"], 2, "cannot be called without arguments: missing a required"),
    "a file": (["plot", "drawn.py:schedule"], 2, "names a file. Name the module, without .py: drawn:schedule"),
    "a file in a folder": (["plot", "./a/drawn.py:schedule"], 2, "without .py: a.drawn:schedule"),
    "find: a file": (["lr-find", "drawn.py:trial"], 2, "without .py: drawn:trial"),
    "find: a model": (["lr-find", "drawn:net"], 2, "gave a Linear. It must give (model, loader, loss_fn)"),
    "no steps": (["plot", "drawn:anything"], 2, "On the command line: --steps"),
    "no schedules": (["plot", "drawn:plain"], 2, "without native schedules"),
    "unknown name": (["plot", "warmup_cosin(1)"], 2, "Near names: warmup_cosine"),
    "nonsense": (["plot", "linear(1, 0, -5)"], 2, "Invalid steps: -5"),
    "momentum unknown": (["plot", "0.1", "--momentum", "what(1)"], 2, "no schedule 'what'"),
    "zero steps": (["plot", "0.1", "--steps", "0"], 2, "--steps: '0' is not a whole number of 1 or more"),
    "nothing": (["plot"], 2, "SCHEDULE"),
    "file kind": (["plot", "0.1", "--out", "lr.gif"], 2, "must end in .png or .svg"),
    "no module": (["plot", "nowhere_at_all:x"], 2, "no module 'nowhere_at_all'"),
    "no object": (["plot", "drawn:nothing"], 2, "has no 'nothing'"),
    "its import fails": (["plot", "fails:x"], 1, "there_is_no_such_module"),
    "its function fails": (["plot", "drawn:broken"], 1, "KeyError: 'lr'"),
    "its function refuses": (["plot", "drawn:refuses"], 1, "ValueError: no data"),
    "no folder": (["plot", "0.1", "--out", "no/lr.svg"], 2, "there is no folder"),
    "find": (["lr-find", "drawn:trial"], 0, "steepest descent"),
    "find by dict": (
        ["lr-find", "drawn:trial_dict", "--steps", "40", "--start", "1e-4"],
        0,
        "of 40 steps of fusedsched",
    ),
    "find: loader ends": (["lr-find", "drawn:short"], 2, "error: The loader ended after 8 batches, and steps=100"),
    "find: no parameters": (["lr-find", "drawn:empty"], 2, "error: ReLU has 0 parameters"),
    "find: not a trial": (["lr-find", "drawn:make"], 2, "must give (model, loader, loss_fn)"),
    "find: expression": (["lr-find", "linear(1, 0, 5)"], 2, "not of the form module:object"),
    "find: no module": (["lr-find", "nowhere_at_all:x"], 2, "no module 'nowhere_at_all'"),
    "find: its function fails": (["lr-find", "drawn:broken"], 1, "KeyError: 'lr'"),
    "find: bad range": (["lr-find", "drawn:trial", "--start", "5", "--stop", "1"], 2, "5 is not below --stop 1"),
    "find: no stop above": (["lr-find", "drawn:trial", "--start", "50"], 2, "Invalid start, stop: 50.0, 10.0"),
    "find: no number": (["lr-find", "drawn:trial", "--stop", "nan"], 2, "'nan' is not a learning rate"),
    "find: few steps": (["lr-find", "drawn:trial", "--steps", "2"], 2, "'2' is not a whole number of 3 or more"),
    "find: file kind": (["lr-find", "drawn:trial", "--out", "lr.gif"], 2, "must end in .png or .svg"),
    "find: no folder": (["lr-find", "drawn:trial", "--out", "no/lr.svg"], 2, "there is no folder"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_exit_codes_and_words(name, capsys, module):
    argv, code, words = COMMANDS[name]
    before = files(module)
    assert run(*argv) == code
    printed = capsys.readouterr()
    assert words in (printed.err if code else printed.out)
    assert ("Traceback" in printed.err) == ("its " in name)  # the user's own errors are shown where they happened
    assert files(module) == before  # nothing half-written


@pytest.mark.parametrize(("name", "steps"), [("one_cycle", 50), ("cyclic", 60)])
def test_the_momentum_is_the_one_that_torch_cycles(name, steps):
    curves = objects.schedules_of(f"drawn:{name}")
    scheduler = objects.load(f"drawn:{name}")
    for u in range(steps):
        (group,) = scheduler.optimizer.param_groups
        for key in ("lr", "momentum"):
            ((_, schedule),) = curves[key]
            assert schedule(u) == pytest.approx(group[key], rel=1e-11), (key, u)
        scheduler.optimizer.step()
        if u < steps - 1:
            scheduler.step()


@pytest.mark.skipif(not figure.available(), reason="needs matplotlib")
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_pictures_to_files(kind, module, capsys):
    assert run("plot", "linear(1, 0, 5)", "--out", f"lr.{kind}") == 0
    assert run("lr-find", "drawn:trial", "--json", "--out", f"find.{kind}") == 0
    printed = capsys.readouterr()
    first, rest = printed.out.split("\n", 1)
    assert first == f"lr.{kind}" and (module / first).stat().st_size > 1000 and (module / f"find.{kind}").exists()
    found = json.loads(rest)
    assert found["suggestion"] == found["suggestions"]["valley"]["lr"] and len(found["lrs"]) == len(found["losses"])
    assert f"find.{kind}" in printed.err


def test_without_matplotlib_a_file_fails_and_the_terminal_does_not(monkeypatch, capsys, module):
    monkeypatch.setattr(figure, "find_spec", lambda name: None)
    assert run("plot", "linear(1, 0, 5)") == 0
    assert run("plot", "linear(1, 0, 5)", "--out", "lr.png") == 2
    assert "pip install 'fusedsched[plot]'" in capsys.readouterr().err and not (module / "lr.png").exists()


def test_an_expression_is_drawn_without_torch_and_without_matplotlib():
    code = (
        "import sys; from fusedsched import cli; cli.main(['plot', 'linear(1, 0, 5)']); "
        "print({'torch', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    done = python("-c", code, stdout=subprocess.PIPE)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def python(*argv, **streams):
    """A finished process that sees this package."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
    streams |= dict(stderr=subprocess.PIPE, encoding="utf-8", env=environment, timeout=120)
    return subprocess.run([sys.executable, *argv], **streams)


def test_a_reader_that_has_gone_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = python("-u", "-m", "fusedsched", "plot", "0.1", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_working_directory_is_looked_in(module, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(module))])
    assert objects.load("drawn:schedule") == S.linear(1.0, 0.0, steps=10)
    assert isinstance(objects.load("drawn:plain"), torch.optim.SGD)
