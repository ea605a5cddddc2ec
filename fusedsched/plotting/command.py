# SPDX-License-Identifier: Apache-2.0
"""`python -m fusedsched plot`."""

import argparse
from collections.abc import Sequence

from fusedsched.command_line import integer, picture_file

from . import objects
from .objects import Curves
from .parsing import names, parse
from .picture import Picture, check_target, of_schedules

EXAMPLES = """\
examples:
  python -m fusedsched plot "warmup_cosine(peak=3e-4, warmup_steps=2000, total_steps=100000)"
  python -m fusedsched plot "one_cycle(0.1, 1000)" --momentum "one_cycle_momentum(1000)" --out one_cycle.svg
  python -m fusedsched plot "cosine(1, 0, steps=100)" "polynomial(1, 0, steps=100, power=2)" --log
  python -m fusedsched plot "warmup(500) >> exponential(3e-4, 0.9999)" --steps 20000
  python -m fusedsched plot train:scheduler

An expression is parsed, never evaluated. It may name: {names}.

exit codes: 0 drawn; 1 your module raised an error; 2 wrong arguments, or it cannot be drawn or written (the message
gives the reason). Files need matplotlib: pip install 'fusedsched[plot]'. NO_COLOR is respected.
"""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m fusedsched plot",
        description="Draws schedules: in the terminal, or as a PNG or SVG file (with matplotlib).",
        epilog=EXAMPLES.format(names=", ".join(names())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument(
        "schedules",
        nargs="+",
        metavar="SCHEDULE",
        help="an expression such as 'cosine(0.1, 0, steps=100)', or module:object: a schedule, a scheduler of torch or "
        "fusedsched, an optimizer with native schedules, or a function without arguments that returns one",
    )
    found.add_argument("--momentum", metavar="EXPR", help="a schedule for momentum or beta1, drawn below")
    found.add_argument("--weight-decay", metavar="EXPR", help="a schedule for the weight decay, drawn below")
    found.add_argument("--steps", type=integer(1), metavar="N", help="updates to draw (default: to the end)")
    found.add_argument("--log", action="store_true", help="a logarithmic scale for the learning rate")
    found.add_argument("--out", type=picture_file, metavar="FILE", help="write FILE.png or FILE.svg instead")
    return found


def _picture(args: argparse.Namespace) -> Picture:
    panels: Curves = {"lr": []}
    for text in args.schedules:
        for name, curves in objects.schedules_of(text, args.steps).items():
            panels.setdefault(name, []).extend(curves)
    for name, text in (("momentum", args.momentum), ("weight_decay", args.weight_decay)):
        if text is not None:
            panels.setdefault(name, []).append((text, parse(text)))
    return of_schedules([(name, curves) for name, curves in panels.items() if curves], args.steps, args.log)


def main(argv: Sequence[str] | None = None) -> int:
    """Draws. Exit code 1 if the user's module raises, 2 for wrong arguments or what cannot be drawn."""
    command = parser()
    args = command.parse_args(argv)
    try:
        if args.out is not None:
            check_target(args.out)  # before any work
        picture = _picture(args)
        if args.out is None:
            picture.show()
        else:
            print(picture.save(args.out))
    except BrokenPipeError:  # handled in cli.main
        raise
    except Exception as error:
        return objects.answer(error)
    return 0
