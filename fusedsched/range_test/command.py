# SPDX-License-Identifier: Apache-2.0
"""`python -m fusedsched lr-find`."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fusedsched.command_line import integer, learning_rate, picture_file
from fusedsched.plotting import objects
from fusedsched.plotting.picture import check_target

EXAMPLE = """\
train.py:
  def trial():
      model = Net()
      return model, make_loader(), torch.nn.functional.cross_entropy, torch.optim.SGD(model.parameters(), lr=0.1)

  python -m fusedsched lr-find train:trial --out lr.png

exit codes: 0 a rate is suggested; 1 the losses show none, or your code raised an error; 2 wrong arguments, or the test
cannot be run with them (the message says what is missing).
Files need matplotlib: pip install 'fusedsched[plot]'. NO_COLOR is respected.
"""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m fusedsched lr-find",
        description="The learning rate range test: trains your model for some steps with a rising learning rate and "
        "suggests one. The model is restored.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument(
        "object",
        metavar="MODULE:OBJECT",
        help="a function without arguments that returns (model, loader, loss_fn), with an optimizer after these if you "
        "like, or a dict of arguments of fusedsched.lr_range_test; or the tuple or dict itself",
    )
    found.add_argument("--start", type=learning_rate, help="the first learning rate (default: 1e-7)")
    found.add_argument("--stop", type=learning_rate, help="the last learning rate (default: 10)")
    found.add_argument("--steps", type=integer(3), metavar="N", help="updates (default: 100)")
    found.add_argument("--mode", choices=("exponential", "linear"), help="how the rate rises (default: exponential)")
    found.add_argument("--out", type=picture_file, metavar="FILE", help="write the picture to FILE.png or FILE.svg")
    found.add_argument("--json", action="store_true", help="print JSON instead of the table and the picture")
    return found


def _arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of the test, from the object and the command line. The command line wins.

    Raises ValueError or TypeError for another kind of object.
    """
    value = objects.made(args.object)
    if isinstance(value, Mapping):
        found = dict(value)
    elif isinstance(value, (tuple, list)) and len(value) in (2, 3, 4):
        found = dict(zip(("model", "loader_or_step", "loss_fn", "optimizer"), value, strict=False))
    else:
        raise TypeError(
            f"{args.object} gave a {type(value).__name__}. It must give (model, loader, loss_fn), with an optimizer "
            "after these or not, or a dict of arguments."
        )
    if "loader" in found:
        found["loader_or_step"] = found.pop("loader")
    given = {name: getattr(args, name) for name in ("start", "stop", "steps", "mode")}
    return found | {name: value for name, value in given.items() if value is not None}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the test. Exit code 1 if it shows no rate or the user's code raises, 2 if it cannot be run."""
    command = parser()
    args = command.parse_args(argv)
    try:
        objects.check_no_file(args.object)
    except ValueError as error:
        command.error(str(error))
    if not objects.is_reference(args.object):
        command.error(f"{args.object!r} is not of the form module:object, such as train:trial")
    if None not in (args.start, args.stop) and args.start >= args.stop:
        command.error(f"--start {args.start:g} is not below --stop {args.stop:g}")
    try:
        if args.out is not None:
            check_target(args.out)  # before any work
        result = _run(args)
        where = None if args.out is None else result.plot().save(args.out)
        if args.json:
            print(json.dumps(result.to_json(), indent=1))
        else:
            print(f"{result}\n")
            result.plot().show()
        if where is not None:
            print(f"picture: {where}", file=sys.stderr if args.json else sys.stdout)
    except BrokenPipeError:  # handled in cli.main
        raise
    except Exception as error:
        return objects.answer(error)
    if result.suggestion is None:
        print("no learning rate can be suggested", file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace) -> Any:
    from fusedsched.progress import progress
    from fusedsched.range_test import lr_range_test

    found = _arguments(args)
    steps = found.get("steps", 100)
    with progress(steps if isinstance(steps, int) and steps > 0 else 1) as show:
        return lr_range_test(**found, progress=lambda done: show(done, f"step {done}"))
