# SPDX-License-Identifier: Apache-2.0
"""Tensors that are not native, in every place of a step; run in a process of its own, which a null address would end.

python tests/subclass_runs.py BACKEND < names of cases     prints one line of JSON for each case
"""

import json
import os
import sys

if sys.argv[1:2] == ["triton"]:
    os.environ["TRITON_INTERPRET"] = "1"

import torch
import torch.distributed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._pytree import tree_map


class Wrapper(torch.Tensor):
    """Holds a tensor; every operation reads and writes that one."""

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=inner.device
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args, kwargs=None):
        args, kwargs = tree_map(lambda x: x.inner if isinstance(x, cls) else x, (args, kwargs or {}))
        return function(*args, **kwargs)


class Named(torch.Tensor):
    """A subclass with memory of its own."""


def distributed(t):
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    return distribute_tensor(t, init_device_mesh("cpu", (1,)), [Replicate()])


KINDS = {
    "async": AsyncCollectiveTensor,
    "wrapper": Wrapper,
    "named": lambda t: t.as_subclass(Named),
    "two": lambda t: TwoTensor(t.clone(), t.clone()),
    "distributed": distributed,
    "fake": lambda t: FakeTensorMode().from_tensor(t),
    "functional": torch._to_functional_tensor,
    "zeros": lambda t: torch._efficientzerotensor(t.shape),
}
READABLE = ("async", "wrapper", "named")  # mix with plain tensors in each operation of torch
OPTIMIZERS = {
    "AdamW": {"lr": 0.1, "weight_decay": 0.1},
    "Adam": {"lr": 0.1, "amsgrad": True},
    "SGD": {"lr": 0.1, "momentum": 0.9},
    "SGD, plain": {"lr": 0.1},
}
PLACES = ("gradient", "scaled gradient", "zeroed gradient", "state", "step", "lr", "grad_scale", "found_inf", "metric")
NUMBERS = ("step", "lr", "grad_scale", "found_inf", "metric")
CASES = [f"{place}/{kind}/{name}" for place in PLACES for kind in KINDS for name in OPTIMIZERS]
CASES = [case for case in CASES if not case.startswith(("grad_scale/zeros", "step/zeros"))]  # another number then


def plain(t):
    """What a tensor holds, by its own copy_."""
    t = t.detach()
    return torch.empty(t.shape, dtype=t.dtype).copy_(t).tolist()


def start(optimizer_class, options):
    generator = torch.Generator().manual_seed(0)
    params = [
        torch.randn(5, 3, generator=generator).requires_grad_(),
        torch.randn(4, generator=generator).requires_grad_(),
    ]
    optimizer = optimizer_class(params, **options)
    gradients = [[torch.randn(p.shape, generator=generator) for p in params] for _ in range(3)]
    return params, optimizer, gradients


def update(optimizer, params, gradients, place, kind):
    """The second update, with a tensor of this kind at this place, in the second parameter where there are two."""
    p = params[1]
    for param, gradient in zip(params, gradients, strict=True):
        param.grad = gradient.clone()
    if place in ("gradient", "scaled gradient", "zeroed gradient"):
        p.grad = kind(gradients[1].clone())
    if place == "scaled gradient":
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(0.0)
    elif place == "grad_scale":
        optimizer.grad_scale, optimizer.found_inf = kind(torch.tensor(4.0)), torch.tensor(0.0)
    elif place == "found_inf":
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), kind(torch.tensor(0.0))
    elif place == "state":
        state = optimizer.state[p]
        name = next((name for name in state if name != "step"), None)
        if name is not None:
            state[name] = kind(state[name])
    elif place == "step" and "step" in optimizer.state[p]:
        optimizer.state[p]["step"] = kind(optimizer.state[p]["step"])
    elif place == "lr":
        optimizer.param_groups[0]["lr"] = kind(torch.tensor(0.05))
    if place == "zeroed gradient":
        optimizer.zero_grad(set_to_none=False)
        return
    if place == "metric":
        schedulers = torch.optim.lr_scheduler
        if not type(optimizer).__module__.startswith("torch."):
            from fusedsched import lr_scheduler as schedulers
        schedulers.ReduceLROnPlateau(optimizer, threshold=0.0).step(kind(torch.tensor(1.0)))
    optimizer.step()
    if hasattr(optimizer, "grad_scale"):
        del optimizer.grad_scale, optimizer.found_inf


def contents(optimizer, params):
    """Parameters and state as numbers, leaving out what has none."""
    states = [{key: value for key, value in optimizer.state.get(p, {}).items() if value is not None} for p in params]
    return [plain(p) for p in params], [{key: plain(value) for key, value in state.items()} for state in states]


def outcome(optimizer_class, options, place, kind):
    """{"params": after three updates}, or {"error": class, "changed": whether the second update changed anything}."""
    params, optimizer, gradients = start(optimizer_class, options)
    update(optimizer, params, gradients[0], None, None)
    before = contents(optimizer, params)
    try:
        update(optimizer, params, gradients[1], place, kind)
        if place == "zeroed gradient":
            return {"params": [plain(p.grad) for p in params]}
        update(optimizer, params, gradients[2], None, None)
    except Exception as error:
        params_changed = parameters_of(params) != before[0]
        # A state that is no number cannot be compared.
        changed = params_changed if place in ("state", "step") else contents(optimizer, params) != before
        return {"error": type(error).__name__, "changed": changed, "said": str(error)[:300]}
    return {"params": parameters_of(params)}


def parameters_of(params):
    return [plain(p) for p in params]


def run(backend, case):
    """`ours`, torch's by implementation, and `plain`: torch's with a plain tensor at the place."""
    import fusedsched

    place, kind, name = case.split("/")
    kind, options, name = KINDS[kind], OPTIMIZERS[name], name.split(",")[0]
    chosen = "auto" if (backend, place) == ("cpu", "state") else backend  # torch's operations take over then
    ours = outcome(getattr(fusedsched, name), {**options, "backend": chosen}, place, kind)
    twin = getattr(torch.optim, name)
    scaled = place in ("scaled gradient", "grad_scale", "found_inf")  # read by torch's fused implementation alone
    how = [{"fused": True}] if scaled else [{"foreach": False}, {"fused": True}]
    judges = how
    if place == "zeroed gradient" or kind is KINDS["functional"]:  # with those torch's fused one crashes, too
        judges = [implementation for implementation in how if "fused" not in implementation]
    return {
        "case": case,
        "ours": ours,
        "torch": [outcome(twin, {**options, **implementation}, place, kind) for implementation in judges],
        "plain": outcome(twin, {**options, **how[0]}, place, lambda t: t),
    }


if __name__ == "__main__":
    import cases  # noqa: F401  (puts the emulation behind backend="cuda")

    if sys.argv[1] == "triton":
        import interpreted  # noqa: F401
    for case in sys.stdin.read().splitlines():
        print(json.dumps(run(sys.argv[1], case)), flush=True)
