# SPDX-License-Identifier: Apache-2.0
"""The command line: `python -m fusedsched COMMAND`. Each command lives in a module of its own with a `main(argv)`."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import fusedsched

# name -> (module, what it does)
COMMANDS = {
    "info": ("fusedsched.info", "show versions, the processor, and which backends work here (and why others do not)"),
    "verify": (
        "fusedsched.verify.command",
        "check every backend on this machine, and say whether it can be trusted; --quick: under a minute",
    ),
    "bench": (
        "fusedsched.benchmarks.bench",
        "measure fusedsched against torch and other libraries at hand; 'bench compare A B': what got slower",
    ),
    "plot": ("fusedsched.plotting.command", "draw schedules, in the terminal or as PNG or SVG"),
    "lr-find": (
        "fusedsched.range_test.command",
        "try out rising learning rates on your model for a hundred steps and suggest one",
    ),
    "demo": ("fusedsched.demo", "train a small language model with fusedsched and with torch.optim, side by side"),
}


def parser() -> argparse.ArgumentParser:
    """The outer parser; what follows the command is left to the command."""
    outer = argparse.ArgumentParser(
        prog="python -m fusedsched",
        description="Optimizer steps and learning rate schedules for PyTorch, fused into one pass over memory.",
        epilog="'python -m fusedsched COMMAND --help' shows the options of a command. "
        "Exit codes: 0 all is well, 1 a check failed, 2 the command line was not understood.",
    )
    outer.add_argument("--version", action="version", version=f"fusedsched {fusedsched.__version__}")
    commands = outer.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, what) in COMMANDS.items():
        commands.add_parser(name, help=what, add_help=False)
    return outer


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    >>> main(["walk"])
    Traceback (most recent call last):
    SystemExit: 2
    """
    args, rest = parser().parse_known_args(argv)
    try:
        return import_module(COMMANDS[args.command][0]).main(rest)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as head, has seen enough; Python would complain once more at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
