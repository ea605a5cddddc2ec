# SPDX-License-Identifier: Apache-2.0
"""Seeds, and the backends as a fixture: a law that takes `make` runs on each backend of this machine."""

import pytest
import tiers
import torch
from cases import BACKENDS, REFERENCE_CLASSES, maker


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    tiers.split(config, items)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=[*BACKENDS, REFERENCE_CLASSES])
def make(request):
    """`make("AdamW", params, **options)`: an optimizer on one backend."""
    return maker(request.param)


@pytest.fixture(params=BACKENDS)
def product(request):
    """As `make`, without the eager reference: for laws about more than the update."""
    return maker(request.param)


@pytest.fixture(params=(1, 2))
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
