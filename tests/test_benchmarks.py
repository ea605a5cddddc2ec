# SPDX-License-Identifier: Apache-2.0
"""The benchmark runs, has all rows, and its documents come out of its files. Nothing is timed here."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fusedsched import _native

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the benchmarks are not installed

from benchmarks import bench, cases, measure, plain_copy, races, render  # noqa: E402

needs_extension = pytest.mark.skipif(_native.module() is None, reason="there is no compiled extension")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    file = tmp_path_factory.mktemp("results") / "deep" / "smoke.json"
    assert bench.main(["--smoke", "--json", str(file)]) == 0
    return json.loads(file.read_text())


@needs_extension
def test_every_gate_has_a_row(results):
    rows = {(row["case"], row["what"], row["against"]): row for row in results["rows"]}
    assert len(rows) == len(results["rows"])
    assert {key: row["gate"] for key, row in rows.items() if row["gate"] is not None} == races.GATES
    assert {row["case"] for row in results["rows"]} == set(cases.CASES)


@needs_extension
def test_every_round_is_stored(results):
    for stored in results["races"]:
        assert all(len(times) == len(stored["foreign"]) for times in stored["times"].values()), stored["what"]
    assert not re.search(r"/(home|root|tmp|work|usr)/", json.dumps(results)), "a path of this machine"


@needs_extension
def test_rendering_round_trips(results, tmp_path, capsys):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    render.main([str(file)])
    lines = first_table(capsys.readouterr().out)
    assert len(lines) == 2 + len(results["rows"])
    for line, row in zip(lines[2:], results["rows"], strict=True):
        assert [cell.strip() for cell in line.strip("|").split("|")] == render.cells(row)
    render.main([str(file), "--gates", "--short"])
    lines = first_table(capsys.readouterr().out)
    assert len(lines) == 2 + len(races.GATES)
    assert [name.strip() for name in lines[0].strip("|").split("|")] == list(render.SHORT)


def first_table(text):
    return next(block for block in text.split("\n\n") if block.startswith("|")).splitlines()


@needs_extension
def test_exit_codes():
    assert bench.main(["--smoke", "--case", "tiny-300"]) == 0
    assert bench.main(["--smoke", "--case", "tiny-300", "--strict"]) == 1, "what was not judged was not passed"


def a_result(ratio, foreign):
    times = {races.OURS: [1.0] * len(foreign), races.TWIN: [1.0] * len(foreign), races.FUSED: [ratio] * len(foreign)}
    return measure.Result(times, {}, foreign)


@pytest.mark.parametrize(
    ("ratio", "foreign", "verdict"),
    (
        (30.0, [0.0, 0.06, 0.0], "pass"),
        (29.9, [0.0, None, 0.0], "MISSED"),
        (99.0, [0.0, 0.07, 0.0], "disturbed"),
        (1.0, [0.9, 0.9, 0.9], "disturbed"),
    ),
)
def test_verdicts(ratio, foreign, verdict):
    row = races.row(cases.CASES["tiny-300"], races.STEP, races.FUSED, a_result(ratio, foreign), measure.FULL)
    assert (row["ratio"], row["gate"], row["verdict"]) == (ratio, 30.0, verdict)


def test_a_row_as_text():
    result = a_result(45.0, [0.0, 0.0, 0.0])
    row = races.row(cases.CASES["tiny-300"], races.STEP, races.FUSED, result, measure.FULL)
    assert dict(zip([name for name, _ in render.COLUMNS], render.cells(row), strict=True)) == {
        "model": "300 x 16",
        "what": "step + schedule",
        "against": "torch fused",
        "threads": "1",
        "fusedsched": "1.00 s",
        "other": "45.0 s",
        "ratio": "45.0",
        "quartiles": "45.0 to 45.0",
        "A/A": "0.0 %",
        "gate": "30",
        "verdict": "pass",
        "clean rounds": "3/3",
        "floor": "3333.333 us per tensor",
    }


def test_disturbed_rounds_do_not_count():
    result = a_result(2.0, [0.0, 0.5, 0.0, 0.0])
    result.times[races.FUSED][1] = 1e9
    assert result.clean == [0, 2, 3]
    assert result.ratio(races.FUSED, races.OURS) == (2.0, 2.0, 2.0)
    assert result.seconds(races.FUSED) == 2.0


def test_rounds_on_a_memory_that_others_use_do_not_count(monkeypatch):
    monkeypatch.setattr(measure.Watch, "foreign", lambda self: 0.0)
    copies = iter([9.0, 1.0, 2.1, 1.9, 1.0, 1.0])
    shortest = []

    def undisturbed(seconds):
        shortest.append(seconds)
        return min(shortest)

    copy = measure.Contestant("copy", lambda calls: next(copies) if calls == 7 else 0.0, undisturbed)
    monkeypatch.setattr(measure, "calls_for", lambda contestant, seconds: 7)
    result = measure.race([copy], measure.Settings(rounds=3, slice=0.0))
    assert (result.times["copy"], result.clean) == ([9.0, 1.0, 2.1, 1.9, 1.0], [1, 3, 4])


def test_the_shortest_copy_is_remembered(monkeypatch, tmp_path):
    monkeypatch.setattr(plain_copy, "FILE", tmp_path / "copy.json")
    for given, best in ((3.0, 3.0), (4.0, 3.0), (2.0, 2.0)):
        monkeypatch.setattr(plain_copy, "_known", {})  # as in a new process
        assert plain_copy.shortest(given) == best
    plain_copy.FILE.write_text("no JSON")
    monkeypatch.setattr(plain_copy, "_known", {})
    assert plain_copy.shortest(5.0) == 5.0


@needs_extension
def test_a_disturbed_case_is_tried_once_more_at_the_end(monkeypatch):
    tried = []

    def run_case(case, settings):
        tried.append(case.name)
        verdict = "disturbed" if tried == ["groups-465"] or case.name == "tiny-2000" else "pass"
        return {"rows": [{"case": case.name, "verdict": verdict}], "races": [], "contestants": [], "skipped": []}

    monkeypatch.setattr(bench, "run_case", run_case)
    monkeypatch.setattr(bench.starting, "measure", lambda runs: {})
    chosen = [cases.CASES[name] for name in ("groups-465", "tiny-300", "tiny-2000")]
    rows = bench.measure(chosen, measure.FULL)["rows"]
    assert tried == ["groups-465", "tiny-300", "tiny-2000", "groups-465", "tiny-2000"]
    assert [(r["case"], r["verdict"]) for r in rows] == [
        ("groups-465", "pass"),
        ("tiny-300", "pass"),
        ("tiny-2000", "disturbed"),
    ]


@pytest.mark.parametrize(("patience", "rounds"), ((dict(attempts=5), 5), (dict(seconds=0.0), 3)))
def test_a_race_on_a_disturbed_machine_ends(monkeypatch, patience, rounds):
    monkeypatch.setattr(measure.Watch, "foreign", lambda self: 0.5)
    runner = measure.Contestant("a", lambda calls: 1.0)
    result = measure.race([runner], measure.Settings(rounds=2, slice=0.0, **patience))
    assert (len(result.foreign), result.clean, result.trusted) == (rounds, [], False)


@needs_extension
def test_contestants_that_disagree_are_refused():
    from benchmarks import sides

    case = cases.shrunk(cases.CASES["small-2000"])
    pair = {name: sides.build(case, name) for name in (races.OURS, races.FUSED)}
    sides.check_agreement(case, pair)
    pair[races.FUSED].params[3].data[7] += 0.01
    with pytest.raises(RuntimeError, match="parameter 3 of fusedsched and of torch fused differ"):
        sides.check_agreement(case, pair)


@needs_extension
@pytest.mark.parametrize("name", ("small-2000", "mixed-300-bf16"))
def test_the_ceiling_walks_over_every_element(name, threads):
    import torch

    from benchmarks import ceiling, sides

    torch.set_num_threads(threads)
    shapes = ((1,), (63,), (64,), (65,), (1000,), (10, 13))  # around and across the units that threads share out
    case = replace(cases.CASES[name], shapes=shapes)
    side = sides.build(case, races.OURS)
    walk, squares = ceiling.Ceiling(side, case.dtype), [side.optimizer.state[p]["exp_avg_sq"] for p in side.params]
    wanted = [0.999 * v.double() + 0.001 * g.double() ** 2 for v, g in zip(squares, side.grads, strict=True)]
    walk()
    for square, value in zip(squares, wanted, strict=True):
        torch.testing.assert_close(square.double(), value, rtol=1e-2, atol=1e-6)
