# SPDX-License-Identifier: Apache-2.0
"""`python -m fusedsched info`: what is installed, what this machine can do, and which backends work."""

import argparse
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fusedsched
from fusedsched import _native

# Features that select an instruction set, by their names in /proc/cpuinfo (x86-64, then aarch64).
FEATURES = ("sse4_2", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
OPENMP_NAMES = ("libgomp", "libiomp", "libomp")
# Optional packages: (name, what for, how to get it).
OPTIONAL = (
    ("matplotlib", "pictures as files", "pip install 'fusedsched[plot]'"),
    ("numpy", "verify's judgement of float64", "pip install numpy"),
    ("triton", "the Triton kernels", "comes with torch for GPUs; pip install triton"),
)
EPILOG = """\
example:
  python -m fusedsched info --json

exit codes: 0 success; 1 something makes this machine slow (idle threads, two OpenMP runtimes); 2 wrong arguments.
A missing backend is no error; its reason is printed.
"""


def processor() -> dict[str, Any]:
    """Name and features of the first processor, from the operating system."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    present = (fields.get("flags") or fields.get("Features") or "").split()
    return {
        "name": fields.get("model name") or platform.processor() or platform.machine(),
        "features": [feature for feature in FEATURES if feature in present],
    }


def openmp_runtimes() -> list[str]:
    """The OpenMP libraries in this process. Threads of more than one compete."""
    path = Path("/proc/self/maps")
    lines = path.read_text().splitlines() if path.exists() else []
    files = {line.split(maxsplit=5)[-1] for line in lines if "/" in line}
    return sorted(file for file in files if Path(file).name.startswith(OPENMP_NAMES))


def extension() -> dict[str, Any]:
    """The compiled extension: where it is and how it was built, or why there is none."""
    native = _native.module()
    if native is None:
        return {"missing": _native.reason()}
    build = _native.build_info()
    return {
        "file": native.__file__,
        "compiler": build.get("compiler", "unknown"),
        "built for torch": build.get("torch", "unknown"),
        "instruction set": native.isa(),
        "threads used": native.threads_used(),
        "cuda kernels": "built" if native.cuda_runtime() == "cuda" else "not built",
    }


def packages() -> dict[str, str]:
    """Optional packages: the version, or the purpose and how to install it."""
    found = {}
    for name, purpose, how in OPTIONAL:
        try:
            found[name] = metadata.version(name) if find_spec(name) else f"not installed ({purpose}): {how}"
        except metadata.PackageNotFoundError:
            found[name] = "installed, version unknown"
    return found


def gpus() -> list[dict[str, Any]]:
    """The properties of each GPU, from torch."""
    import torch

    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(index)
        found.append(
            {
                "name": about.name,
                "memory": f"{about.total_memory / 2**30:.0f} GiB",
                "compute capability": f"{about.major}.{about.minor}",
            }
        )
    return found


def collect() -> dict[str, Any]:
    """Everything that `info` prints, as plain data."""
    import torch

    from fusedsched.runtime.backends import backends, for_device

    here = gpus()
    places = ["cpu", *(["cuda"] if here else [])]
    return {
        "fusedsched": fusedsched.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "torch built for CUDA": torch.version.cuda or "no",
        "gpus": {f"cuda:{i}": about for i, about in enumerate(here)} or "none that this torch can use",
        "torch threads": torch.get_num_threads(),
        "extension": extension(),
        "openmp": openmp_runtimes(),
        "backends": {name: reason or "works" for name, reason in backends().items()},
        "chosen by itself": {place: for_device("auto", torch.device(place)) or "reference" for place in places},
        "optional packages": packages(),
    }


def warnings_of(facts: dict[str, Any]) -> list[str]:
    """Sentences about what makes this machine slow.

    >>> warnings_of({"extension": {"threads used": 1}, "torch threads": 4, "openmp": ["/lib/libgomp.so.1"]})
    ['The extension ran on 1 of 4 threads.']
    """
    found = []
    used, wanted = facts["extension"].get("threads used"), facts["torch threads"]
    if used is not None and used < wanted:
        found.append(f"The extension ran on {used} of {wanted} threads.")
    if len(facts["openmp"]) > 1:
        found.append("Two OpenMP runtimes are loaded; parallel code will be slow: " + ", ".join(facts["openmp"]))
    return found


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        else:
            text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
            lines.append(f"{indent}{name:<{22 - len(indent)}}{text}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the facts. Exit code 1 if there are warnings."""
    parser = argparse.ArgumentParser(
        prog="python -m fusedsched info",
        description="Shows what is installed, what this machine can do, and which backends work.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    args = parser.parse_args(argv)
    facts = collect()
    problems = warnings_of(facts)
    if args.json:
        print(json.dumps({**facts, "problems": problems}, indent=1, default=str))
    else:
        print("\n".join(_lines(facts)))
        for problem in problems:
            print(f"warning: {problem}")
    return 1 if problems else 0
