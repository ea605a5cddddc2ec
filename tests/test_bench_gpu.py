# SPDX-License-Identifier: Apache-2.0
"""The benchmark on a GPU, as far as it can be seen without one: the whole run on a stand-in for CUDA's clock, graphs
and streams, whose times mean nothing; and all that is arithmetic. No figure comes from here."""

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

from benchmarks import (  # noqa: E402
    cases,
    chart,
    gpu,
    gpu_clock,
    gpu_memory,
    gpu_rows,
    gpu_sides,
    launches,
    measure,
    peers,
    render,  # noqa: E402
)

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


def without_triton(size):
    raise ImportError("No module named 'triton'")


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
        get_device_properties=lambda index: types.SimpleNamespace(L2_cache_size=2**20),
        mem_get_info=lambda: (2**24, 2**24),
        memory_allocated=lambda: 0,
        max_memory_allocated=lambda: 4096,
        reset_peak_memory_stats=lambda: None,
        empty_cache=lambda: None,
    )
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(gpu, "ROUNDS", 3)
    monkeypatch.setattr(gpu_clock, "PLACE", "cpu")
    monkeypatch.setattr(gpu_clock, "FLUSHED_BYTES", 2**12)
    counted = {"launches": 1.0, "copies": 0.0, "syncs": 0.0, "kernel_seconds": 1e-5}
    monkeypatch.setattr(launches, "profiled", lambda step: dict(counted))
    monkeypatch.setattr(gpu_memory, "triad", without_triton)


@needs_extension
def test_a_whole_run(stand_in):
    """On a CPU torch refuses foreach with capturable: it is left out, with torch's words."""
    chosen = [cases.GPU_CASES[name] for name in ("one-1B", "small-2000", "experts")]
    settings = replace(measure.SMOKE, judged=True, thorough=True, compiled_tensors=0)
    results = gpu.measure([cases.shrunk(case) for case in chosen], settings)
    assert not [record for record in results["skipped"] if record["why"].startswith("FAILED")], results["skipped"]
    assert Graph.replays > 0
    rows = {(row["case"], row["what"], row["against"]) for row in results["rows"]}
    assert len(rows) == len(results["rows"])
    for case in chosen:
        wanted = {(gpu_rows.DEVICE, gpu_sides.CONSTANT), (gpu_rows.DEVICE, gpu_rows.COPY_FLOOR)}
        wanted |= {(gpu_rows.COLD, peers.FUSED), (gpu_rows.EAGER, peers.FUSED), (gpu_rows.HOST_TIME, peers.FUSED)}
        wanted |= {(gpu_rows.LAUNCHES, gpu_rows.ONE_LAUNCH)}
        assert wanted <= {(what, against) for name, what, against in rows if name == case.name}
    goals = {against for name, _, against in rows if name == "small-2000"}
    assert {gpu_rows.GOAL_DEVICE, gpu_rows.GOAL_HOST} <= goals
    why = {record["name"]: record["why"] for record in results["skipped"] if record["case"] == "one-1B"}
    assert "capturable" in why[peers.FOREACH_CAPTURABLE] and why["apex"] == "not installed"
    assert "triton" in why[gpu_memory.TRIAD]
    for record in results["contestants"]:
        assert record["replay_seconds"] > 0.0 and record["launches"] == 1.0 and record["peak_bytes"] >= 4096
    shared = [record for record in results["contestants"] if record["case"] == "one-1B"]
    names = [peers.OURS, gpu_sides.CONSTANT, peers.FUSED, peers.FOREACH, peers.CAPTURABLE]
    assert [record["name"] for record in shared] == names
    results["machine"]["gpu"] = "a GPU"
    text = render.render(json.loads(json.dumps(results)))
    assert "graph replay" in text and "Memory ceilings" in text and "- apex: not installed" in text
    pytest.importorskip("matplotlib")
    assert b"a GPU" in chart.render(results, "svg")


@needs_extension
def test_our_own_failure_is_shown_and_the_others_go_on(stand_in, monkeypatch):
    build = gpu.build

    def failing(case, name, *rest):
        if case.name == "one-1B" and name == peers.OURS:
            raise RuntimeError("an illegal memory access")
        return build(case, name, *rest)

    monkeypatch.setattr(gpu, "build", failing)
    chosen = [cases.shrunk(cases.GPU_CASES[name]) for name in ("one-1B", "groups-465")]
    results = gpu.measure(chosen, measure.SMOKE)
    failed = [record for record in results["skipped"] if record["why"].startswith("FAILED")]
    assert failed == [{"case": "one-1B", "name": "fusedsched", "why": "FAILED: RuntimeError: an illegal memory access"}]
    assert {row["case"] for row in results["rows"]} == {"groups-465"}


@needs_extension
@pytest.mark.parametrize("name", ("experts", "groups-465", "resnet50-sgd", "one-1B-amsgrad", "llama3-8b-bf16"))
@pytest.mark.parametrize("peer", (gpu_sides.CONSTANT, peers.FUSED, peers.FOREACH))
def test_contestants_share_moments_and_keep_counts_of_their_own(name, peer):
    case = cases.shrunk(cases.GPU_CASES[name])
    arrays = gpu_sides.Arrays(case, "cpu")
    ours = gpu_sides.build(case, peers.OURS, arrays).optimizer
    theirs = gpu_sides.build(case, peer, arrays, ours).optimizer
    for p in arrays.params:
        assert (p in ours.state) == (p in theirs.state) == (p.grad is not None)
        for key, value in ours.state.get(p, {}).items():
            same = theirs.state[p][key].data_ptr() == value.data_ptr()
            assert same == (key != "step"), key


@needs_extension
def test_another_update_is_no_contestant(monkeypatch):
    case = cases.GPU_CASES["resnet50"]
    assert gpu_sides.disagreement(case, peers.FUSED, "cpu") is None
    monkeypatch.setitem(peers.PEERS, "plain", peers.Peer("torch.optim", peers._named("Adam")))
    assert gpu_sides.disagreement(case, "plain", "cpu").startswith("computes something else: parameter 0")


def test_every_gate_and_goal_belongs_to_a_case():
    assert {name for name, _, _ in gpu_rows.GATES} <= cases.GPU_CASES.keys()
    for (name, what), goals in gpu_rows.GOALS.items():
        assert all((name, what, goal) in gpu_rows.GATES for goal in goals)


def a_result(ours, theirs, copy=1e-3, rounds=5):
    named = {peers.OURS: ours, gpu_rows.TWIN: ours, peers.CAPTURABLE: theirs, gpu_memory.COPY: copy}
    return measure.Result({name: [seconds] * rounds for name, seconds in named.items()}, {}, [None] * rounds)


@pytest.mark.parametrize(("ours", "share", "verdict"), ((0.0075, 0.9333, "pass"), (0.0076, 0.9211, "MISSED")))
def test_the_share_of_the_copy_bandwidth(ours, share, verdict):
    """28 GB at 4 TB/s are 7 ms."""
    case = cases.GPU_CASES["one-1B"]
    result = a_result(ours, 0.008)
    gpu_rows.with_ceilings(case, result, {gpu_memory.COPY: 4 * 10**9})
    rows = {row["against"]: row for row in gpu_rows.rows_of(case, gpu_rows.DEVICE, result, measure.FULL)}
    floor = rows[gpu_rows.COPY_FLOOR]
    assert (floor["theirs"], floor["ratio"]) == (pytest.approx(0.007), pytest.approx(share, rel=1e-4))
    assert floor["verdict"] == verdict
    assert floor["floor"]["bandwidth"] == pytest.approx(4e12)
    assert set(rows) == {gpu_rows.COPY_FLOOR, peers.CAPTURABLE}


@pytest.mark.parametrize(("counted", "verdict"), ((1.0, "pass"), (2.0, "MISSED"), (None, "unknown"), (0.0, "unknown")))
def test_the_row_of_launches(counted, verdict):
    record = {"name": peers.OURS, "launches": counted}
    row = gpu_rows.launch_row(cases.GPU_CASES["groups-465"], [record], measure.FULL)
    assert row["verdict"] == verdict
    cells = dict(zip([name for name, _ in render.COLUMNS], render.cells(row), strict=True))
    assert cells["other"] == "1" and cells["fusedsched"] == f"{counted or 0:g}"


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
        ("llama3-8b-bf16", 120, "Llama 3 8B, 291 tensors"),
        ("llama3-8b-bf16", 70, "Llama 3 8B, widths / 2, 291 tensors"),
        ("one-1B", 22, "1 x 984M"),
        ("resnet50", 0.1, None),
    ),
)
def test_lists_are_scaled_to_the_memory_at_hand(name, gigabytes, title):
    case = gpu_sides.fitted(cases.GPU_CASES[name], int(gigabytes * 2**30))
    assert (case and case.title) == title
    assert case is None or case.footprint * gpu_sides.ROOM <= gigabytes * 2**30


def test_make_says_what_is_skipped_and_why():
    """As the Makefile calls it: in any Python, with a torch that must see no GPU here."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_here.py"), "bench-gpu"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 1 and done.stdout.startswith("bench-gpu: skipped, since torch "), done.stderr


def test_the_triad_reads_four_arrays_and_writes_three():
    pytest.importorskip("triton")
    script = (
        "import torch\nfrom benchmarks.triad import walk\n"
        "a = [torch.full((5000,), float(i + 1)) for i in range(4)]\nwalk(*a, 4096)\n"
        "print([round(1e6 * (float(x.double().min()) - i - 1)) for i, x in enumerate(a)],"
        " [bool((x == x[0]).all()) for x in a])"
    )
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env)
    assert done.stdout == "[-3, 0, 2, -4] [True, True, True, True]\n", done.stderr
