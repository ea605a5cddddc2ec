# SPDX-License-Identifier: Apache-2.0
"""What an optimizer is stands in its spec; headers, kernels and layouts agree with it. And what one more took."""

import re
from itertools import product
from pathlib import Path

import core_rules
import pytest
import torch

from fusedsched import _layouts, _native, optim

ROOT = Path(__file__).resolve().parents[1]
SPECS = {getattr(optim, name)._spec.family: getattr(optim, name)._spec for name in optim.OPTIMIZERS}
compiled = pytest.mark.skipif(_native.module() is None, reason="needs the compiled extension")


def settings(spec):
    """Which numbers are other than zero: every combination."""
    names = [hyper.name for hyper in spec.hyperparameters]
    return [dict(zip(names, values, strict=True)) for values in product((False, True), repeat=len(names))]


@compiled
def test_layouts_are_those_of_the_headers():
    layouts = _native.module().layouts()
    assert layouts.pop("families").keys() == SPECS.keys()
    from fusedsched.schedules import Shape

    assert layouts == {
        "program_row": list(_layouts.PROGRAM_ROW),
        "program_header": list(_layouts.PROGRAM_HEADER),
        "n_shapes": len(Shape),
        "metric_state": list(_layouts.METRIC_STATE),
        "metric_target": list(_layouts.METRIC_TARGET),
        "scheduled_target": list(_layouts.SCHEDULED_TARGET),
        "edit_rule": list(_layouts.EDIT_RULE),
        "n_clocks": len(_layouts.CLOCKS),
        "n_variants": len(_layouts.VARIANTS),
        "max_hyperparameters": _layouts.MAX_HYPERPARAMETERS,
        "max_states": _layouts.MAX_STATES,
        "n_roles": len(_layouts.ROLES),
        "max_scalars": _layouts.MAX_SCALARS,
        "telemetry_head": len(_layouts.TELEMETRY_HEAD),
    }


@compiled
@pytest.mark.parametrize("family", SPECS)
def test_numbers_and_states_are_those_of_the_header(family):
    spec, (numbers, states, rules) = SPECS[family], _native.module().layouts()["families"][family]
    assert numbers == [hyper.name for hyper in spec.hyperparameters] and states == list(spec.state_names)
    assert list(rules) == [rule.name for rule in core_rules.rules() if rule.name in rules]
    assert set(rules) == {spec.choose(nonzero) for nonzero in settings(spec)}


@compiled
@pytest.mark.parametrize("family", SPECS)
def test_rules_are_chosen_as_in_the_header(family):
    spec, module = SPECS[family], _native.module()
    rules = module.layouts()["families"][family][2]
    for nonzero in settings(spec):
        rule = spec.choose(nonzero)
        for on in (0.5, float("nan")):  # NaN: only the device knows
            assert module.choose(family, [on if value else 0.0 for value in nonzero.values()]) == rule, nonzero
        needed = [state.name for state in spec.states if state.needed(nonzero)]
        assert needed == list(spec.state_names[: rules[rule]]), nonzero


@pytest.mark.parametrize("family", SPECS)
def test_flags_come_last(family):
    flags = [hyper.flag for hyper in SPECS[family].hyperparameters]
    assert flags == sorted(flags) and len(flags) <= _layouts.MAX_HYPERPARAMETERS


@compiled
def test_a_spec_that_is_not_the_headers_is_refused():
    spec = optim.SGD._spec
    turned = spec._replace(hyperparameters=spec.hyperparameters[::-1])
    clocks = torch.zeros(len(_layouts.CLOCKS), dtype=torch.int64)
    for wrong, message in ((turned, "other rules"), (spec._replace(family="none"), "no rules of family 'none'")):
        with pytest.raises(ValueError, match=message):
            _native.module().CpuPlan(wrong, lambda: None, [], {}, clocks)


# The proof that an optimizer is told in one place: what the last one took.

NEW = {"csrc/core/lion.h", "fusedsched/optim/lion.py", "fusedsched/reference/lion.py"}
EDITED = {"csrc/core/rules.h", "fusedsched/optim/__init__.py", "fusedsched/verify/table.py", "triton_kernels/rules.py"}


def mentions(word):
    """Source files with a word in them, small or capital letters."""
    found = set()
    for folder in ("csrc", "fusedsched", "triton_kernels", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".h", ".cpp", ".cu", ".cuh"} and re.search(
                rf"(?<![a-z]){word}(?![a-z])", path.read_text(), re.IGNORECASE
            ):
                found.add(str(path.relative_to(ROOT)))
    return found


def test_an_optimizer_takes_three_new_files_and_four_edits():
    assert mentions("lion") == NEW | EDITED | {"tests/test_spec.py"}


def test_the_search_finds_what_is_there():
    assert {"csrc/core/sgd.h", "tests/test_rules.py", "fusedsched/optim/sgd.py"} <= mentions("sgd")
