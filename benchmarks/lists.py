# SPDX-License-Identifier: Apache-2.0
"""Models as an optimizer sees them: lists of parameter shapes. Counted here, taken from no library."""

from collections.abc import Iterator
from math import prod

Shape = tuple[int, ...]


def numel(shapes: tuple[Shape, ...]) -> int:
    """Parameters in all.

    >>> numel(((3, 4), (5,)))
    17
    """
    return sum(map(prod, shapes))


def transformer(layers: int, width: int) -> tuple[Shape, ...]:
    """The 12 tensors of each block of a GPT-2-like transformer: matrices next to biases and norms."""
    norm = ((width,), (width,))
    attention = ((3 * width, width), (3 * width,), (width, width), (width,))
    feed_forward = ((4 * width, width), (4 * width,), (width, 4 * width), (width,))
    return (*norm, *attention, *norm, *feed_forward) * layers


def gpt2() -> tuple[Shape, ...]:
    """GPT-2 (Radford et al. 2019), the smallest of the four; the output layer shares the embedding's tensor.

    >>> len(gpt2()), numel(gpt2())
    (148, 124439808)
    """
    return ((50257, 768), (1024, 768), *transformer(layers=12, width=768), (768,), (768,))


def llama3_8b(divisor: int = 1) -> tuple[Shape, ...]:
    """Llama 3 8B (arXiv 2407.21783). `divisor`: of all widths; the number of tensors stays.

    >>> len(llama3_8b()), numel(llama3_8b())
    (291, 8030261248)
    >>> len(llama3_8b(16)), numel(llama3_8b(16))
    (291, 31383808)
    """
    width, keys, hidden, words = (n // divisor for n in (4096, 1024, 14336, 128256))
    attention = ((width, width), (keys, width), (keys, width), (width, width))
    feed_forward = ((hidden, width), (hidden, width), (width, hidden))
    block = (*attention, *feed_forward, (width,), (width,))
    return ((words, width), *block * 32, (width,), (words, width))


def llama3_8b_within(parameters: int) -> tuple[int, tuple[Shape, ...]]:
    """The largest list like Llama 3 8B that has no more parameters than that, and its divisor (a power of two).

    >>> llama3_8b_within(10**10)[0], llama3_8b_within(10**9)[0], llama3_8b_within(4 * 10**7)[0]
    (1, 4, 16)
    """
    divisor = 1
    while numel(llama3_8b(divisor)) > parameters and divisor < 256:
        divisor *= 2
    return divisor, llama3_8b(divisor)


def mixture_of_experts(layers: int = 8, experts: int = 16, chosen: int = 2, width: int = 128) -> tuple:
    """Shapes, and the indices of those that get no gradient: of each layer's experts only `chosen` saw a token.

    >>> shapes, idle = mixture_of_experts()
    >>> len(shapes), len(idle), numel(shapes)
    (440, 336, 13387776)
    """
    shapes: list[Shape] = []
    idle: list[int] = []
    for layer in range(layers):
        shapes += [(width,), (3 * width, width), (width, width), (width,), (experts, width)]
        shapes += [(width, width)] * 2  # of the expert that all tokens share
        busy = {(layer + k * experts // chosen) % experts for k in range(chosen)}
        for expert in range(experts):
            if expert not in busy:
                idle += range(len(shapes), len(shapes) + 3)
            shapes += [(2 * width, width), (2 * width, width), (width, 2 * width)]
    return tuple(shapes), frozenset(idle)


def _bottlenecks() -> Iterator[Shape]:
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            outputs = 4 * width
            convolutions = [(width, inputs, 1, 1), (width, width, 3, 3), (outputs, width, 1, 1)]
            if block == 0:
                convolutions.append((outputs, inputs, 1, 1))  # of the shortcut
            for convolution in convolutions:
                yield from (convolution, convolution[:1], convolution[:1])  # followed by its batch norm
            inputs = outputs


def resnet50() -> tuple[Shape, ...]:
    """The parameters of ResNet-50 (He et al. 2015) for 1,000 classes.

    >>> len(resnet50()), numel(resnet50())
    (161, 25557032)
    """
    return ((64, 3, 7, 7), (64,), (64,), *_bottlenecks(), (1000, 2048), (1000,))
