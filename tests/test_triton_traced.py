# SPDX-License-Identifier: Apache-2.0
"""Law: torch.compile takes a step of the Triton backend as one op, and the result is the same to the bit."""

import pytest
import torch
from cases import VISIBLE
from interpreted import interpreter as interpreter, make
from scripting import give_gradients, parameters


@pytest.mark.parametrize("name", VISIBLE)
def test_a_compiled_step_is_one_graph_and_the_same(name):
    results, graphs = [], []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    for compiled in (True, False):
        params = parameters((4, 3), 5)
        optimizer = make(name, params, **VISIBLE[name])
        give_gradients(params)
        optimizer.step()
        step = torch.compile(optimizer.step, backend=backend, fullgraph=True) if compiled else optimizer.step
        for update in range(1, 4):
            optimizer.param_groups[0]["lr"] = 0.1 / update
            give_gradients(params, update)
            step()
        results.append([p.detach() for p in params])
    assert len(graphs) == 1
    assert "fusedsched.step" in graphs[0].code
    assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))
