# SPDX-License-Identifier: Apache-2.0
"""`bench compare`: a planted slow-down is found, noise is not, and another machine is named."""

import copy
import sys
from pathlib import Path

import pytest

from fusedsched import cli, files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # in a source tree the benchmarks lie beside the package

from benchmarks import compare, output, peers, races  # noqa: E402


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
