# SPDX-License-Identifier: Apache-2.0
"""What is measured: a list of parameters, an optimizer, a dtype, a backend, and the number of groups and threads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from .lists import Shape, gpt2, llama3_8b, llama3_8b_within, mixture_of_experts, numel, resnet50, transformer

SIZES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
SUFFIXES = {"float32": "", "float64": "-f64", "bfloat16": "-bf16", "float16": "-f16"}

PLAIN = ("auto", "cpu", "cuda")  # backends that names leave out: the first choice for their device

# name -> (class of torch.optim, its options, moments that a parameter has)
OPTIMIZERS = {
    "adamw": ("AdamW", {}, 2),
    "amsgrad": ("Adam", {"amsgrad": True}, 3),
    "sgd": ("SGD", {"momentum": 0.9}, 1),
}


@dataclass(frozen=True)
class Case:
    """A model as an optimizer sees it. `host`: so small that the host takes nearly all the time.

    `idle`: indices of parameters without a gradient. `slow`: left out of quick runs. `backend`: of fusedsched.
    """

    name: str
    title: str
    shapes: tuple[Shape, ...]
    dtype: str = "float32"
    groups: int = 1
    threads: int = 2
    host: bool = False
    optimizer: str = "adamw"
    backend: str = "auto"
    idle: frozenset[int] = frozenset()
    slow: bool = False

    @property
    def numel(self) -> int:
        """Parameters that a step updates.

        >>> Case("two", "two tensors", ((3, 4), (5,))).numel
        17
        """
        return sum(prod(shape) for i, shape in enumerate(self.shapes) if i not in self.idle)

    @property
    def bytes_per_parameter(self) -> int:
        """The bytes that an update reads and writes: all arrays are read, all but the gradient are written, once each.

        >>> case = Case("one", "one tensor", ((1,),))
        >>> case.bytes_per_parameter, replace(case, dtype="bfloat16").bytes_per_parameter
        (28, 14)
        >>> [replace(case, optimizer=name).bytes_per_parameter for name in OPTIMIZERS]
        [28, 36, 20]
        """
        moments = OPTIMIZERS[self.optimizer][2]
        return (2 + moments + 1 + moments) * SIZES[self.dtype]

    @property
    def moved(self) -> int:
        """Bytes that a step reads and writes."""
        return self.numel * self.bytes_per_parameter

    @property
    def races(self) -> int:
        """The number of comparisons: host cases compare zero_grad and a whole loop too."""
        return 4 if self.host else 1

    @property
    def footprint(self) -> int:
        """Bytes of parameters, gradients and moments together."""
        return numel(self.shapes) * (2 + OPTIMIZERS[self.optimizer][2]) * SIZES[self.dtype]


def shrunk(case: Case) -> Case:
    """The same case with a few elements: enough to check that it runs, too few to measure."""
    kept = sorted({*range(4), *sorted(case.idle)[:2], len(case.shapes) - 1} & set(range(len(case.shapes))))
    shapes = tuple((min(prod(case.shapes[i]), 48),) for i in kept)
    idle = frozenset(at for at, i in enumerate(kept) if i in case.idle)
    few = dict(shapes=shapes, groups=min(case.groups, len(shapes)), idle=idle, threads=1)
    return replace(case, title=f"shrunk {case.title}", **few)


def variants(
    cases: Sequence[Case], optimizers: Sequence[str], dtypes: Sequence[str], backends: Sequence[str]
) -> list[Case]:
    """The cases, once for each choice; an empty choice leaves what the case has.

    >>> [case.name for case in variants([CASES["resnet50-bf16"]], ["sgd", "adamw"], [], ["reference"])]
    ['resnet50-bf16-sgd-reference', 'resnet50-bf16-reference']
    """
    found: dict[str, Case] = {}
    for case in cases:
        base = case.name
        for suffix in (f"-{case.optimizer}", SUFFIXES[case.dtype]):
            base = base.removesuffix(suffix)
        for optimizer in optimizers or [case.optimizer]:
            for dtype in dtypes or [case.dtype]:
                for backend in backends or [case.backend]:
                    label = base + SUFFIXES[dtype] + ("" if optimizer == "adamw" else f"-{optimizer}")
                    label += "" if backend in PLAIN else f"-{backend}"
                    made = replace(case, name=label, optimizer=optimizer, dtype=dtype, backend=backend)
                    found.setdefault(label, made)
    return list(found.values())


# Fits a machine with little time and memory, and is still a realistic size.
_LLAMA_PARAMETERS = 4 * 10**7
_TINY = dict(threads=1, host=True)
_MIXED = dict(title="300 mixed, 51M", shapes=transformer(layers=25, width=412))
_RESNET = dict(title="ResNet-50, 161 tensors", shapes=resnet50())
_EXPERTS, _IDLE = mixture_of_experts()
_DIVISOR, _LLAMA = llama3_8b_within(_LLAMA_PARAMETERS)
_ALL = (
    Case("tiny-300", "300 x 16", ((16,),) * 300, **_TINY),
    Case("tiny-2000", "2,000 x 16", ((16,),) * 2000, **_TINY),
    Case("groups-465", "465 groups of 1 x 16", ((16,),) * 465, groups=465, **_TINY),
    Case("small-2000", "2,000 x 1,024", ((1024,),) * 2000),
    Case("one-50M", "1 x 50M", ((50_000_000,),)),
    Case("mixed-300", **_MIXED),
    Case("mixed-300-bf16", **_MIXED, dtype="bfloat16"),
    Case("resnet50", **_RESNET),
    Case("resnet50-bf16", **_RESNET, dtype="bfloat16"),
    Case("resnet50-amsgrad", **_RESNET, optimizer="amsgrad"),
    Case("resnet50-sgd", **_RESNET, optimizer="sgd"),
    Case("experts", "mixture of experts, 104 of 440 tensors", _EXPERTS, idle=_IDLE),
    Case("gpt2", "GPT-2, 148 tensors", gpt2(), slow=True),
    Case("llama3-8b-bf16", f"Llama 3 8B, widths / {_DIVISOR}, 291 tensors", _LLAMA, dtype="bfloat16", slow=True),
)
CASES = {case.name: case for case in _ALL}

# For GPUs. The real Llama 3 8B: what does not fit into the memory at hand is scaled when it is measured.
_GPU = (
    Case("one-1B", "1 x 1B", ((1_000_000_000,),)),
    Case("one-1B-amsgrad", "1 x 1B", ((1_000_000_000,),), optimizer="amsgrad"),
    Case("llama3-8b-bf16", "Llama 3 8B, 291 tensors", llama3_8b(), dtype="bfloat16"),
    Case("resnet50", **_RESNET),
    Case("resnet50-sgd", **_RESNET, optimizer="sgd"),
    Case("small-2000", "2,000 x 1,024", ((1024,),) * 2000),
    Case("groups-465", "465 groups of 1 x 16", ((16,),) * 465, groups=465, host=True),
    Case("experts", "mixture of experts, 104 of 440 tensors", _EXPERTS, idle=_IDLE),
)
GPU_CASES = {case.name: case for case in _GPU}
