# SPDX-License-Identifier: Apache-2.0
"""Each backend against the same computation in a wider type: optimizers, schedules, types, random configurations."""

import os

import pytest
import torch
from cases import BACKENDS, REAL_DTYPES, VISIBLE, maker
from tiers import full

from fusedsched import _native, reference
from fusedsched.reference import adam_update_, sgd_update_
from fusedsched.verify.table import OPTIMIZERS, Case, cases
from fusedsched.verify.updates import run, unjudged

ALL = list(cases(quick=True, randoms=24))
# The bound is stated over 1,000 updates. The compiled backend is held to that for every row and type, in the quick tier
# for a row of each optimizer. The reference backend runs the functions that test_reference.py judges, emulated kernels
# run the headers of the compiled one, and schedules add nothing after their last phase.
LONG, SHORT = 1000, 100


def _rows(case, backend):
    name = f"{case.id}/{backend}"
    if backend != "cpu" or case.schedule != "fixed" or case.dtype == "complex64":
        return [pytest.param(case, backend, SHORT, id=name)]
    long = pytest.param if case.row in VISIBLE and case.dtype == "float32" else full
    return [pytest.param(case, backend, SHORT, id=name), long(case, backend, LONG, id=f"{name} {LONG}")]


def _judged(case, backend):
    return backend != "reference" or case.row in VISIBLE or case.schedule != "fixed"


@pytest.mark.parametrize(
    "case, backend, steps",
    [
        row
        for case in ALL  # backends of one case share its yardsticks
        for backend in BACKENDS
        if unjudged(case) is None and _judged(case, backend)
        for row in _rows(case, backend)
    ],
)
def test_update_within_the_bound(case, backend, steps):
    verdict = run(maker(backend), case, steps)
    assert verdict.passed, f"fusedsched verify --case {case.id}/{backend}: {verdict}"


@pytest.mark.parametrize("dtype", REAL_DTYPES)
@pytest.mark.parametrize("name", VISIBLE)
def test_threads_do_not_change_a_bit(name, dtype, product):
    results = []
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            generator = torch.Generator().manual_seed(3)
            params = [torch.randn(n, generator=generator).to(dtype).requires_grad_() for n in (40_001, 17, 5_000)]
            optimizer = product(name, params, **VISIBLE[name])
            for _ in range(3):
                for p in params:
                    p.grad = torch.randn(p.shape, generator=generator).to(dtype)
                optimizer.step()
            results.append(torch.cat([p.detach() for p in params]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


# The property can fail: each of these is a mistake that somebody has made, here or in another project.


def _late_decay(p, g, m, v, vmax, step, *, lr, weight_decay, **rest):
    adam_update_(p, g, m, v, vmax, step, lr=lr, weight_decay=0.0, **rest)
    p.mul_(1 - lr * weight_decay)


def _coupled_decay(*args, decoupled, **rest):
    adam_update_(*args, decoupled=not decoupled, **rest)


def _float32_constants(*args, beta2, **rest):
    adam_update_(*args, beta2=1.0 - float(1.0 - torch.tensor(beta2, dtype=torch.float32)), **rest)


def _one_step_behind(p, g, m, v, vmax, step, **rest):
    adam_update_(p, g, m, v, vmax, step + 1, **rest)


def _no_bias_correction(p, g, m, v, vmax, step, **rest):
    adam_update_(p, g, m, v, vmax, 10**6, **rest)


def _eps_under_the_root(p, g, m, v, vmax, step, *, eps, **rest):
    v.add_(eps**2)
    adam_update_(p, g, m, v, vmax, step, eps=0.0, **rest)
    v.sub_(eps**2)


def _strides_ignored(p, g, *args, **rest):
    adam_update_(p, g.t().contiguous().view(g.shape) if g.dim() == 2 else g, *args, **rest)


def _maximum_forgotten(p, g, m, v, vmax, step, **rest):
    adam_update_(p, g, m, v, None, step, **rest)


def _sign_kept(*args, maximize, **rest):
    adam_update_(*args, maximize=False, **rest)


def _complex_as_one_number(p, g, m, v, vmax, step, **rest):
    adam_update_(p, g, m, v, vmax, step, **rest)
    v.copy_(torch.complex(v.real + v.imag, v.real + v.imag) / 2)


def _no_memory_of_first(p, g, buffer, *, dampening, **rest):
    if buffer is None:
        buffer = torch.zeros_like(p)
    return sgd_update_(p, g, buffer, dampening=dampening, **rest)


def _plain_momentum(p, g, buffer, *, nesterov, **rest):
    return sgd_update_(p, g, buffer, nesterov=False, **rest)


def _lr_inside_the_buffer(p, g, buffer, *, lr, **rest):
    return sgd_update_(p, g * lr, buffer, lr=1.0, **rest)


def _decay_after_momentum(p, g, buffer, *, lr, weight_decay, **rest):
    old = p.clone()
    buffer = sgd_update_(p, g, buffer, lr=lr, weight_decay=0.0, **rest)
    p.sub_(old, alpha=lr * weight_decay)
    return buffer


MUTANTS = {
    "decay after the update": (_late_decay, "AdamW/float32/fixed"),
    "decay coupled": (_coupled_decay, "AdamW/float64/fixed"),
    "decay decoupled": (_coupled_decay, "Adam/bfloat16/fixed"),
    "1 - beta2 in float32": (_float32_constants, "AdamW-long-memory/float32/fixed"),
    "step counted twice at first": (_one_step_behind, "AdamW/float16/fixed"),
    "no bias correction": (_no_bias_correction, "Adam/float32/fixed"),
    "eps under the root": (_eps_under_the_root, "AdamW/float32/fixed"),
    "strides of the gradient ignored": (_strides_ignored, "AdamW/float32/fixed"),
    "maximum of amsgrad forgotten": (_maximum_forgotten, "AdamW-amsgrad/float32/fixed"),
    "maximize ignored": (_sign_kept, "Adam-maximize/float32/fixed"),
    "complex as one number": (_complex_as_one_number, "AdamW/complex64/fixed"),
    "first buffer dampened": (_no_memory_of_first, "SGD-dampening/float32/fixed"),
    "nesterov ignored": (_plain_momentum, "SGD-nesterov/bfloat16/fixed"),
    "lr inside the buffer": (_lr_inside_the_buffer, "SGD-momentum/float32/all"),
    "decay after momentum": (_decay_after_momentum, "SGD-momentum/float64/fixed"),
}


@pytest.mark.parametrize("mutant, case", MUTANTS.values(), ids=list(MUTANTS))
def test_a_wrong_rule_fails(mutant, case, monkeypatch):
    case = Case.parse(case)
    if reason := unjudged(case):
        pytest.skip(reason)
    rule = "sgd_update_" if case.row.startswith("SGD") else "adam_update_"
    eager = maker("reference-classes")
    assert run(eager, case, 50).passed  # the yardsticks are kept: the mutant runs below alone
    monkeypatch.setattr(reference.optimizers, rule, mutant)
    assert not run(eager, case, 50).passed


def test_a_schedule_one_update_early_fails():
    class Early(reference.AdamW):
        def _write_scheduled(self):
            self._updates += 1
            super()._write_scheduled()
            self._updates -= 1

    def make(name, params, **options):
        return Early(params, **options)

    assert not run(make, Case("AdamW", "float32", "cosine"), 50).passed


def test_every_row_of_the_table_is_judged_in_every_type():
    judged = {(case.row, case.dtype) for case in ALL if case.schedule == "fixed"}
    assert judged == {(name, dtype) for name, row in OPTIMIZERS.items() for dtype in row.dtypes}
    assert all(Case.parse(case.id) == case for case in ALL)


def test_the_compiled_backend_is_judged():
    """Where it should be: a build that failed must not pass for lack of anything to test."""
    missing = _native.reason()
    if os.environ.get("FUSEDSCHED_NO_EXTENSION") == "1" or "missing" in _native.build_info():
        pytest.skip(missing)
    assert missing is None and "cpu" in BACKENDS
