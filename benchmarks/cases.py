# SPDX-License-Identifier: Apache-2.0
"""What is measured: lists of parameter shapes, with the number of groups and threads."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A model as an optimizer sees it. `host`: so small that the time is spent on the host and not on the elements."""

    name: str
    title: str
    shapes: tuple[Shape, ...]
    dtype: str = "float32"
    groups: int = 1
    threads: int = 2
    host: bool = False

    @property
    def numel(self) -> int:
        """Parameters in all.

        >>> Case("two", "two tensors", ((3, 4), (5,))).numel
        17
        """
        return sum(map(prod, self.shapes))

    @property
    def bytes_per_parameter(self) -> int:
        """What one AdamW update has to move: it reads p, g, m, v and writes p, m, v, once each.

        >>> Case("one", "one tensor", ((1,),), dtype="bfloat16").bytes_per_parameter
        14
        """
        return 7 * (2 if self.dtype == "bfloat16" else 4)


def transformer(layers: int, width: int) -> tuple[Shape, ...]:
    """The 12 tensors of each block of a GPT-2-like transformer: matrices next to biases and norms."""
    norm = ((width,), (width,))
    attention = ((3 * width, width), (3 * width,), (width, width), (width,))
    feed_forward = ((4 * width, width), (4 * width,), (width, 4 * width), (width,))
    return (*norm, *attention, *norm, *feed_forward) * layers


def _bottlenecks() -> Iterator[Shape]:
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            outputs = 4 * width
            convolutions = [(width, inputs, 1, 1), (width, width, 3, 3), (outputs, width, 1, 1)]
            if block == 0:
                convolutions.append((outputs, inputs, 1, 1))  # of the shortcut
            for convolution in convolutions:
                yield from (convolution, convolution[:1], convolution[:1])  # with the batch norm behind it
            inputs = outputs


def resnet50() -> tuple[Shape, ...]:
    """The parameters of ResNet-50 (He et al. 2015) for 1,000 classes.

    >>> len(resnet50()), sum(map(prod, resnet50()))
    (161, 25557032)
    """
    return ((64, 3, 7, 7), (64,), (64,), *_bottlenecks(), (1000, 2048), (1000,))


def shrunk(case: Case) -> Case:
    """The same case with a few elements: enough to see that it runs, far too little to measure."""
    shapes = tuple((min(prod(shape), 48),) for shape in case.shapes[:6])
    return replace(case, title=f"shrunk {case.title}", shapes=shapes, groups=min(case.groups, len(shapes)))


_TINY = dict(threads=1, host=True)
_MIXED = dict(title="300 mixed, 51M", shapes=transformer(layers=25, width=412))
_RESNET = dict(title="ResNet-50, 161 tensors", shapes=resnet50())
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
)
CASES = {case.name: case for case in _ALL}
