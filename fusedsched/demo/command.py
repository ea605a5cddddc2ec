# SPDX-License-Identifier: Apache-2.0
"""`python -m fusedsched demo`, which `make demo` runs."""

import argparse
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import fusedsched as fs
from fusedsched.command_line import integer
from fusedsched.demo import pace, report
from fusedsched.demo.text import read
from fusedsched.demo.train import Config, Run, start, train
from fusedsched.files import check_writable, make_folder, write_whole
from fusedsched.progress import progress

LR_TOLERANCE = 1e-11  # relative to the peak: the bound of the drop-in schedulers
PICTURE, NUMBERS = "curves.png", "results.json"
EPILOG = """\
examples:
  python -m fusedsched demo --quick
  python -m fusedsched demo --steps 300 --out run1

exit codes: 0 trained; 1 the learning rates of the two runs differ; 2 wrong arguments, or it cannot run here.
The picture needs matplotlib: pip install 'fusedsched[plot]'.
"""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fusedsched demo",
        description="Trains a byte-level transformer of about a million parameters on the source of Python's standard "
        "library: once with fusedsched, once with torch.optim, on the same batches. About three minutes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # At least 2 steps: one of warmup, one of decay.
    parser.add_argument("--steps", type=integer(2), help="training steps (default: three minutes, at most 1000)")
    parser.add_argument("--quick", action="store_true", help="a tiny model and 40 steps: does it run at all?")
    parser.add_argument(
        "--out", type=Path, default=Path("fusedsched-demo"), help="folder for the picture and the numbers"
    )
    parser.add_argument(
        "--seed", type=integer(0, 2**62), default=0, help="of the weights and of the batches (default: 0)"
    )
    parser.add_argument("--device", help="cpu or cuda, or one of several GPUs: cuda:1 (default: cuda if there is one)")
    return parser.parse_args(argv)


def device_of(name: str | None) -> torch.device:
    """The device to train on. Raises ValueError if there is none of that name."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device {name}: it must be cpu or cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: this torch ({torch.__version__}) finds {torch.cuda.device_count()} GPUs.")
    return device


def configure(args: argparse.Namespace, device: torch.device) -> Config:
    config = Config(seed=args.seed)
    if args.quick:
        config = replace(config, steps=40, batch=4, length=32, width=32, depth=2, evaluations=2)
    elif device.type == "cuda":
        config = replace(config, steps=3000, batch=64, length=256)
    steps = args.steps or config.steps
    return replace(config, steps=steps, warmup=max(1, steps // 10))


def set_pace(config: Config, fixed: bool, device: torch.device, text: torch.Tensor) -> Config:
    """Times a few steps, picks the threads and, unless they are `fixed`, the steps; prints both."""
    seconds = pace.choose_threads(config, device, text)
    config = config if fixed else pace.shortened(config, seconds)
    minutes = 2 * seconds * config.steps / 60
    threads = f" with {threads_text()}" if device.type == "cpu" else ""
    print(f"a step of one run takes {1e3 * seconds:.0f} ms{threads}: {config.steps} steps, about {minutes:.0f} minutes")
    return config


def threads_text() -> str:
    count = torch.get_num_threads()
    return f"{count} threads" if count > 1 else "1 thread"


def facts(ours: Run, device: torch.device) -> dict[str, str]:
    """Versions, backend and device."""
    cpu = f"the CPU, {threads_text()}"
    return {
        "fusedsched": fs.__version__,
        "backend": f"{getattr(ours.optimizer, 'backend', 'unknown')}",
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
    }


def print_results(ours: Run, theirs: Run, config: Config, out: Path, about: dict[str, str]) -> None:
    """Prints the table and the samples; writes the picture and the numbers."""
    print(f"\n{report.table(ours, theirs, config)}\n")
    for run in (ours, theirs):
        sample = run.model.write("def ", 240, seed=config.seed)
        print(f"--- written by the model of {run.name}\n{sample}\n")
    write_whole(out / NUMBERS, report.as_json(ours, theirs, config, about).encode())
    if (drawn := report.picture(ours, theirs)) is not None:
        write_whole(out / PICTURE, drawn)
        print(f"picture: {out / PICTURE}")
    else:
        print("no picture: matplotlib is not installed; pip install 'fusedsched[plot]'")
    print(f"numbers: {out / NUMBERS}")


def words(step: int, ours: Run, theirs: Run) -> str:
    """The words of a progress line: the losses that have arrived from the device, and the monitor's latest report."""
    parts = [f"step {step}"]
    if ours.losses and theirs.losses:
        parts.append(f"loss {ours.losses[-1]:.3f} (torch.optim {theirs.losses[-1]:.3f})")
    if ours.report is not None:
        parts.append(str(ours.report))
    return "  ".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo. Exit code 1 if the learning rates of the two runs differ, 2 if it cannot start."""
    args = arguments(argv)
    try:
        device = device_of(args.device)
        make_folder(args.out)
        for name in (PICTURE, NUMBERS):
            check_writable(args.out / name)
        train_text, held_out = read(limit=48 if args.quick else None)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    config = configure(args, device)
    if not args.quick:
        config = set_pace(config, args.steps is not None, device, train_text)

    ours = start("fusedsched", fs, fs.lr_scheduler, config, device)
    theirs = start("torch.optim", torch.optim, torch.optim.lr_scheduler, config, device)
    about = facts(ours, device)
    size, tokens = sum(p.numel() for p in ours.model.parameters()), config.batch * config.length
    print(f"{size:,} parameters, {len(train_text):,} bytes of text, {config.steps} steps of {tokens:,} bytes")
    print(f"fusedsched {about['fusedsched']} ({about['backend']}) and torch {about['torch']}, AdamW(fused=True)")
    print(f"on {about['device']}")

    with progress(config.steps, after=0.0, stream=sys.stdout) as show:
        for step in train([ours, theirs], train_text, held_out, config, device):
            show(step, words(step, ours, theirs))
    print_results(ours, theirs, config, args.out, about)

    worst = report.max_lr_difference(ours, theirs)
    if worst > LR_TOLERANCE * config.peak:
        promised = LR_TOLERANCE * config.peak
        print(f"The learning rates differ by {worst:.1e}; at most {promised:.1e} was promised.", file=sys.stderr)
        return 1
    return 0
