# SPDX-License-Identifier: Apache-2.0
"""The compiled extension under AddressSanitizer and UndefinedBehaviorSanitizer, and the thread team under
ThreadSanitizer. `python tests/sanitizers.py` prints what each found; nothing is skipped silently.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ("test_memory.py", "test_freed_memory.py", "test_plan_references.py", "test_memory_runs.py", "test_fuzzing.py")
# Python and torch leave memory to the end of the process, and torch's own code is not instrumented.
ASAN = "detect_leaks=0:handle_segv=0:allocator_may_return_null=1:alloc_dealloc_mismatch=0"


def library(name):
    found = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    return found if found and Path(found).is_absolute() else None


def told(what, done, begin):
    """Prints the outcome; whether it was bad."""
    wrong = done.returncode != 0 or "Sanitizer" in done.stdout + done.stderr or "runtime error" in done.stderr
    print(
        f"{what}: {(time.monotonic() - begin) / 60:.1f} minutes, {'something was found' if wrong else 'nothing found'}"
    )
    if wrong:
        text = done.stdout + done.stderr
        first = re.search(r"^.*(ERROR: |runtime error).*$", text, re.MULTILINE)
        print(text[first.start() if first else -6000 :][:6000])
    return wrong


def team():
    """ThreadSanitizer on csrc/plan/team.cpp, without Python and OpenMP."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "team"
        sources = [ROOT / "tests" / "sanitizing" / "team.cpp", ROOT / "csrc" / "plan" / "team.cpp"]
        flags = ["-std=c++20", "-O1", "-g", "-fsanitize=thread", f"-I{ROOT / 'csrc'}", "-pthread"]
        built = subprocess.run(["g++", *flags, *sources, "-o", program], capture_output=True, text=True)
        if built.returncode:
            return told("ThreadSanitizer, build", built, begin)
        return told("ThreadSanitizer", subprocess.run([program], capture_output=True, text=True, timeout=600), begin)


def extension():
    """AddressSanitizer and UndefinedBehaviorSanitizer on the extension, in a copy of the tree."""
    begin = time.monotonic()
    libraries = [library("libasan.so"), library("libubsan.so")]
    if None in libraries:
        print("AddressSanitizer: gcc has no libasan.so and libubsan.so here; not run")
        return False
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", "build", ".venv*", "*.so", "__pycache__"))
        environment = os.environ | {
            "FUSEDSCHED_SANITIZE": "address,undefined", "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "2",
        }  # fmt: skip
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        built = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
        if built.returncode:
            return told("AddressSanitizer, build", built, begin)
        preloaded = {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": ASAN, "UBSAN_OPTIONS": "print_stacktrace=1"}
        tests = [str(tree / "tests" / name) for name in TESTS]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-s", "-m", "not full", "-k", "not interpreted", *tests]
        done = subprocess.run(command, cwd=tree, env=environment | preloaded, capture_output=True, text=True)
    return told("AddressSanitizer and UndefinedBehaviorSanitizer, memory tests and fuzzers", done, begin)


def run():
    """How many of them found something."""
    return sum([team(), extension()])


if __name__ == "__main__":
    sys.exit(run())
