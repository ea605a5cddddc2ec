# SPDX-License-Identifier: Apache-2.0
"""Law: loading never narrows state, and widens what is narrower than its parameter."""

import copy

import pytest
import torch
from cases import VISIBLE
from scripting import parameters, train


@pytest.mark.parametrize("state_dtype", (torch.float32, torch.bfloat16, torch.float64), ids=str)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_loading_never_narrows_state(dtype, state_dtype, product):
    """torch casts it to the dtype of the parameter, and loses float32 moments of a bfloat16 model."""
    params = parameters(6, dtype=dtype)
    optimizer = product("AdamW", params, **VISIBLE["AdamW"])
    train(optimizer, params, 1)
    saved = copy.deepcopy(optimizer.state_dict())
    moments = {key: torch.rand(6).to(state_dtype) for key in ("exp_avg", "exp_avg_sq")}
    saved["state"][0].update(moments)
    optimizer.load_state_dict(saved)
    wide = torch.promote_types(dtype, state_dtype)
    for key, value in moments.items():
        assert optimizer.state[params[0]][key].dtype == wide
        assert torch.equal(optimizer.state[params[0]][key], value.to(wide))
    train(optimizer, params, 1)
    assert optimizer.state[params[0]]["exp_avg"].dtype == wide


def test_a_narrow_state_does_not_stick(product):
    """In bfloat16, 0.999 times a second moment is that moment again."""
    p, q = (torch.ones(6).requires_grad_() for _ in range(2))
    ours, torchs = product("AdamW", [p]), torch.optim.AdamW([q], foreach=False)
    for optimizer, param in ((ours, p), (torchs, q)):
        param.grad = torch.full((6,), 0.1)
        optimizer.step()
        saved = copy.deepcopy(optimizer.state_dict())
        saved["state"][0]["exp_avg"] = torch.full((6,), 0.1, dtype=torch.bfloat16)
        saved["state"][0]["exp_avg_sq"] = torch.full((6,), 3e-3, dtype=torch.bfloat16)
        optimizer.load_state_dict(saved)
        param.grad = torch.full((6,), 0.01)
        for _ in range(300):
            optimizer.step()
    moments = ours.state[p]["exp_avg_sq"], torchs.state[q]["exp_avg_sq"]
    assert moments[0].dtype == torch.float32 and moments[0][0] < 2.4e-3
    torch.testing.assert_close(*moments, rtol=300 * 2**-23, atol=0.0)  # two roundings an update
