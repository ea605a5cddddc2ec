# SPDX-License-Identifier: Apache-2.0
"""`bench` and `bench compare` as commands: what they take, what they write, when they say that something got slower."""

import copy
import doctest
import json
import math
import re
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from tiers import full

from fusedsched import _native, cli, files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # in a source tree the benchmarks lie beside the package

from benchmarks import bench, cases, compare, lists, measure, output, peers, races, render, sides  # noqa: E402

needs_extension = pytest.mark.skipif(_native.module() is None, reason="there is no compiled extension")
COMMITTED = [f for f in sorted((ROOT / "benchmarks" / "results").glob("*.json")) if not f.name.startswith("counts-")]
DOCTESTS = "cases compare counts_table gpu launches lists markdown measure memory peers render tallies".split()


@pytest.mark.parametrize("name", DOCTESTS)
def test_doctests_of_the_benchmarks(name):
    failed, tried = doctest.testmod(import_module(f"benchmarks.{name}"))
    assert tried > 0 and failed == 0


# ---- lists ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "tensors", "parameters"),
    (
        (lists.resnet50(), 161, 25_557_032),
        (lists.gpt2(), 148, 124_439_808),
        (lists.llama3_8b(), 291, 8_030_261_248),
        (cases.CASES["groups-465"].shapes, 465, 465 * 16),
        (cases.CASES["small-2000"].shapes, 2000, 2000 * 1024),
        (cases.GPU_CASES["one-1B"].shapes, 1, 10**9),
    ),
    ids=("resnet50", "gpt2", "llama3-8b", "groups", "small", "one"),
)
def test_lists_have_the_sizes_of_their_models(shapes, tensors, parameters):
    assert (len(shapes), lists.numel(shapes)) == (tensors, parameters)


def test_resnet50_is_the_one_of_torchvision():
    torchvision = pytest.importorskip("torchvision")
    assert sorted(lists.resnet50()) == sorted(tuple(p.shape) for p in torchvision.models.resnet50().parameters())


@pytest.mark.parametrize("optimizer", cases.OPTIMIZERS)
def test_bytes_are_those_of_the_arrays_that_a_step_touches(optimizer):
    """Counted from the state of torch's own optimizer: all arrays are read, all but the gradient are written."""
    case = cases.Case("one", "one", ((8,),), dtype="bfloat16", optimizer=optimizer)
    p = torch.ones(8, dtype=torch.bfloat16, requires_grad=True)
    name, options, moments = cases.OPTIMIZERS[optimizer]
    opt = getattr(torch.optim, name)([p], lr=1.0, **options)
    p.grad = torch.ones_like(p)
    opt.step()
    state = [value for value in opt.state[p].values() if torch.is_tensor(value) and value.shape == p.shape]
    assert len(state) == moments
    assert case.bytes_per_parameter == 2 * (2 + len(state)) + 2 * (1 + len(state))
    assert case.footprint == 8 * 2 * (2 + len(state))


def test_experts_without_tokens_are_not_counted_as_moved():
    case = cases.CASES["experts"]
    assert len(case.idle) == 336 and 0 < case.numel < lists.numel(case.shapes) / 4
    shrunk = cases.shrunk(case)
    assert 0 < len(shrunk.idle) < len(shrunk.shapes) < 10


@needs_extension
def test_a_side_of_experts_leaves_the_idle_alone():
    case = cases.shrunk(cases.CASES["experts"])
    for side in (sides.build(case, races.OURS), sides.build(case, races.FUSED)):
        assert [i for i, p in enumerate(side.params) if p not in side.optimizer.state] == sorted(case.idle)


def test_names_of_variants_are_those_of_the_cases_where_there_is_one():
    everything = cases.variants([cases.CASES["resnet50"]], list(cases.OPTIMIZERS), ["float32", "bfloat16"], [])
    names = {case.name for case in everything}
    assert len(names) == 6 and {"resnet50", "resnet50-bf16", "resnet50-amsgrad", "resnet50-sgd"} <= names
    assert next(case for case in everything if case.name == "resnet50-bf16") == cases.CASES["resnet50-bf16"]


# ---- peers ----------------------------------------------------------------------------------------------------------


def test_what_cannot_run_says_why():
    case = cases.CASES["resnet50"]
    assert peers.PEERS[peers.CAPTURABLE].reason(case, "cpu") == "has none for CPUs"
    assert "161 tensors" in peers.PEERS[peers.COMPILED].reason(case, "cpu")
    assert peers.PEERS[peers.COMPILED].reason(case, "cpu", 200) is None
    absent = peers.Peer("no_such_library.optim", peers.PEERS["optimi"].make)
    assert absent.reason(case, "cpu") == "not installed"


class Library:
    """An optimizer library that loads, and then does as told."""

    def __init__(self, fault):
        self.fault = fault

    def AdamW(self, groups, lr, betas, eps, weight_decay):
        if self.fault == "raises":
            raise NotImplementedError("no kernel\nsecond line")
        factor = 3.0 if self.fault == "differs" else 1.0
        return torch.optim.AdamW([{**g, "lr": factor * g["lr"]} for g in groups], lr, betas, eps, weight_decay)


@needs_extension
@pytest.mark.parametrize(
    ("fault", "why"),
    (
        ("none", None),
        ("raises", "NotImplementedError: no kernel"),
        ("differs", "RuntimeError: experts: parameter 0 of"),
    ),
)
def test_a_library_that_fails_or_differs_is_left_out_with_the_reason(monkeypatch, fault, why):
    case = cases.shrunk(cases.CASES["experts"])
    monkeypatch.setitem(peers.PEERS, "library", peers.Peer("torch", peers._named("AdamW"), "torch-library"))
    monkeypatch.setattr(sides, "load", lambda name: Library(fault) if name == "library" else peers.load(name))
    built, skipped = sides.assemble(case, [peers.OURS, "library"])
    assert ("library" in built) == (why is None)
    assert (why is None and not skipped) or skipped["library"].startswith(why)


def test_a_list_that_does_not_fit_into_memory_is_not_begun(monkeypatch):
    monkeypatch.setattr(races.memory, "available", lambda: 2**20)
    found = races.run_case(cases.CASES["one-50M"], bench.SMOKE)
    assert found["rows"] == [] and "GiB" in found["skipped"][0]["why"]


# ---- the command ----------------------------------------------------------------------------------------------------


@needs_extension
def test_the_command_measures_and_writes(tmp_path, capsys):
    table = tmp_path / "new" / "a.json"
    argv = "bench --smoke --case resnet50 --optimizer sgd --optimizer adamw --dtype float64 --backend cpu --json"
    assert cli.main([*argv.split(), str(table)]) == 0
    printed = capsys.readouterr()
    assert "Not measured:" in printed.out
    assert printed.err.startswith("2 cases, about 10 seconds on an idle machine\n")
    results = json.loads(table.read_text())
    assert {row["case"] for row in results["rows"]} == {"resnet50-f64-sgd", "resnet50-f64"}
    assert {record["backend"] for record in results["contestants"] if record["name"] == races.OURS} == {"cpu"}
    assert all(record["construction"] > 0.0 and record["version"] for record in results["contestants"])
    assert sorted(tmp_path.iterdir()) == [tmp_path / "new"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_backend_is_refused_before_minutes_of_measuring(capsys, monkeypatch):
    monkeypatch.setattr(bench, "measure", None)
    assert bench.main(["--backend", "triton"]) == 2
    assert "Nothing to measure" in capsys.readouterr().err


def test_quick_leaves_out_the_slow():
    args = bench.parser().parse_args(["--quick"])
    chosen, on_gpu = bench.chosen(args, bench.parser())
    assert not on_gpu and {case.name for case in chosen} == {n for n, c in cases.CASES.items() if not c.slow}


def test_quick_is_announced_as_two_minutes_at_most():
    chosen, _ = bench.chosen(bench.parser().parse_args(["--quick"]), bench.parser())
    assert bench.STARTING + sum(bench.seconds_for(case, bench.QUICK) for case in chosen) < 120.0
    assert re.fullmatch(r"12 cases, about \d+0 seconds on an idle machine", bench.announce(chosen, bench.QUICK))


@needs_extension
@pytest.mark.parametrize(("budget", "rounds"), ((0.0, 3), full(math.inf, 5)))
def test_beyond_the_budget_races_are_short(monkeypatch, budget, rounds):
    """Lest a disturbed machine makes two minutes ten."""
    monkeypatch.setattr(bench.starting, "measure", lambda runs: {})
    monkeypatch.setattr(measure.Watch, "foreign", lambda self: 0.0)
    settings = replace(bench.QUICK, slice=1e-4, seconds=60.0, budget=budget)
    results = bench.measure([cases.CASES["groups-465"]], settings)
    assert {len(stored["foreign"]) for stored in results["races"]} == {rounds}


# ---- committed results and pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.name)
def test_committed_results_still_render(file):
    results = output.read_results(file)
    assert render.render(results).count("\n| ") > len(results["rows"])


def test_there_are_committed_results():
    assert "cpu-2-cores-torch-2.13.0.json" in {file.name for file in COMMITTED}


# ---- compare: a planted slow-down is found, noise is not, and another machine is named ------------------------------


def committed():
    return output.read_results(ROOT / "benchmarks" / "results" / "cpu-2-cores-torch-2.13.0.json")


def slowed(results, case, what, factor):
    """The same results, in which one thing takes so many times longer on our side, in each round."""
    planted = copy.deepcopy(results)
    for stored in planted["races"]:
        if (stored["case"], stored["what"]) == (case, what):
            stored["times"][peers.OURS] = [factor * seconds for seconds in stored["times"][peers.OURS]]
    return planted


@pytest.mark.parametrize(("factor", "code"), ((1.5, 1), (1.2, 1), (1.01, 0), (1.0, 0), (0.5, 0)))
@pytest.mark.parametrize(
    ("case", "what"), (("tiny-300", races.STEP), ("one-50M", races.STEP), ("tiny-2000", races.ZERO))
)
def test_a_planted_change_is_found_and_noise_is_not(factor, code, case, what):
    lines, exit_code = compare.report(committed(), slowed(committed(), case, what, factor))
    named = [line for line in lines[-2].splitlines() if "slower" in line]
    assert exit_code == code and bool(named) is bool(code)
    assert all(f"| {what} " in line for line in named)


def test_rounds_of_both_libraries_that_drift_alike_are_no_change():
    after = committed()
    for stored in after["races"]:
        stored["times"] = {name: [3 * seconds for seconds in times] for name, times in stored["times"].items()}
        stored["limits"] = {name: 3 * seconds for name, seconds in stored.get("limits", {}).items()}
    assert compare.report(committed(), after)[1] == 0


def test_an_interval_covers_what_the_rounds_say():
    low, middle, high = compare.change([1.0, 1.1, 0.9, 1.0, 1.05], [1.2, 1.3, 1.1, 1.2, 1.25])
    assert low < middle < high and middle == pytest.approx(0.2) and 0.0 < low and high < 0.45


def test_disturbed_rows_are_not_compared():
    after = slowed(committed(), "tiny-300", races.STEP, 3.0)
    for row in after["rows"]:
        row["verdict"] = "disturbed"
    assert compare.report(committed(), after) == (["The two files have no measurement in common."], 2)


def test_compare_as_a_command(tmp_path, capsys):
    before, after, other = (tmp_path / f"{name}.json" for name in "abc")
    files.write_json(before, committed())
    files.write_json(after, slowed(committed(), "resnet50", races.STEP, 1.5))
    assert cli.main(["bench", "compare", str(before), str(before)]) == 0
    assert cli.main(["bench", "compare", str(before), str(after)]) == 1
    assert "slower" in capsys.readouterr().out
    other.write_text("{}")
    assert cli.main(["bench", "compare", str(before), str(other)]) == 2
    assert cli.main(["bench", "compare", str(before), str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    files.write_json(other, {**committed(), "rows": []})
    assert cli.main(["bench", "compare", str(before), str(other)]) == 2


def test_another_machine_is_pointed_out():
    after = committed()
    after["machine"]["processor"] = "another"
    assert compare.report(committed(), after)[0][0].startswith("warning: not the same machine: processor")
