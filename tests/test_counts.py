# SPDX-License-Identifier: Apache-2.0
"""What is counted is there: our step is one graph and one launch with any scheduler, and a fault would be seen."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fusedsched as fs
from fusedsched import _native

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # in a source tree the benchmarks lie beside the package

from benchmarks import counts, counts_table, render, tallies  # noqa: E402

pytestmark = [
    pytest.mark.skipif(_native.module() is None, reason="there is no compiled extension"),
    pytest.mark.filterwarnings("ignore:.*lru_cache"),
]
DOCUMENT = ROOT / "docs" / "benchmarks.md"


def test_every_scheduler_is_counted():
    assert {*fs.lr_scheduler.__all__, "none"} - {"LRScheduler"} == set(counts.SCHEDULERS)


@pytest.mark.parametrize("name", ["CosineAnnealingLR", "OneCycleLR", "none", counts.NATIVE])
def test_ours_is_one_graph_one_launch_and_no_wait(name):
    found = counts.record(counts.OURS, name, 6)
    assert counts.spotless([found]) and (found["launches"], found["syncs"]) == (1.0, 0.0)


@pytest.mark.parametrize("name", ["CosineAnnealingLR", "SequentialLR", "ReduceLROnPlateau", "GreedyLR"])
def test_our_scheduler_is_one_launch_more_for_an_optimizer_of_torch(name):
    found = counts.launched(counts.OURS_ON_CAPTURABLE, name)
    assert (found["launches"], found["syncs"]) == (3.0, 0.0)


@pytest.mark.parametrize("contestant", [counts.FUSED, counts.CAPTURABLE, counts.FOREACH_CAPTURABLE])
def test_torch_takes_the_way_that_it_takes_on_a_gpu(contestant):
    """Without a scheduler: the fused update and the count of steps, or an op for each term of the formula."""
    found = counts.launched(contestant, "none")
    assert found["syncs"] == 0.0
    assert found["launches"] == 2.0 if contestant != counts.FOREACH_CAPTURABLE else found["launches"] > 10.0


def test_a_metric_that_is_read_is_a_wait():
    assert counts.launched(counts.FUSED, "ReduceLROnPlateau")["syncs"] >= 1.0


def test_faults_are_counted(monkeypatch):
    """A step that asks for a value, launches more, and breaks the graph."""
    honest, x = counts.Setting.step, torch.ones(3)

    def faulty(self):
        honest(self)
        x.add_(1)
        torch._dynamo.graph_break()
        x.sum().item()

    monkeypatch.setattr(counts.Setting, "step", faulty)
    found = counts.record(counts.OURS, "none", 4)
    assert not counts.spotless([found]) and found["breaks"] >= 1
    assert (found["launches"], found["syncs"]) == (3.0, 1.0)


def test_what_is_compiled_again_is_counted():
    factor = [1.0]
    x = torch.ones(3)

    def work():
        x.mul_(factor[0])
        factor[0] += 1.0 if factor[0] < 3.0 else 0.0

    found = tallies.compiled(work, 5)
    assert found["recompilations"] >= 1 and found["error"] is None


def test_what_fails_while_it_is_compiled_is_told():
    def work():
        raise ValueError("no data")

    assert tallies.compiled(work, 2)["error"] == "ValueError: no data"


@pytest.mark.parametrize("op, kernels, waits", [
    (lambda x: x.view(3, 1), 0, 0),
    (lambda x: torch.empty_like(x), 0, 0),
    (lambda x: x.detach().add_(1), 1, 0),
    (lambda x: torch._foreach_add([x, x], 1.0), 1, 0),
    (lambda x: bool(x.sum() > 0), 2, 1),
    (lambda x: x.cpu(), 0, 1),
    (lambda x: x.to("cpu", non_blocking=True), 1, 0),
    (lambda x: float(x.sum()), 1, 1),
    (lambda x: x.nonzero, 0, 0),
])  # fmt: skip
def test_a_tally_of_a_pretended_gpu(op, kernels, waits):
    with tallies.pretended_gpu():
        x = torch.ones(3, device="cuda")
        with tallies.Tally("cuda") as tally:
            op(x)
    assert (tally.kernels, tally.waits) == (kernels, waits)


def test_the_table_in_the_document_is_what_the_script_prints():
    place = re.compile(r"<!-- benchmark table: python (\S+ \S*counts-\S+) -->\n(.*?)<!-- end -->", re.S)
    command, shown = place.search(DOCUMENT.read_text()).groups()
    done = subprocess.run([sys.executable, *command.split()], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert shown.strip() == done.stdout.strip() and "CosineAnnealingLR" in shown


def test_committed_counts_are_of_everybody_and_ours_are_spotless():
    (file,) = (ROOT / "benchmarks" / "results").glob("counts-*.json")
    results = json.loads(file.read_text())
    found = [(r["contestant"], r["scheduler"]) for r in results["counts"]]
    assert found == counts.pairs((*counts.SCHEDULERS, counts.NATIVE))
    assert counts.spotless(results["counts"]) and all(r["steps"] == counts.STEPS for r in results["counts"])
    assert render.render(results) == counts_table.render(results)


@pytest.mark.full
def test_the_command_writes_what_it_prints(tmp_path, capsys):
    file = tmp_path / "counts.json"
    assert counts.main(["--steps", "3", "--scheduler", "none", "--json", str(file)]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == counts_table.render(json.loads(file.read_text()))
