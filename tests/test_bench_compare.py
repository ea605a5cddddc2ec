# SPDX-License-Identifier: Apache-2.0
"""`bench compare`: planted slow-downs are found, noise is not, and other machines and versions are told apart."""

import copy
import sys
from pathlib import Path

import pytest

from fusedsched import cli, files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # in a source tree the benchmarks lie beside the package

from benchmarks import compare, output, races  # noqa: E402


def committed():
    return output.read_results(ROOT / "benchmarks" / "results" / "cpu-2-cores-torch-2.13.0.json")


def slowed(results, case, what, factor):
    """The same results, in which one thing takes so many times longer on our side."""
    planted = copy.deepcopy(results)
    for row in planted["rows"]:
        if (row["case"], row["what"]) == (case, what):
            row["ours"] *= factor
            row["ratio"] /= factor
            row["quartiles"] = [value / factor for value in row["quartiles"]]
    return planted


@pytest.mark.parametrize(
    ("factor", "verdict", "code"),
    ((1.5, "SLOWER", 1), (1.2, "SLOWER", 1), (1.01, None, 0), (1.0, None, 0), (0.5, "faster", 0)),
)
@pytest.mark.parametrize(
    ("case", "what"), (("tiny-300", races.STEP), ("one-50M", races.STEP), ("tiny-2000", races.ZERO))
)
def test_a_planted_change_is_found_and_noise_is_not(factor, verdict, code, case, what):
    lines, exit_code = compare.report(committed(), slowed(committed(), case, what, factor))
    named = [line for line in lines if line.startswith(("SLOWER", "faster"))]
    assert exit_code == code
    assert len(named) == (verdict is not None)
    assert all(line.startswith(verdict) and f", {what}: " in line for line in named)


def test_another_torch_is_judged_by_the_clock():
    before, after = committed(), committed()
    after["machine"]["torch"] = "3.0"
    for row in after["rows"]:  # torch got twice as fast; we did not get slower
        row["theirs"] /= 2.0
        row["ratio"] /= 2.0
        row["quartiles"] = [value / 2.0 for value in row["quartiles"]]
    assert compare.report(before, after)[1] == 0
    after["machine"]["torch"] = before["machine"]["torch"]
    assert compare.report(before, after)[1] == 1


def test_disturbed_rows_are_not_compared():
    after = slowed(committed(), "tiny-300", races.STEP, 3.0)
    for row in after["rows"]:
        row["verdict"] = "disturbed"
    assert compare.report(committed(), after)[1] == 0


def test_more_launches_waits_or_memory_count_too():
    record = dict(case="a", title="a", dtype="float32", name="fusedsched", launches=1.0, syncs=0.0, peak_bytes=2**30)
    assert compare.grown([record], [record]) == []
    for change in (dict(launches=2.0), dict(syncs=1.0), dict(peak_bytes=2**31)):
        assert len(compare.grown([record], [{**record, **change}])) == 1
    assert compare.grown([{**record, "name": "torch fused"}], [{**record, "name": "torch fused", "launches": 9}]) == []


def test_compare_as_a_command(tmp_path, capsys):
    before, after, other = (tmp_path / f"{name}.json" for name in "abc")
    files.write_json(before, committed())
    files.write_json(after, slowed(committed(), "resnet50", races.STEP, 1.5))
    assert cli.main(["bench", "compare", str(before), str(before)]) == 0
    assert cli.main(["bench", "compare", str(before), str(after)]) == 1
    assert "SLOWER  ResNet-50, 161 tensors, step + schedule:" in capsys.readouterr().out
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
