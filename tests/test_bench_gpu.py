# SPDX-License-Identifier: Apache-2.0
"""The benchmark on a GPU, as far as it can be tested without one: the whole run on a stand-in for CUDA's events, graphs
and streams, whose times mean nothing; and its arithmetic."""

import contextlib
import json
import os
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import pytest
import torch

from fusedsched import _native

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # in a source tree the benchmarks lie beside the package

from benchmarks import cases, gpu, launches, measure, peers, render  # noqa: E402

needs_extension = pytest.mark.skipif(_native.module() is None, reason="there is no compiled extension")


class Event:
    """The host's clock."""

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = perf_counter()

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return 1e3 * (other.at - self.at)


class Graph:
    """Replays are counted; what was captured ran once."""

    replays = 0

    def replay(self):
        Graph.replays += 1


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def stand_in(monkeypatch):
    """torch.cuda's names, on the CPU."""
    nothing = types.SimpleNamespace(wait_stream=lambda other: None)
    replaced = dict(
        Event=Event,
        CUDAGraph=Graph,
        Stream=lambda: nothing,
        current_stream=lambda: nothing,
        stream=lambda stream: contextlib.nullcontext(),
        graph=lambda graph: contextlib.nullcontext(),
        synchronize=lambda: None,
        _sleep=lambda cycles: None,
        mem_get_info=lambda: (2**24, 2**24),
        empty_cache=lambda: None,
    )
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(gpu, "ROUNDS", 3)
    monkeypatch.setattr(gpu, "PLACE", "cpu")
    monkeypatch.setattr(gpu, "COPIED", 2**12)
    counted = {"launches": 1.0, "copies": 0.0, "syncs": 0.0, "kernel_seconds": 1e-5}
    monkeypatch.setattr(launches, "profiled", lambda step: dict(counted))


@needs_extension
def test_a_whole_run(stand_in):
    chosen = [cases.shrunk(cases.GPU_CASES[name]) for name in ("one-1B", "small-2000", "experts")]
    settings = replace(measure.SMOKE, judged=True, thorough=True, compiled_tensors=0)
    results = gpu.measure(chosen, settings)
    assert not [record for record in results["skipped"] if record["why"].startswith("FAILED")], results["skipped"]
    assert Graph.replays > 0
    rows = {(row["case"], row["what"], row["against"]) for row in results["rows"]}
    assert len(rows) == len(results["rows"])
    for case in chosen:
        wanted = {(gpu.DEVICE, gpu.CONSTANT), (gpu.DEVICE, gpu.COPY_FLOOR), (gpu.DEVICE, peers.FUSED)}
        wanted |= {(gpu.EAGER, peers.FUSED), (gpu.HOST_TIME, peers.FUSED), (gpu.LAUNCHES, gpu.ONE_LAUNCH)}
        assert wanted <= {(what, against) for name, what, against in rows if name == case.name}
    goals = {against for name, _, against in rows if name == "small-2000"}
    assert {gpu.GOAL_DEVICE, gpu.GOAL_HOST} <= goals
    assert {"apex", peers.CAPTURABLE} <= {record["name"] for record in results["skipped"]}
    for record in results["contestants"]:
        assert record["replay_seconds"] > 0.0 and record["launches"] == 1.0 and record["host_seconds"] > 0.0
    results["machine"]["gpu"] = "a GPU"
    text = render.render(json.loads(json.dumps(results)))
    assert "graph replay" in text and "- apex: " in text


@needs_extension
def test_our_own_failure_is_shown_and_the_others_go_on(stand_in, monkeypatch):
    build = gpu.build

    def failing(case, *rest, **options):
        if case.name == "one-1B":
            raise RuntimeError("an illegal memory access")
        return build(case, *rest, **options)

    monkeypatch.setattr(gpu, "build", failing)
    chosen = [cases.shrunk(cases.GPU_CASES[name]) for name in ("one-1B", "groups-465")]
    results = gpu.measure(chosen, measure.SMOKE)
    failed = [record for record in results["skipped"] if record["why"].startswith("FAILED")]
    assert failed == [{"case": "one-1B", "name": "fusedsched", "why": "FAILED: RuntimeError: an illegal memory access"}]
    assert {row["case"] for row in results["rows"]} == {"groups-465"}


def test_every_gate_and_goal_belongs_to_a_case():
    assert {name for name, _, _ in gpu.GATES} <= cases.GPU_CASES.keys()
    for (name, what), goals in gpu.GOALS.items():
        assert all((name, what, goal) in gpu.GATES for goal in goals)


@pytest.mark.parametrize(("ours", "share", "verdict"), ((0.0075, 0.9333, "pass"), (0.0076, 0.9211, "MISSED")))
def test_the_share_of_the_copy_bandwidth(ours, share, verdict):
    """28 GB at 4 TB/s are 7 ms."""
    case = cases.GPU_CASES["one-1B"]
    named = {peers.OURS: ours, gpu.TWIN: ours, peers.CAPTURABLE: 0.008, gpu.COPY: 1e-3, gpu.COPY_FLOOR: 0.007}
    result = measure.Result({name: [seconds] * 5 for name, seconds in named.items()}, {}, [None] * 5)
    rows = {row["against"]: row for row in gpu.rows_of(case, gpu.DEVICE, result, measure.FULL)}
    floor = rows[gpu.COPY_FLOOR]
    assert (floor["theirs"], floor["ratio"]) == (pytest.approx(0.007), pytest.approx(share, rel=1e-4))
    assert floor["verdict"] == verdict and floor["floor"]["bandwidth"] == pytest.approx(4e12)
    assert set(rows) == {gpu.COPY_FLOOR, peers.CAPTURABLE}


@pytest.mark.parametrize(("counted", "verdict"), ((1.0, "pass"), (2.0, "MISSED"), (0.0, "unknown")))
def test_the_row_of_launches(counted, verdict):
    row = gpu.launch_row(cases.GPU_CASES["groups-465"], counted, measure.FULL)
    assert row["verdict"] == verdict
    cells = dict(zip([name for name, _ in render.COLUMNS], render.cells(row), strict=True))
    assert cells["other"] == "1" and cells["fusedsched"] == f"{counted:g}"


# What torch.profiler writes for two steps: two kernels, a fill, a copy, a wait; then the wait at the end.
def an_event(category, name, ts, dur, ph="X"):
    return {"ph": ph, "cat": category, "name": name, "pid": 1, "tid": 1, "ts": ts, "dur": dur, "args": {}}


RECORDED = [
    {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": "python"}},
    an_event("cpu_op", "aten::_fused_adamw_", 0.0, 20.0),
    an_event("cuda_runtime", "cudaLaunchKernel", 1.0, 4.0),
    an_event("cuda_driver", "cuLaunchKernelEx", 6.0, 4.0),
    an_event("ac2g", "ac2g", 6.0, 0.0, ph="s"),
    an_event("cuda_runtime", "cudaMemcpyAsync", 11.0, 2.0),
    an_event("cuda_runtime", "cudaStreamSynchronize", 14.0, 2.0),
    an_event("user_annotation", "end of the steps", 50.0, 1.0),
    an_event("gpu_user_annotation", "end of the steps", 50.0, 1.0),
    an_event("cuda_runtime", "cudaDeviceSynchronize", 52.0, 9.0),
    an_event("kernel", "void step<AdamW>(Launch)", 20.0, 12.0),
    an_event("kernel", "void multi_tensor_apply_kernel", 33.0, 8.0),
    an_event("gpu_memset", "Memset (Device)", 42.0, 1.0),
    an_event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 60.0, 1.0),
]


def test_launches_and_waits_of_a_recorded_profile():
    counted = launches.counts(launches.before_the_end(RECORDED), steps=2)
    assert counted == {"launches": 1.0, "copies": 1.0, "syncs": 0.5, "kernel_seconds": pytest.approx(11e-6)}
    assert launches.counts(RECORDED, steps=2)["syncs"] == 1.0  # with the one at the end


def test_the_profiler_writes_what_is_read():
    """Categories and names of a real trace of this torch, on the CPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        torch.ones(3).add_(1)
        with torch.profiler.record_function("end of the steps"):
            pass
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        recorded.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    marks = [event for event in events if event.get("name") == "end of the steps" and event.get("ph") == "X"]
    assert marks and all({"ts", "dur", "cat"} <= mark.keys() for mark in marks)
    assert launches.counts(launches.before_the_end(events), 1)["launches"] == 0.0


@pytest.mark.parametrize(
    ("name", "gigabytes", "title"),
    (
        ("llama3-8b-bf16", 400, "Llama 3 8B, 291 tensors"),
        ("llama3-8b-bf16", 120, "Llama 3 8B, widths / 2, 291 tensors"),
        ("one-1B", 88, "1 x 984M"),
        ("resnet50", 0.1, None),
    ),
)
def test_lists_are_scaled_to_the_memory_at_hand(name, gigabytes, title):
    case = gpu.fitted(cases.GPU_CASES[name], int(gigabytes * 2**30), 5)
    assert (case and case.title) == title
    assert case is None or case.footprint * 6 <= gigabytes * 2**30


def test_make_says_what_is_skipped_and_why():
    """As the Makefile calls it: in any Python, with a torch that must see no GPU here."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_here.py"), "bench-gpu"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 1 and done.stdout.startswith("bench-gpu: skipped, since torch "), done.stderr
