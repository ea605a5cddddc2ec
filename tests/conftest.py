# SPDX-License-Identifier: Apache-2.0
"""Seeds, and the backends as a fixture: a property that takes `make` runs on each backend of this machine."""

import gc
import importlib
import os

# Before torch loads OpenMP: where other processes use the cores, threads that spin at a barrier delay those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest  # noqa: E402
import tiers  # noqa: E402
import torch  # noqa: E402
from cases import BACKENDS, REFERENCE_CLASSES, maker  # noqa: E402


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    tiers.split(config, items)


def pytest_collection_finish(session):
    gc.collect()
    gc.freeze()  # what is imported by now stays; tests that collect garbage need not walk over it again


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=[*BACKENDS, REFERENCE_CLASSES])
def make(request):
    """`make("AdamW", params, **options)`: an optimizer on one backend."""
    return maker(request.param)


@pytest.fixture(params=BACKENDS)
def product(request):
    """As `make`, without the eager reference: for properties about more than the update."""
    return maker(request.param)


@pytest.fixture(params=[*BACKENDS, *(() if "triton" in BACKENDS else ("triton",))])
def everywhere(request, monkeypatch):
    """As `product`, on the Triton backend under its interpreter too."""
    if request.param == "triton" and "triton" not in BACKENDS:
        pytest.importorskip("triton", reason="Triton is not installed")
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        return importlib.import_module("interpreted").make
    return maker(request.param)


@pytest.fixture(params=(1, 2))
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
