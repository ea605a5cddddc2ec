# SPDX-License-Identifier: Apache-2.0
"""`make check-gpu` runs this folder alone. Without a GPU it runs on the emulation, most of it in the full tier."""

from pathlib import Path

import machines
import pytest

HERE = Path(__file__).parent


def pytest_collection_finish(session):
    machines.refuse_interpreted_kernels()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if HERE not in item.path.parents:
            continue
        item.add_marker("gpu")
        if machines.machine() is None or not machines.machine().real:
            if item.get_closest_marker("smoke") is None:
                item.add_marker("full")


@pytest.fixture
def gpu():
    """The machine that a test runs on."""
    found = machines.machine()
    if found is None:
        pytest.skip("there is no GPU, and no extension to emulate one with")
    return found


@pytest.fixture
def real_gpu(gpu):
    """The machine, for what only a GPU can show."""
    if not gpu.real:
        pytest.skip("torch finds no GPU")
    return gpu


@pytest.fixture(params=machines.names())
def backend(request, gpu):
    return request.param


@pytest.fixture
def never_waits(gpu):
    """`with never_waits():` raises at each call of torch that waits for the GPU."""
    return gpu.never_waits
