# SPDX-License-Identifier: Apache-2.0
"""Command lines of all commands, as people type and mistype them: (arguments, exit code, words that are printed)."""

import sys
from pathlib import Path

import pytest
from cases import BACKENDS

ROOT = Path(__file__).resolve().parents[1]

# A module of the user's, in the working directory.
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
nothing = None
net = torch.nn.Linear(2, 1)
class Holder:
    schedule = S.linear(1.0, 0.5, steps=10)
def wants(n):
    return schedule
def make():
    return schedule
def broken():
    return {}["lr"]
def refuses():
    raise ValueError("no data")

def trial(**more):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    batches = [(x, x.sum(1, keepdim=True)) for x in torch.randn(8, 16, 4)]
    return dict(model=model, loader=batches, loss_fn=torch.nn.functional.mse_loss) | more
def trial_tuple():
    model, loader, loss_fn = trial().values()
    return model, loader, loss_fn, torch.optim.SGD(model.parameters(), lr=0.1)
def ends_early(): return trial(loader=iter(trial()["loader"]))
def no_optimizer(): return trial(optimizer=0.1)
def no_gradient(): return trial(loader=lambda: torch.zeros(()))
"""
FAILS = "import there_is_no_such_module\n"

PANELS = ["--momentum", "0.9", "--weight-decay", "cosine(1, 0, 5)"]
# Words are looked for in the output where the code is 0, else in the errors.
GOOD = {
    "info": (["info"], 0, "optional packages"),
    "help": (["help"], 0, "usage: python -m fusedsched COMMAND"),
    "help of a command": (["help", "plot"], 0, "usage: python -m fusedsched plot "),
    "plot: an expression": (["plot", "linear(1, 0, 5)"], 0, "lr: linear(1, 0, 5)"),
    "plot: several": (["plot", "linear(1, 0, 5)", "cosine(1, 0, 5)"], 0, "b cosine"),
    "plot: panels": (["plot", "linear(1, 0, 5)", *PANELS], 0, "weight_decay"),
    "plot: steps": (["plot", "linear(1, 0, 5)", "--steps", "1000", "--log"], 0, "999"),
    "plot: a schedule": (["plot", "trials:schedule"], 0, "lr: trials:schedule"),
    "plot: a scheduler": (["plot", "trials:cosine"], 0, "trials:cosine"),
    "plot: our scheduler": (["plot", "trials:ours"], 0, "trials:ours"),
    "plot: to the low point": (["plot", "trials:half_wave"], 0, " 50"),
    "plot: a function": (["plot", "trials:make"], 0, "trials:make"),
    "plot: dotted": (["plot", "trials:Holder.schedule"], 0, "trials:Holder.schedule"),
    "plot: tabulated": (["plot", "trials:anything", "--steps", "20"], 0, "trials:anything"),
    "plot: momentum": (["plot", "trials:one_cycle"], 0, "momentum: trials:one_cycle"),
    "plot: groups": (["plot", "trials:two"], 0, "trials:two, group 1"),
    "plot: an optimizer": (["plot", "trials:native"], 0, "weight_decay: trials:native"),
    "lr-find": (["lr-find", "trials:trial_tuple"], 0, "steepest descent"),
    "lr-find: a dict": (
        ["lr-find", "trials:trial", "--steps", "40", "--start", "1e-4"],
        0,
        "of 40 steps of fusedsched",
    ),
    "verify: a list": (["verify", "--quick", "--list"], 0, "AdamW/float32/fixed/reference"),
    "bench: smoke": (["bench", "--smoke", "--case", "tiny-300"], 0, "300 x 16"),
}
CHECKS = {
    "an update": f"AdamW/float32/cosine/{BACKENDS[0]}",
    "random numbers": f"random-3/bfloat16/drawn/{BACKENDS[0]}",
    "a seed that no level has": f"random-12345/float32/drawn/{BACKENDS[0]}",
    "an edge": f"edge/threads/{BACKENDS[0]}",
    "a formula": "schedules/one_cycle/formula",
    "a check of another level": f"resume/SGD-momentum/float64/all/{BACKENDS[0]}",
}
PASSED = "As far as these checks go, can this machine be trusted? Yes: 1 of 1 checks passed"
GOOD |= {f"verify: {name}": (["verify", "--quick", "--case", id], 0, PASSED) for name, id in CHECKS.items()}
BAD = {
    "nothing": ([], 2, "a command is missing"),
    "empty": ([""], 2, "a command is missing"),
    "unknown": (["walk"], 2, "no command 'walk'. There are: info, verify, bench, plot, lr-find, demo."),
    "unlike any": (["train"], 2, "There are: info, verify,"),
    "near": (["inf"], 2, "Near names: info."),
    "near, without a hyphen": (["lrfind"], 2, "Near names: lr-find."),
    "near, longer": (["benchmark"], 2, "Near names: bench."),
    "an option first": (["--json", "info"], 2, "no command '--json'"),
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
    "plot: an unknown momentum": (["plot", "0.1", "--momentum", "what(1)"], 2, "no schedule 'what'"),
    "plot: nonsense": (["plot", "linear(1, 0, -5)"], 2, "Invalid steps: -5"),
    "plot: not a number": (["plot", "cosine(nan, 0, 5)"], 2, "no schedule 'nan'"),
    "plot: overflow": (["plot", "cosine(1e999, 0, 5)"], 2, "cosine: "),
    "plot: code": (["plot", "__import__('os').getcwd()"], 2, "cannot be called here"),
    "plot: too few steps": (["plot", "0.1", "--steps", "0"], 2, "--steps: '0' is not a whole number of 1 or more"),
    "plot: part of a step": (["plot", "0.1", "--steps", "1e3"], 2, "'1e3' is not a whole number"),
    "plot: another kind of file": (["plot", "0.1", "--out", "lr.gif"], 2, "'lr.gif' must end in .png or .svg"),
    "plot: no folder": (["plot", "0.1", "--out", "no/lr.svg"], 2, "there is no folder 'no'"),
    "plot: not writable": (["plot", "0.1", "--out", "/proc/lr.svg"], 2, "'/proc/lr.svg' cannot be written"),
    "plot: a long name": (["plot", "0.1", "--out", "x" * 300 + ".svg"], 2, "cannot be written"),
    "plot: no module": (["plot", "nowhere_at_all:x"], 2, "no module 'nowhere_at_all'"),
    "plot: no object": (["plot", "trials:trail"], 2, "has no 'trail'"),
    "plot: a file": (["plot", "trials.py:schedule"], 2, "names a file. Name the module, without .py: trials:schedule"),
    "plot: a file in a folder": (["plot", "./a/trials.py:schedule"], 2, "without .py: a.trials:schedule"),
    "plot: not a schedule": (["plot", "trials:nothing"], 2, "is a NoneType. Give a schedule"),
    "plot: a model": (["plot", "trials:net"], 2, "trials:net is a Linear. Give a schedule"),
    "plot: arguments": (["plot", "trials:wants"], 2, "cannot be called without arguments: missing a required"),
    "plot: no steps": (["plot", "trials:anything"], 2, "On the command line: --steps"),
    "plot: no schedules": (["plot", "trials:plain"], 2, "without native schedules"),
    "plot: its import fails": (["plot", "fails:x"], 1, "there_is_no_such_module"),
    "plot: its function fails": (["plot", "trials:broken"], 1, "in broken"),
    "plot: its function refuses": (["plot", "trials:refuses"], 1, "ValueError: no data"),
    "lr-find: nothing": (["lr-find"], 2, "MODULE:OBJECT"),
    "lr-find: not an object": (["lr-find", "trials.py"], 2, "not of the form module:object"),
    "lr-find: an expression": (["lr-find", "linear(1, 0, 5)"], 2, "not of the form module:object"),
    "lr-find: a file": (["lr-find", "trials.py:trial"], 2, "without .py: trials:trial"),
    "lr-find: no module": (["lr-find", "nowhere_at_all:x"], 2, "no module 'nowhere_at_all'"),
    "lr-find: not a trial": (["lr-find", "trials:make"], 2, "must give (model, loader, loss_fn)"),
    "lr-find: a model": (["lr-find", "trials:net"], 2, "gave a Linear. It must give (model, loader, loss_fn)"),
    "lr-find: no object": (["lr-find", "trials:nothing"], 2, "gave a NoneType"),
    "lr-find: start nan": (["lr-find", "trials:trial", "--start", "nan"], 2, "'nan' is not a learning rate"),
    "lr-find: stop infinite": (["lr-find", "trials:trial", "--stop", "inf"], 2, "'inf' is not a learning rate"),
    "lr-find: start negative": (["lr-find", "trials:trial", "--start=-1"], 2, "'-1' is not a learning rate"),
    "lr-find: start zero": (["lr-find", "trials:trial", "--start", "0"], 2, "'0' is not a learning rate"),
    "lr-find: falling": (["lr-find", "trials:trial", "--start", "1", "--stop", "0.1"], 2, "1 is not below --stop 0.1"),
    "lr-find: no stop above": (["lr-find", "trials:trial", "--start", "50"], 2, "Invalid start, stop: 50.0, 10.0"),
    "lr-find: two steps": (["lr-find", "trials:trial", "--steps", "2"], 2, "not a whole number of 3 or more"),
    "lr-find: a mode": (["lr-find", "trials:trial", "--mode", "slow"], 2, "invalid choice: 'slow'"),
    "lr-find: ends early": (["lr-find", "trials:ends_early"], 2, "The loader ended after 8 batches, and steps=100"),
    "lr-find: not an optimizer": (["lr-find", "trials:no_optimizer"], 2, "optimizer is a float"),
    "lr-find: no gradient": (["lr-find", "trials:no_gradient"], 2, "No parameter of the optimizer got a gradient"),
    "lr-find: its function fails": (["lr-find", "trials:broken"], 1, "in broken"),
    "lr-find: file kind": (["lr-find", "trials:trial", "--out", "lr.gif"], 2, "must end in .png or .svg"),
    "lr-find: not writable": (["lr-find", "trials:trial", "--out", "/proc/lr.svg"], 2, "cannot be written"),
    "verify: near": (["verify", "--quick", "--case", "AdamV/float32/fixed/reference"], 2, "AdamW/float32/fixed/ref"),
    "verify: far": (["verify", "--quick", "--case", "?"], 2, "An id is like AdamW/float32/cosine/cpu"),
    "verify: an option": (["verify", "--slow"], 2, "unrecognized arguments: --slow"),
    "verify: a backend": (["verify", "--backend", "gpu"], 2, "--backend gpu: there is no such backend. Available: "),
    "verify: other backend": (
        ["verify", "--quick", "--backend", "reference", "--case", "schedules/step/formula"], 2, "does not run on",
    ),
    "verify: both levels": (["verify", "--quick", "--full"], 2, "not allowed with argument"),
    "verify: a folder": (["verify", "--quick", "--json", "/"], 2, "--json: '/' cannot be written: it is a folder"),
    "verify: nowhere": (["verify", "--json", "/proc/no/report.json"], 2, "--json: '/proc/no/report.json' cannot be"),
    "bench: no case": (["bench", "--case", "resnt50"], 2, "no such case on the CPU. Near names: resnet50"),
    "bench: a word": (["bench", "compar", "a.json", "b.json"], 2, "unrecognized arguments: compar"),
    "bench: negative": (["bench", "--compile-tensors", "-3"], 2, "is not a whole number of 0 or more"),
    "bench: a dtype": (["bench", "--dtype", "int8"], 2, "invalid choice: 'int8'"),
    "bench: two kinds": (["bench", "--backend", "cuda", "--backend", "cpu"], 2, "one kind at a time"),
    "bench: not writable": (["bench", "--json", "/proc/a/b.json"], 2, "cannot be made a folder"),
    "bench: a folder": (["bench", "--json", "/"], 2, "it is a folder"),
    "bench compare: one file": (["bench", "compare", "a.json"], 2, "B.json"),
    "bench compare: no files": (["bench", "compare", "a.json", "b.json"], 2, "a.json: cannot be read"),
    "bench compare: not results": (["bench", "compare", "trials.py", "trials.py"], 2, "is not JSON"),
    "bench counts: no scheduler": (["bench", "counts", "--scheduler", "CosineLR"], 2, "Near names: CosineAnnealingLR"),
    "bench counts: no steps": (["bench", "counts", "--steps", "0"], 2, "is not a whole number of 2 or more"),
    "bench counts: not writable": (["bench", "counts", "--json", "no/a.json"], 2, "there is no folder 'no'"),
}  # fmt: skip
# Commands that end at once and print JSON, or write it to FILE, and a name in it.
JSON = {
    "info": (["info", "--json"], "backends"),
    "lr-find": (["lr-find", "trials:trial", "--json"], "suggestion"),
    "verify": (["verify", "--quick", "--case", "schedules/step/formula", "--json", "FILE"], "machine"),
    "bench": (["bench", "--smoke", "--case", "tiny-300", "--json", "FILE"], "machine"),
    "bench counts": (["bench", "counts", "--steps", "3", "--scheduler", "none", "--json", "FILE"], "counts"),
}
# Commands that write files, their names, and the function that does the work.
DEMO = ["demo", "--quick", "--steps", "2", "--device", "cpu"]
WORK = {
    "plot": (["plot", "0.1", "--out", "a.svg"], ["a.svg"], "fusedsched.plotting.command.of_schedules"),
    "lr-find": (["lr-find", "trials:trial", "--out", "a.svg"], ["a.svg"], "fusedsched.range_test.lr_range_test"),
    "verify": (JSON["verify"][0], ["FILE"], "fusedsched.verify.command.run_check"),
    "bench": (JSON["bench"][0], ["FILE"], "fusedsched.benchmarks.bench.run_case"),
    "bench counts": (JSON["bench counts"][0], ["FILE"], "fusedsched.benchmarks.counts.measure"),
    "demo": ([*DEMO, "--out", "."], ["curves.png", "results.json"], "fusedsched.demo.command.train"),
}


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
