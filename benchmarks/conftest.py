# SPDX-License-Identifier: Apache-2.0
"""Gates are tested only on request: `pytest benchmarks -m perf`."""

import pytest
import torch

from fusedsched import _native


def pytest_collection_modifyitems(config, items):
    asked = "perf" in config.option.markexpr
    for item in items:
        if item.get_closest_marker("perf") and not asked:
            item.add_marker(pytest.mark.skip(reason="compares times; run with -m perf"))


@pytest.fixture(autouse=True)
def compiled():
    if _native.module() is None:
        pytest.skip(f"no compiled extension: {_native.reason()}")


@pytest.fixture
def threads():
    """Sets the number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
