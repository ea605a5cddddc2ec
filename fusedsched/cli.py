# SPDX-License-Identifier: Apache-2.0
"""The command line: `python -m fusedsched COMMAND`. Each command is a module with a `main(argv)`."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

import fusedsched
from fusedsched.command_line import near_names


class Command(NamedTuple):
    """`module`: where its `main` is. `what`: one line of help. `example`: arguments that work unchanged."""

    module: str
    what: str
    example: str


COMMANDS = {
    "info": Command("fusedsched.info", "prints what is installed, which backends work, and why others do not", "info"),
    "verify": Command(
        "fusedsched.verify.command",
        "can this machine be trusted? compares every backend with float64 and with torch",
        "verify --quick",
    ),
    "bench": Command(
        "fusedsched.benchmarks.bench",
        "is it faster here? times torch and other libraries at hand, counts graphs and launches",
        "bench --quick",
    ),
    "plot": Command(
        "fusedsched.plotting.command",
        "what will my learning rate do? draws schedules and schedulers",
        'plot "warmup_cosine(peak=3e-4, warmup_steps=2000, total_steps=100000)"',
    ),
    "lr-find": Command(
        "fusedsched.range_test.command",
        "which learning rate to begin with? tries rising ones on your model for a hundred steps",
        "lr-find train:trial",
    ),
    "demo": Command(
        "fusedsched.demo", "trains a small language model with fusedsched and with torch.optim, side by side", "demo"
    ),
}
ENDING = """\
'python -m fusedsched COMMAND --help' shows the options of a command, and what its exit codes mean. In short:
  0    success
  1    a check failed: numbers outside of their bounds, something slower, no rate found, an error in your code
  2    wrong arguments, or it cannot run here; the message gives the reason
  130  interrupted

All commands work with torch alone. For pictures:
  pip install 'fusedsched[plot]'   matplotlib, for pictures as PNG or SVG files
Output into a file or a pipe has no control characters; NO_COLOR and TERM=dumb are respected in a terminal.
"""


def usage() -> str:
    """The help of the whole program.

    >>> usage().splitlines()[0]
    'usage: python -m fusedsched COMMAND [ARGUMENTS]'
    """
    lines = ["usage: python -m fusedsched COMMAND [ARGUMENTS]", ""]
    lines += ["Optimizer steps and learning rate schedules for PyTorch, fused into one pass over memory."]
    lines += ["", "commands:"]
    for name, command in COMMANDS.items():
        lines += [f"  {name:<8} {command.what}", f"           python -m fusedsched {command.example}"]
    return "\n".join([*lines, "  --version", "", ENDING])


def chosen(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The command and its arguments. Exits, as argparse does, for help, the version and unknown commands."""
    first, rest = (argv[0] if argv else ""), list(argv[1:])
    if first == "help" and rest:
        first, rest = rest[0], ["--help"]
    if first in COMMANDS:
        return first, rest
    if first in ("-h", "--help", "help"):
        print(usage(), end="")
        raise SystemExit(0)
    if first in ("--version", "version"):
        print(f"fusedsched {fusedsched.__version__}")
        raise SystemExit(0)
    message = f"there is no command {first!r}. {near_names(first, COMMANDS)}" if first else "a command is missing."
    print(f"usage: python -m fusedsched COMMAND [ARGUMENTS]\nerror: {message} See --help.", file=sys.stderr)
    raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    >>> main(["walk"])
    Traceback (most recent call last):
    SystemExit: 2
    """
    for stream in (sys.stdout, sys.stderr):  # an encoding with few characters prints "?" for others
        if isinstance(getattr(stream, "errors", None), str) and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    name, rest = chosen(sys.argv[1:] if argv is None else argv)
    try:
        return import_module(COMMANDS[name].module).main(rest)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as head, has closed the pipe; Python would raise again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # such as a full disk
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        print(f"error: {name} needs torch, which is not installed: pip install torch", file=sys.stderr)
        return 2
