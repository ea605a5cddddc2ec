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

from fusedsched.lr_scheduler import boards

PROGRAM = """
#include "metric.h"
extern "C" void decide(double* board, double metric) {
  fs::Watch& watch = *reinterpret_cast<fs::Watch*>(board);
  fs::Rate* rates = reinterpret_cast<fs::Rate*>(board + fs::kWatchWidth);
  const int n = static_cast<int>(watch.n_rates);
  const auto rewrite = [&](fs::Verdict verdict) {
    int above = 0;
    for (int i = 0; i < n; ++i) {
      double& rate = *static_cast<double*>(rates[i].at);
      rate = rates[i].last = fs::rate_after(watch, rates[i], verdict, rate);
      above += rate > rates[i].least;
    }
    return above;
  };
  double* window = board + fs::kWatchWidth + n * fs::kRateWidth;
  const fs::Verdict verdict = fs::is_due(watch) ? fs::observe(watch, window, metric) : fs::kStay;
  if (rewrite(verdict) == 0 && verdict == fs::kLower && fs::starts_over(watch)) rewrite(fs::kStartOver);
}
"""
FLAGS = ["-x", "c++", "-std=c++20", "-O1", "-shared", "-fPIC", "-ffp-contract=off"]
# name -> (whose law notices, the right text, the wrong one); all places of it
MUTANTS = {
    "patience off by one": ("both", "w.bad > w.patience", "w.bad >= w.patience"),
    "cooldown ignored": ("both", "w.cooldown_counter = w.cooldown;", ""),
    "bad steps count in a cooldown": ("plateau", "_counter -= 1.0;\n    w.bad = 0.0;", "_counter -= 1.0;"),
    "min, relative: not strict": ("both", "value < w.best * (", "value <= w.best * ("),
    "min, absolute: not strict": ("both", "value < w.best - w", "value <= w.best - w"),
    "max, relative: not strict": ("both", "value > w.best * (", "value >= w.best * ("),
    "max, absolute: not strict": ("both", "value > w.best + w", "value >= w.best + w"),
    "eps ignored": ("both", "old - fresh > w.eps", "old > fresh"),
    "min_lr ignored": ("both", "rate.least > lower ? rate.least : lower", "lower"),
    "the best is forgotten": ("both", "w.best = value;", ""),
    "good steps off by one": ("greedy", "w.good > w.patience", "w.good >= w.patience"),
    "max_lr ignored": ("greedy", "rate.most < higher ? rate.most : higher", "higher"),
    "warmup ignored": ("greedy", "w.warmup_counter = w.warmup;", ""),
    "never starts over": ("greedy", "if (w.lower_before_reset > 0.0) return false;", "return false;"),
    "a raise does not reset": ("greedy", "w.lower_before_reset = w.reset_start;\n    return kRaise", "return kRaise"),
    "the window is one too long": ("greedy", "w.sum -= window[at];", ""),
}


def mutants_of(whose):
    return [name for name, (law, *_) in MUTANTS.items() if law in ("both", whose)]


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


class OnHost(boards.Extension):
    """A launcher whose boards are decided on by `decide`."""

    decide = None

    @classmethod
    def observe(cls, board, metric):
        cls.decide(board.tensor.data_ptr(), float(metric))


def boarded(monkeypatch, mutant):
    """The maker of optimizers whose boards the compiled rule decides on; `mutant`: None for the rule as it is."""
    launcher = type("Ruled", (OnHost,), {"decide": staticmethod(rule(mutant))})
    monkeypatch.setitem(boards.LAUNCHERS, "cuda", launcher)
    return maker("cuda")


@functools.cache
def emulated():
    return Emulation(build())


def recorded(call):
    """What `call` launches, as the number of a graph."""
    return emulated().record(call)
