# SPDX-License-Identifier: Apache-2.0
"""Where a number lies in memory never changes what becomes of it, and nothing beside it is touched."""

import itertools

import pytest
import torch
from cases import DTYPES, LAYOUTS, REAL_DTYPES, VISIBLE, torch_twin
from tolerances import close

from fusedsched import reference

# Vectors of the widest instruction set hold 8 to 32 numbers; loops may take several at once.
WIDEST_VECTOR = 32
COUNTS = [*range(2 * WIDEST_VECTOR + 2), 127, 128, 129, 1023, 1024, 1025]
# Work is divided among threads by blocks; powers of two and their neighbours meet their ends.
LARGE_COUNTS = [32 * 1024 - 1, 32 * 1024, 32 * 1024 + 1, 65537]
SHIFTS = (0, 1, 3)
SENTINEL = 7.0
STEPS = 3


def _values(count, dtype, seed):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _train(optimizer, params, gradients):
    for step in range(STEPS):
        for p, grads in zip(params, gradients, strict=True):
            p.grad = grads[step]
        optimizer.step()


def _pieces(buffer, counts, shift):
    """Views of one buffer, each `shift` elements past a 64-byte boundary, with sentinels between them."""
    grain = 64 // buffer.element_size()
    at, views = 0, []
    for count in counts:
        views.append(buffer[at + shift : at + shift + count])
        at += (count + shift) // grain * grain + 2 * grain
    return views


def _storage(tensor):
    return torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())


def assert_each_element_alone(make, name, dtype, counts, shift):
    """Tensors of every length, anywhere in memory, get what one long tensor gets, bit for bit, and nothing beside."""
    longest = max(counts)
    start, grads = _values(longest, dtype, 0), [_values(longest, dtype, 1 + step) for step in range(STEPS)]
    whole = start.clone().requires_grad_()
    _train(make(name, [whole], **VISIBLE[name]), [whole], [grads])

    buffer = torch.full((sum(counts) + (shift + 64) * len(counts),), SENTINEL, dtype=dtype)
    params = [v.copy_(start[: len(v)]).requires_grad_() for v in _pieces(buffer, counts, shift)]
    gradients = []
    for p in params:  # their gradients lie at another misalignment
        buffers = [torch.full((len(p) + shift + 1,), SENTINEL, dtype=dtype) for _ in grads]
        gradients.append([r[shift + 1 :].copy_(g[: len(p)]) for r, g in zip(buffers, grads, strict=True)])
    _train(make(name, params, **VISIBLE[name]), params, gradients)

    for p in params:
        assert torch.equal(p, whole[: len(p)]), f"{len(p)} elements differ from the same ones of a longer tensor"
    _assert_only_these_written(buffer, params)


def _assert_only_these_written(buffer, params):
    with torch.no_grad():
        for p in params:
            p.fill_(SENTINEL)
    assert (buffer == SENTINEL).all(), "written outside of a parameter"


def assert_layout_does_not_matter(make, name, dtype, layout):
    """A parameter and a gradient in any layout get what their dense copies get, and what torch gives them."""
    start = _values(layout.shape, dtype, 0)
    grads = [layout.grad(_values(layout.shape, dtype, 1 + step)) for step in range(STEPS)]
    before = [g.clone() for g in grads]
    results = []
    for optimizer, arrange in ((make, layout.param), (make, torch.clone), (torch_twin, layout.param)):
        p = arrange(start).requires_grad_()
        place = p.data_ptr(), p.stride()
        dense_grads = [g.resolve_conj().contiguous() for g in grads]  # torch cannot take lazy conjugates
        laid_out = optimizer is make and arrange is layout.param
        _train(optimizer(name, [p], **VISIBLE[name]), [p], [grads if laid_out else dense_grads])
        assert (p.data_ptr(), p.stride()) == place
        results.append(p)
    p, dense, torchs = results
    close(p, dense, 1 if p.dtype.itemsize == 2 else STEPS, "against its dense copy")
    close(p, torchs, STEPS, "against torch")
    assert all(torch.equal(g, b) for g, b in zip(grads, before, strict=True)), "the gradients were written to"
    _assert_only_these_written(_storage(p.detach()), [p])


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("dtype", REAL_DTYPES, ids=str)
@pytest.mark.parametrize("name", VISIBLE)
def test_every_length_and_alignment(make, name, dtype, shift):
    assert_each_element_alone(make, name, dtype, COUNTS, shift)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("name", VISIBLE)
def test_lengths_around_the_blocks_of_threads(product, name, dtype, threads):
    assert_each_element_alone(product, name, dtype, LARGE_COUNTS, shift=1)


@pytest.mark.parametrize(
    "layout, dtype",
    [pytest.param(x, dtype, id=f"{key}-{dtype}") for key, x in LAYOUTS.items() for dtype in x.of],
)
@pytest.mark.parametrize("name", VISIBLE)
def test_every_layout(make, name, layout, dtype):
    assert_layout_does_not_matter(make, name, dtype, layout)


def test_an_optimizer_of_empty_tensors(make):
    p = torch.empty(0, 3, requires_grad=True)
    optimizer = make("AdamW", [p])
    p.grad = torch.empty(0, 3)
    optimizer.step()
    assert p.shape == (0, 3) and float(optimizer.state[p]["step"]) == 1


def test_many_tensors_of_several_types_in_one_optimizer(make):
    """Types, sizes and layouts side by side: each parameter fares as if it were alone."""
    arrangements = list(itertools.product(DTYPES, ("dense", "both transposed", "both with gaps")))
    together, alone = [], []
    for dtype, key in arrangements:
        layout = LAYOUTS[key]
        for params in (together, alone):
            params.append(layout.param(_values(layout.shape, dtype, len(params))).requires_grad_())
    grads = [
        [LAYOUTS[key].grad(_values(LAYOUTS[key].shape, dtype, 99 + step)) for step in range(STEPS)]
        for dtype, key in arrangements
    ]
    _train(make("AdamW", together, **VISIBLE["AdamW"]), together, grads)
    for p, g in zip(alone, grads, strict=True):
        _train(make("AdamW", [p], **VISIBLE["AdamW"]), [p], [g])
    for p, q in zip(together, alone, strict=True):
        assert torch.equal(p, q)


# The properties can fail.


class _Mutant(reference.AdamW):
    def step(self, closure=None):
        params = self.param_groups[0]["params"]
        with torch.no_grad():
            self.spoil(params)
            super().step(closure)
            self.after(params)

    def spoil(self, params):
        pass

    def after(self, params):
        pass


class _PastTheEnd(_Mutant):
    def after(self, params):
        for p in params:
            if p.storage_offset() + p.numel() < _storage(p).numel():
                p.as_strided((1,), (1,), p.storage_offset() + p.numel()).fill_(0)


class _TailSkipped(_Mutant):
    def spoil(self, params):
        self.old = [p[len(p) // 8 * 8 :].clone() for p in params]

    def after(self, params):
        for p, old in zip(params, self.old, strict=True):
            p[len(p) // 8 * 8 :] = old


class _StridesIgnored(_Mutant):
    def spoil(self, params):
        for p in params:
            p.grad = p.grad.as_strided(p.shape, torch.empty(p.shape).stride())


class _GapsFilled(_Mutant):
    def after(self, params):
        _storage(params[0])[0] = 0


@pytest.mark.parametrize("mutant", (_PastTheEnd, _TailSkipped))
def test_a_careless_loop_fails(mutant):
    with pytest.raises(AssertionError):
        assert_each_element_alone(lambda _, params, **options: mutant(params, **options), "AdamW", *_SMALL)


_SMALL = (torch.float32, range(20), 1)


@pytest.mark.parametrize("mutant, layout", ((_StridesIgnored, "transposed gradient"), (_GapsFilled, "both with gaps")))
def test_a_careless_reader_fails(mutant, layout):
    def make(_, params, **options):
        return mutant(params, **options)

    with pytest.raises(AssertionError):
        assert_layout_does_not_matter(make, "AdamW", torch.float32, LAYOUTS[layout])
