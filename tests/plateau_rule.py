# SPDX-License-Identifier: Apache-2.0
"""The rule of csrc/core/metric.h compiled for the host, as it is or with a mistake in it; and the emulated device."""

import ctypes
import functools
import hashlib
import subprocess

import pytest
from cases import maker
from emulation import ROOT, build, compiler
from emulation.driver import Emulation

from fusedsched.lr_scheduler import metric_state

PROGRAM = """
#include "metric.h"
extern "C" void decide(double* table, double metric) {
  fs::MetricState& state = *reinterpret_cast<fs::MetricState*>(table);
  fs::MetricTarget* rates = reinterpret_cast<fs::MetricTarget*>(table + fs::kMetricStateWidth);
  const int n = static_cast<int>(state.n_targets);
  const auto rewrite = [&](fs::Verdict verdict) {
    int above = 0;
    for (int i = 0; i < n; ++i) {
      double& rate = *static_cast<double*>(rates[i].at);
      rate = rates[i].last = fs::rate_after(state, rates[i], verdict, rate);
      above += rate > rates[i].least;
    }
    return above;
  };
  double* window = table + fs::kMetricStateWidth + n * fs::kMetricTargetWidth;
  const fs::Verdict verdict = fs::is_due(state) ? fs::observe(state, window, metric) : fs::kStay;
  if (rewrite(verdict) == 0 && verdict == fs::kLower && fs::starts_over(state)) rewrite(fs::kStartOver);
}
"""
FLAGS = ["-x", "c++", "-std=c++20", "-O1", "-shared", "-fPIC", "-ffp-contract=off"]
# name -> (which scheduler shows it, the right text, the wrong one); all places of it
MUTANTS = {
    "patience off by one": ("both", "state.bad > state.patience", "state.bad >= state.patience"),
    "cooldown ignored": ("both", "state.cooldown_counter = state.cooldown;", ""),
    "bad steps count in a cooldown": ("plateau", "_counter -= 1.0;\n    state.bad = 0.0;", "_counter -= 1.0;"),
    "min, relative: not strict": ("both", "value < state.best * (", "value <= state.best * ("),
    "min, absolute: not strict": ("both", "value < state.best - state", "value <= state.best - state"),
    "max, relative: not strict": ("both", "value > state.best * (", "value >= state.best * ("),
    "max, absolute: not strict": ("both", "value > state.best + state", "value >= state.best + state"),
    "eps ignored": ("both", "old - fresh > state.eps", "old > fresh"),
    "min_lr ignored": ("both", "target.least > lower ? target.least : lower", "lower"),
    "the best is forgotten": ("both", "state.best = value;", ""),
    "good steps off by one": ("greedy", "state.good > state.patience", "state.good >= state.patience"),
    "max_lr ignored": ("greedy", "target.most < higher ? target.most : higher", "higher"),
    "warmup ignored": ("greedy", "state.warmup_counter = state.warmup;", ""),
    "never starts over": ("greedy", "if (state.lower_before_reset > 0.0) return false;", "return false;"),
    "a raise does not reset": (
        "greedy",
        "state.lower_before_reset = state.reset_start;\n    return kRaise",
        "return kRaise",
    ),
    "the window is one too long": ("greedy", "state.sum -= window[at];", ""),
}


@functools.cache
def rule(mutant):
    """`decide` of the rule, or of one with a mistake."""
    header = (ROOT / "csrc" / "core" / "metric.h").read_text()
    if mutant is not None:
        _, right, wrong = MUTANTS[mutant]
        assert right in header, f"{mutant}: the text of the rule has changed"
        header = header.replace(right, wrong)
    name = hashlib.sha256((header + PROGRAM).encode()).hexdigest()[:16]
    folder = ROOT / "build" / "plateau_rule" / name
    library = folder / "rule.so"
    if not library.exists():
        if compiler() is None:
            pytest.skip("needs a C++ compiler")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metric.h").write_text(header)
        (folder / "rule.cpp").write_text(PROGRAM)
        command = [compiler(), *FLAGS, f"-I{folder}", f"-I{ROOT / 'csrc' / 'core'}", str(folder / "rule.cpp")]
        subprocess.run([*command, "-o", str(library)], check=True)
    decide = ctypes.CDLL(str(library)).decide
    decide.argtypes, decide.restype = [ctypes.c_void_p, ctypes.c_double], None
    return decide


def on_the_device(monkeypatch, mutant):
    """The maker of optimizers for whose schedulers the compiled rule decides; `mutant`: None for the rule as it is."""
    decide = rule(mutant)
    launch = lambda state, metric: decide(state.tensor.data_ptr(), float(metric))  # noqa: E731
    monkeypatch.setitem(metric_state.LAUNCHES, "cuda", launch)
    return maker("cuda")


@functools.cache
def emulated():
    return Emulation(build())


def recorded(call):
    """What `call` launches, as the number of a graph."""
    return emulated().record(call)
