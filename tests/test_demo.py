# SPDX-License-Identifier: Apache-2.0
"""The demo runs, its two runs are the same run, and it notices when they are not."""

import contextlib
import io
import json
import re
import sys
from pathlib import Path

import pytest
import torch

import fusedsched as fs
from fusedsched.demo import command, pace, report, text, train
from fusedsched.demo.model import ByteModel
from fusedsched.range_test.log import LossLog
from fusedsched.runtime.async_copy import AsyncCopy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # in a source tree the benchmarks lie beside the package

from benchmarks import tallies  # noqa: E402

SETTINGS = ["--quick", "--steps", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What a small demo wrote down."""
    out, printed = tmp_path_factory.mktemp("demo"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert command.main([*SETTINGS, "--out", str(out)]) == 0
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    return {**json.loads((out / "results.json").read_text()), "printed": printed.getvalue()}


def test_both_runs_had_the_same_learning_rates_and_losses(results):
    ours, theirs = results["runs"]["fusedsched"], results["runs"]["torch.optim"]
    assert len(ours["lr"]) == len(theirs["lr"]) == 8
    assert results["largest lr difference"] <= command.LR_TOLERANCE * results["config"]["peak"]
    assert ours["train loss"] == pytest.approx(theirs["train loss"], rel=1e-4)
    assert ours["train loss"][-1] < ours["train loss"][0]


def test_the_learning_rate_warms_up_and_decays(results):
    lrs = results["runs"]["torch.optim"]["lr"]
    assert lrs[0] < lrs[1] and lrs[1] == max(lrs) and lrs[1:] == sorted(lrs[1:], reverse=True)


def test_a_difference_of_the_learning_rates_is_an_error(tmp_path, monkeypatch, capsys):
    class Drifting(torch.optim.lr_scheduler.CosineAnnealingLR):
        def get_lr(self):
            return [lr * (1 + 1e-8) for lr in super().get_lr()]

    monkeypatch.setattr(fs.lr_scheduler, "CosineAnnealingLR", Drifting)
    assert command.main([*SETTINGS, "--out", str(tmp_path)]) == 1
    assert "learning rates differ" in capsys.readouterr().err


def test_the_live_line_has_losses_rate_beta_norm_and_skipped_steps(results):
    lines = [line for line in results["printed"].splitlines() if " s left  step " in line]
    losses, monitored = (
        r"loss [\d.]+ \(torch.optim [\d.]+\)",
        r"update \d+  lr [\d.e-]+  beta1 0.9  grad norm .*  skipped 0",
    )
    pattern = rf"step \d+  {losses}  {monitored}"
    assert len(lines) == 8 and all(re.search(pattern, line) for line in lines[2:])
    assert not re.search(r"[\x1b\r\b]", "".join(lines))


@pytest.mark.parametrize("fault", [False, True])
def test_a_training_step_does_not_wait_for_the_device(monkeypatch, fault):
    """As on a device from which nothing has arrived yet."""
    monkeypatch.setattr(AsyncCopy, "arrived", lambda self: False)
    monkeypatch.setattr(LossLog, "new", lambda self: [float(self._losses.sum())] if fault else [])
    config = train.Config(steps=30, warmup=3, batch=2, length=8, width=8, heads=2, depth=1)
    run = train.start("fusedsched", fs, fs.lr_scheduler, config, torch.device("cpu"))
    inputs = torch.zeros(2, 8, dtype=torch.int64)
    train.train_step(run, inputs, inputs, 1.0)
    with tallies.Tally("cpu") as tally:
        for _ in range(20):
            train.train_step(run, inputs, inputs, 1.0)
    assert (tally.waits == 0) is not fault
    run.finish()
    assert len(run.losses) == 21 or fault
    assert int(run.report.telemetry.update[-1]) == 20 and len(run.step_times) == 21


def test_the_text_is_the_same_every_time_and_the_parts_do_not_overlap():
    first, second = text.read(limit=48), text.read(limit=48)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    root = text.Path(text.sysconfig.get_path("stdlib"))
    names = [path.relative_to(root).as_posix() for path in text.source_files(root)]
    assert names == sorted(names) and "argparse.py" in names and not any(n.startswith("test/") for n in names)


def test_a_python_without_sources_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(text.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(RuntimeError, match="has no source of its standard library"):
        text.read()


def test_targets_are_one_byte_further():
    inputs, targets = text.batch(torch.arange(200, dtype=torch.uint8), 3, 16, torch.Generator().manual_seed(0))
    assert inputs.shape == targets.shape == (3, 16) and torch.equal(inputs + 1, targets)


def test_the_model_has_about_a_million_parameters_and_two_groups():
    config = train.Config()
    model = ByteModel(config.width, config.heads, config.depth, config.length)
    assert 0.9e6 < sum(p.numel() for p in model.parameters()) < 1.2e6
    decay, no_decay = train.groups(model, 0.1)
    assert len(decay["params"]) + len(no_decay["params"]) == len(list(model.parameters()))
    assert all(p.dim() >= 2 for p in decay["params"]) and no_decay["weight_decay"] == 0


def test_the_model_does_not_look_ahead():
    model = ByteModel(width=16, heads=2, depth=2, length=8)
    a = torch.arange(8)[None]
    b = a.clone()
    b[0, -1] = 99
    torch.testing.assert_close(model(a)[:, :-1], model(b)[:, :-1])


def test_samples_can_be_printed():
    sample = ByteModel(width=16, heads=2, depth=1, length=8).write("def ", 200, seed=0)
    assert sample.startswith("def ") and all(c.isprintable() or c == "\n" for c in sample)


@pytest.mark.parametrize(
    ("all_threads", "one_thread", "threads", "steps"),
    ((0.02, 0.03, 2, 1000), (0.6, 0.18, 1, 500), (60.0, 30.0, 1, pace.FEWEST)),
    ids=("idle", "busy", "hopeless"),
)
def test_it_takes_three_minutes_on_any_machine(all_threads, one_thread, threads, steps, monkeypatch, capsys):
    before = torch.get_num_threads()
    times = {2: all_threads, 1: one_thread}
    monkeypatch.setattr(pace, "seconds_per_step", lambda *args: times[torch.get_num_threads()])
    torch.set_num_threads(2)
    try:
        config = command.set_pace(train.Config(), False, torch.device("cpu"), None)
        assert (torch.get_num_threads(), config.steps, config.warmup) == (threads, steps, steps // 10)
        assert f"with {threads} thread{'s' * (threads > 1)}: {steps} steps, about" in capsys.readouterr().out
        assert command.set_pace(train.Config(steps=1000), True, torch.device("cpu"), None).steps == 1000
    finally:
        torch.set_num_threads(before)


def test_a_trial_times_steps_and_leaves_the_draws_of_the_runs_alone():
    config = train.Config(steps=8, warmup=2, batch=2, length=8, width=8, heads=2, depth=1)
    state = torch.get_rng_state()
    assert pace.seconds_per_step(config, torch.device("cpu"), torch.zeros(100, dtype=torch.uint8)) > 0.0
    assert torch.equal(state, torch.get_rng_state())


def test_without_matplotlib_there_is_no_picture_and_no_error(monkeypatch):
    monkeypatch.setattr(report, "find_spec", lambda _: None)
    assert report.picture(None, None) is None
