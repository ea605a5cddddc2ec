# SPDX-License-Identifier: Apache-2.0
"""Laws at the limits: very many tensors and groups, very large ones, very many steps, and lives that come and go."""

import gc
import json
import os
import random
import subprocess
import sys
import time
import weakref
from decimal import Decimal, localcontext
from pathlib import Path

import pytest
import torch
from cases import BACKENDS
from reading import ROOT
from tiers import full

import fusedsched as fs
from fusedsched import lr_scheduler

compiled = pytest.mark.skipif("cpu" not in BACKENDS, reason="needs the compiled extension")
GIB = 2**30


@compiled
@pytest.mark.parametrize("count", [full(21_000), full(65_536)])
def test_very_many_tensors(count):
    ends = []
    for make in (lambda p: fs.AdamW(p, lr=0.1, backend="cpu"), lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True)):
        whole = torch.linspace(-1, 1, 2 * count)
        params = [torch.nn.Parameter(part.clone()) for part in whole.split(2)]
        optimizer = make(params)
        for _ in range(2):
            for p in params:
                p.grad = p.detach().cos()
            optimizer.step()
        ends.append(torch.cat([p.detach() for p in params]))
        assert len(optimizer.state) == count
    assert torch.allclose(*ends, rtol=1e-5, atol=1e-6)


@compiled
@pytest.mark.parametrize("count", [200, full(4_000)])
def test_very_many_groups(count):
    ends = []
    for optim, schedulers in ((fs, lr_scheduler), (torch.optim, torch.optim.lr_scheduler)):
        groups = [{"params": [torch.full((3,), 1.0 + g).requires_grad_()], "lr": 1e-3 * (1 + g)} for g in range(count)]
        optimizer = optim.SGD(groups, lr=0.1)
        scheduler = schedulers.StepLR(optimizer, 2, gamma=0.5)
        for _ in range(5):
            for group in optimizer.param_groups:
                group["params"][0].grad = torch.ones(3)
            optimizer.step()
            scheduler.step()
        ends.append(torch.stack([group["params"][0].detach() for group in optimizer.param_groups]))
        assert optimizer.param_groups[-1]["lr"] == pytest.approx(1e-3 * count * 0.25)
    assert torch.allclose(*ends, rtol=1e-6)


@compiled
@pytest.mark.full
def test_more_elements_than_an_int32_counts():
    free = int(next(s for s in Path("/proc/meminfo").read_text().splitlines() if "Available" in s).split()[1]) * 1024
    if free < 11 * GIB:
        pytest.skip(f"2**31 + 8 elements of bfloat16 and their gradient need 11 GiB; {free / GIB:.1f} GiB are free")
    n = 2**31 + 8
    p = torch.empty(n, dtype=torch.bfloat16).fill_(2.0).requires_grad_()
    p.grad = torch.empty(n, dtype=torch.bfloat16).fill_(1.0)
    optimizer = fs.SGD([p], lr=0.5, backend="cpu")
    optimizer.step()
    value = p.detach()
    assert value.min() == 1.5 == value.max()
    p.grad[-1] = 2.0
    optimizer.step()
    assert value[-1] == 0.5 and value[-2] == 1.0 == value[0]


@compiled
@pytest.mark.parametrize("steps", [100_000, full(10_000_000)])
def test_very_many_scheduler_steps(steps):
    """Against the closed form in 50 digits. torch's own recursion is off by a rounding per step."""
    gamma, base = 1.0 - 1e-7, 0.3
    p = torch.ones(1).requires_grad_()
    optimizer = fs.SGD([p], lr=base)
    scheduler = lr_scheduler.ExponentialLR(optimizer, gamma)
    optimizer.step()
    for _ in range(steps):
        scheduler.step()
    with localcontext() as context:
        context.prec = 50
        expected = Decimal(base) * Decimal(gamma) ** steps
        off = abs(Decimal(optimizer.param_groups[0]["lr"]) / expected - 1)
    assert scheduler.last_epoch == steps and off < Decimal("1e-13")


def test_a_thousand_optimizers_come_and_go():
    """Memory is flat, and all of them are gone."""
    gone, sizes = [], []
    for i in range(1000):
        p = torch.ones(2_000).requires_grad_()
        optimizer = fs.AdamW([p], lr=fs.schedules.linear(0.1, 0.0, steps=10) if i % 2 else 0.1)
        scheduler = None if i % 2 else lr_scheduler.StepLR(optimizer, 3)
        p.grad = torch.ones(2_000)
        optimizer.step()
        gone.append(weakref.ref(optimizer))
        del optimizer, scheduler, p
        if i % 100 == 99:
            gc.collect()
            sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    assert not any(ref() for ref in gone)
    assert sizes[-1] - sizes[2] < 4 * 2**20, sizes


WRITER = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("files", sys.argv[1])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
n = 0
while True:
    n += 1
    files.write_json(pathlib.Path(sys.argv[2]), {"n": n, "values": [n] * 20_000})
    print(n, flush=True)
"""


@pytest.mark.parametrize("kills", [5, full(100)])
def test_a_file_is_whole_whenever_its_writer_is_killed(kills, tmp_path):
    target, draw = tmp_path / "result.json", random.Random(0)
    for _ in range(kills):
        command = [sys.executable, "-S", "-c", WRITER, str(ROOT / "fusedsched" / "files.py"), str(target)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(draw.uniform(0.0, 0.02))
        writer.kill()
        writer.communicate()
        found = json.loads(target.read_text())
        assert found["values"] == [found["n"]] * 20_000


WRITES = ("write_text(", "write_bytes(", 'open("', "open('", "os.open(", "torch.save(", "np.save", "fdopen(")
NO_RESULTS = {
    ("fusedsched/files.py", "write_bytes("),  # the home
    ("fusedsched/cli.py", "os.open("),  # of /dev/null
    ("fusedsched/verify/resuming.py", "torch.save("),  # in a temporary folder, for the process that it starts
    ("benchmarks/memory.py", "write_text("),  # to /proc
}


def test_every_file_is_written_by_one_home():
    """No other module opens a file for writing: what it writes is rendered first."""
    paths = [*ROOT.glob("fusedsched/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in paths}
    assert {(name, word) for name, text in texts.items() for word in WRITES if word in text} == NO_RESULTS
