# SPDX-License-Identifier: Apache-2.0
"""For setup.py: whether CUDA is compiled, where nvcc is, for which processors, and what is linked."""

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# (object, source, flags), as in setup.py. Storage variants are compiled apart, so that all cores have work.
UNITS = [(f"cuda_step_{variant}", "csrc/cuda/step.cu", f"-DFS_VARIANT={variant}") for variant in range(6)]
UNITS += [("cuda_launches", "csrc/cuda/runtime.cu", "")]
UNITS += [(f"cuda_{name}", f"csrc/cuda/{name}.cu", "") for name in ("metric", "schedule", "telemetry")]

ARCHS = "8.0 8.6 8.9 9.0 10.0 12.0"  # as in TORCH_CUDA_ARCH_LIST; those that nvcc knows, and PTX of the last

# --fmad=false for the sake of schedules, as -ffp-contract=off in setup.py. The update is then the same to the bit as on
# the CPU without contraction: division and square root are correctly rounded on both.
# Compressed, the code is a tenth as large.
FLAGS = "-std=c++20 -O3 --fmad=false -DNDEBUG -Xfatbin -compress-all -Xcompiler -fPIC,-fvisibility=hidden"

FAILED = " If it was nvcc: TORCH_CUDA_ARCH_LIST names the processors, FUSEDSCHED_CUDA=0 builds without CUDA."


def wanted(torch_cuda):
    """Path of the nvcc that compiles the kernels; None: they are left out.

    `torch_cuda`: torch.version.cuda. They are compiled where torch is a CUDA build and nvcc is found, always with
    FUSEDSCHED_CUDA=1, never with FUSEDSCHED_CUDA=0.
    """
    asked = os.environ.get("FUSEDSCHED_CUDA", "")
    if asked not in ("", "0", "1"):
        raise SystemExit(f"fusedsched: FUSEDSCHED_CUDA is {asked!r}. Set it to 1 or 0, or leave it out.")
    nvcc = find() if asked == "1" or (asked == "" and torch_cuda) else None
    if asked == "1" and nvcc is None:
        raise SystemExit("fusedsched: FUSEDSCHED_CUDA=1 needs nvcc: in $CUDA_HOME/bin, on PATH or in /usr/local/cuda.")
    return nvcc


def find():
    """Path of nvcc, None where there is none."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    folders = [*(str(Path(home, "bin")) for home in homes), os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    return shutil.which("nvcc", path=os.pathsep.join(folders))


def said(nvcc, *arguments):
    """What nvcc prints, both channels."""
    done = subprocess.run([nvcc, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stderr}fusedsched: {nvcc} {' '.join(arguments)} failed.{FAILED}")
    return done.stdout + done.stderr


def version(nvcc):
    """E.g. "13.0"."""
    return re.search(r"release (\d+\.\d+)", said(nvcc, "--version"))[1]


def defines(nvcc):
    """For both sides of csrc/cuda/launch.h: before CUDA 12.1 a launch took 4 KB of arguments, since then 32 KB."""
    before = tuple(map(int, version(nvcc).split("."))) < (12, 1)
    return "-DFUSEDSCHED_CUDA -DFS_SMALL_ARGUMENTS" if before else "-DFUSEDSCHED_CUDA"


def archs(nvcc):
    """What to compile for, e.g. ["8.0", "9.0+PTX"]: TORCH_CUDA_ARCH_LIST, else the GPUs of this machine, else ARCHS."""
    wanted = re.split(r"[;, ]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip("; ,"))
    if wanted != [""]:
        for arch in wanted:
            if arch != "native" and not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", arch):
                example = "Write numbers, e.g. '8.0;9.0+PTX', or 'native'."
                raise SystemExit(f"fusedsched: TORCH_CUDA_ARCH_LIST has {arch!r}. {example}")
        return wanted
    known = said(nvcc, "--list-gpu-arch").split()
    here = gpus()
    if here and all(f"compute_{arch.replace('.', '')}" in known for arch in here):
        return here
    found = [arch for arch in ARCHS.split() if f"compute_{arch.replace('.', '')}" in known]
    return [*found[:-1], f"{found[-1]}+PTX"] if found else ["native"]


def gpus():
    """The compute capabilities of the GPUs of this machine, as the driver's nvidia-smi lists them."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    if shutil.which(command[0]) is None:
        return []
    done = subprocess.run(command, capture_output=True, text=True)
    return sorted(set(re.findall(r"^\d+\.\d$", done.stdout, re.MULTILINE))) if done.returncode == 0 else []


def flags(nvcc, wanted):
    """nvcc's options; `wanted`: a list as `archs` returns it."""
    flags = [FLAGS, defines(nvcc)]
    for arch in wanted:
        number = arch.removesuffix("+PTX").replace(".", "")
        codes = [f"sm_{number}", f"compute_{number}"] if arch.endswith("+PTX") else [f"sm_{number}"]
        flags += ["-arch=native"] if arch == "native" else [f"-gencode arch=compute_{number},code={c}" for c in codes]
    return " ".join(flags)


def link_flags(nvcc):
    """The static runtime, so that the extension loads where CUDA is not installed. nvcc knows where it lies."""
    top = re.search(r"^#\$ TOP=(.*)$", said(nvcc, "--dryrun", "csrc/cuda/runtime.cu"), re.MULTILINE)
    libraries = [path for pattern in ("lib*", "targets/*/lib") for path in Path(top[1]).glob(pattern)] if top else []
    folder = next((path for path in sorted(libraries) if (path / "libcudart_static.a").exists()), None)
    search = f"-L'{folder.resolve()}' " if folder else ""
    return f"{search}-lcudart_static -ldl -lrt -lpthread -Wl,--exclude-libs,libcudart_static.a"
