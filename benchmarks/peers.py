# SPDX-License-Identifier: Apache-2.0
"""The contestants: torch's implementations and other libraries, each at its best setting.

A library that is not installed, or that does not support a case, is listed with the reason. Names of classes and
arguments follow the versions in README.md; if another version refuses them, its error is the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import torch

from .cases import OPTIMIZERS, Case

LR = 1e-4
OURS, FUSED, FOREACH = "fusedsched", "torch fused", "torch foreach"
CAPTURABLE, FOREACH_CAPTURABLE = "torch fused capturable", "torch foreach capturable"
OURS_ON_CAPTURABLE = "torch fused capturable, our scheduler"
COMPILED, OURS_COMPILED = "torch compiled", "fusedsched compiled"
COMPILED_TENSORS = 30  # a compiler takes seconds for ten tensors and minutes for hundreds

Make = Callable[[Any, list[dict[str, Any]], Case], torch.optim.Optimizer]


@dataclass(frozen=True)
class Peer:
    """`make(module, groups, case)` constructs the optimizer. `exact`: it has to agree with us in float32.

    `tensor_lr`: the learning rate is a tensor on the device, which compilers and captured graphs need.
    """

    module: str
    make: Make
    distribution: str = "torch"
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)
    devices: tuple[str, ...] = ("cpu", "cuda")
    exact: bool = True
    tensor_lr: bool = False
    compiled: bool = False
    compiles_itself: bool = False

    @property
    def version(self) -> str:
        if self.distribution == "fusedsched":
            return import_module("fusedsched").__version__
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return "unknown"

    @property
    def slow_to_start(self) -> bool:
        return self.compiled or self.compiles_itself

    def reason(self, case: Case, device: str, compiled_tensors: int = COMPILED_TENSORS) -> str | None:
        """Why this peer cannot run a case; None where it may be tried. `compiled_tensors`: as many are compiled."""
        if (missing := _missing(self.module)) is not None:
            return missing
        if device not in self.devices:
            return f"has none for {'CPUs' if device == 'cpu' else 'GPUs'}"
        if case.optimizer not in self.optimizers:
            return f"has no {case.optimizer} at its best setting"
        if self.slow_to_start and len(case.shapes) > compiled_tensors:
            return f"compiling takes minutes for {len(case.shapes)} tensors; done up to {compiled_tensors}"
        return None


def _missing(module: str) -> str | None:
    try:
        return None if find_spec(module) is not None else "not installed"
    except ModuleNotFoundError:
        return "not installed"
    except Exception as error:  # the package around it was imported, and may do anything then
        return first_line(error)


def _ours(module: Any, groups: Any, case: Case) -> Any:
    name, options, _ = OPTIMIZERS[case.optimizer]
    return getattr(module, name)(groups, lr=LR, backend=case.backend, **options)


def _torch(**settings: bool) -> Make:
    def make(module: Any, groups: Any, case: Case) -> Any:
        name, options, _ = OPTIMIZERS[case.optimizer]
        return getattr(module, name)(groups, lr=LR, **options, **settings)

    return make


def _compilable(module: Any, groups: Any, case: Case) -> Any:
    """What torch's documentation compiles: the learning rate in a tensor, and on a GPU the counts on the device."""
    on_gpu = groups[0]["params"][0].is_cuda
    settings = {"foreach": on_gpu, "capturable": on_gpu} if case.optimizer != "sgd" else {"foreach": on_gpu}
    return _torch(**settings)(module, groups, case)


def _named(name: str, **settings: Any) -> Make:
    """AdamW of another library, with the betas, eps and weight decay of torch's defaults."""

    def make(module: Any, groups: Any, case: Case) -> Any:
        common = dict(lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2)
        return getattr(module, name)(groups, **common, **settings)

    return make


def _nvidia(capturable: bool) -> Make:
    """FusedAdam of apex and Transformer Engine: capturable also keeps the learning rate on the device."""
    return _named("FusedAdam", adam_w_mode=True, capturable=capturable)


def _heavyball(module: Any, groups: Any, case: Case) -> Any:
    common = dict(lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2)
    return module.AdamW(groups, multi_tensor=True, storage_dtype=case.dtype, **common)


_ADAMW = dict(optimizers=("adamw",))
_GPU = dict(optimizers=("adamw",), devices=("cuda",))
PEERS: dict[str, Peer] = {
    OURS: Peer("fusedsched", _ours, "fusedsched"),
    FUSED: Peer("torch.optim", _torch(fused=True)),
    FOREACH: Peer("torch.optim", _torch(foreach=True)),
    CAPTURABLE: Peer(
        "torch.optim",
        _torch(fused=True, capturable=True),
        optimizers=("adamw", "amsgrad"),
        devices=("cuda",),
        tensor_lr=True,
    ),
    FOREACH_CAPTURABLE: Peer(
        "torch.optim",
        _torch(foreach=True, capturable=True),
        optimizers=("adamw", "amsgrad"),
        devices=("cuda",),
        tensor_lr=True,
    ),
    COMPILED: Peer("torch.optim", _compilable, tensor_lr=True, compiled=True),
    OURS_COMPILED: Peer("fusedsched", _ours, "fusedsched", compiled=True),
    "optimi": Peer("optimi", _named("AdamW"), "torch-optimi", **_ADAMW),
    "flashoptim": Peer("flashoptim", _named("FlashAdamW"), "flashoptim", exact=False, **_GPU),
    "torchao 8-bit": Peer("torchao.optim", _named("AdamW8bit"), "torchao", exact=False, **_GPU),
    "bitsandbytes 32-bit": Peer("bitsandbytes.optim", _named("AdamW", optim_bits=32), "bitsandbytes", **_GPU),
    "bitsandbytes 8-bit": Peer("bitsandbytes.optim", _named("AdamW8bit"), "bitsandbytes", exact=False, **_GPU),
    "HeavyBall": Peer("heavyball", _heavyball, "heavyball", exact=False, compiles_itself=True, **_ADAMW),
    "apex": Peer("apex.optimizers", _nvidia(False), "apex", **_GPU),
    "apex capturable": Peer("apex.optimizers", _nvidia(True), "apex", tensor_lr=True, **_GPU),
    "Transformer Engine": Peer("transformer_engine.pytorch.optimizers", _nvidia(False), "transformer-engine", **_GPU),
    "DeepSpeed": Peer("deepspeed.ops.adam", _named("FusedAdam", adam_w_mode=True), "deepspeed", **_GPU),
    "DeepSpeed CPU": Peer(
        "deepspeed.ops.adam",
        _named("DeepSpeedCPUAdam", adamw_mode=True),
        "deepspeed",
        optimizers=("adamw",),
        devices=("cpu",),
    ),
}


def load(name: str) -> Any:
    """Imports the module of a peer. It may raise anything: many of these libraries compile or search GPUs on import."""
    return import_module(PEERS[name].module)


def first_line(error: BaseException) -> str:
    """An error in one short line.

    >>> first_line(RuntimeError("no kernel image\\nlong explanation"))
    'RuntimeError: no kernel image'
    """
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}"[:160].rstrip(": ")
