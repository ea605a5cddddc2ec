# SPDX-License-Identifier: Apache-2.0
"""The example of docs/range-test.md: a small classifier on made-up data."""

import torch
from torch import nn


def trial():
    """A model, a loader, a loss and an optimizer, for `python -m fusedsched lr-find`."""
    torch.manual_seed(0)
    inputs = torch.randn(2048, 20)
    labels = ((inputs @ torch.randn(20, 40)).relu() @ torch.randn(40, 10)).argmax(1)
    data = torch.utils.data.TensorDataset(inputs, labels)
    model = nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10))
    loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)
    return model, loader, nn.functional.cross_entropy, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
