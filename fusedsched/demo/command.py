# SPDX-License-Identifier: Apache-2.0
"""The command behind `make demo`."""

import argparse
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import fusedsched as fs
from fusedsched.demo import report
from fusedsched.demo.progress import progress
from fusedsched.demo.text import read
from fusedsched.demo.train import Config, Run, start, train

LR_TOLERANCE = 1e-11  # of the peak: what the drop-in schedulers promise


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fusedsched demo",
        description="Trains a byte-level transformer of about a million parameters on the source of Python's standard "
        "library: once with fusedsched, once with torch.optim, on the same batches. A few minutes on two cores.",
    )
    parser.add_argument("--steps", type=int, help="training steps (default: 1000, on a GPU 3000)")
    parser.add_argument("--quick", action="store_true", help="a tiny model and 40 steps: does it run at all?")
    parser.add_argument(
        "--out", type=Path, default=Path("fusedsched-demo"), help="folder for the picture and the numbers"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the batches (default: 0)")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    args = parser.parse_args(argv)
    if args.steps is not None and args.steps < 2:
        parser.error(f"--steps is {args.steps}; it must be at least 2: one to warm up, one to decay")
    return args


def configure(args: argparse.Namespace, device: torch.device) -> Config:
    config = Config(seed=args.seed)
    if args.quick:
        config = replace(config, steps=40, batch=4, length=32, width=32, depth=2, evaluations=2)
    elif device.type == "cuda":
        config = replace(config, steps=3000, batch=64, length=256)
    steps = args.steps or config.steps
    return replace(config, steps=steps, warmup=max(1, steps // 10))


def facts(ours: Run, device: torch.device) -> dict[str, str]:
    """What ran where."""
    cpu = f"the CPU, {torch.get_num_threads()} threads"
    return {
        "fusedsched": fs.__version__,
        "backend": f"{getattr(ours.optimizer, 'backend', 'unknown')}",
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
    }


def tell(ours: Run, theirs: Run, config: Config, out: Path, about: dict[str, str]) -> None:
    """Prints the table and the samples; writes the picture and the numbers."""
    print(f"\n{report.table(ours, theirs, config)}\n")
    for run in (ours, theirs):
        sample = run.model.write("def ", 240, seed=config.seed)
        print(f"--- written by the model of {run.name}\n{sample}\n")
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(report.as_json(ours, theirs, config, about))
    if report.picture(ours, theirs, out / "curves.png"):
        print(f"picture: {out / 'curves.png'}")
    else:
        print("no picture: matplotlib is not installed")
    print(f"numbers: {out / 'results.json'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo; exit code 1 if the learning rates of the two runs differ."""
    args = arguments(argv)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    config = configure(args, device)
    train_text, held_out = read(limit=48 if args.quick else None)

    ours = start("fusedsched", fs, fs.lr_scheduler, config, device)
    theirs = start("torch.optim", torch.optim, torch.optim.lr_scheduler, config, device)
    about = facts(ours, device)
    size, tokens = sum(p.numel() for p in ours.model.parameters()), config.batch * config.length
    print(f"{size:,} parameters, {len(train_text):,} bytes of text, {config.steps} steps of {tokens:,} bytes")
    print(f"fusedsched {about['fusedsched']} ({about['backend']}) beside torch {about['torch']}, AdamW(fused=True)")
    print(f"on {about['device']}")

    with progress(config.steps) as show:
        for step in train([ours, theirs], train_text, held_out, config, device):
            show(step, f"loss {ours.losses[-1]:.3f} (torch.optim {theirs.losses[-1]:.3f})")
    tell(ours, theirs, config, args.out, about)

    worst = report.max_lr_difference(ours, theirs)
    if worst > LR_TOLERANCE * config.peak:
        promised = LR_TOLERANCE * config.peak
        print(f"The learning rates differ by {worst:.1e}; at most {promised:.1e} was promised.", file=sys.stderr)
        return 1
    return 0
