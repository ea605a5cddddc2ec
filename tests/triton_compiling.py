# SPDX-License-Identifier: Apache-2.0
"""Compiles kernels of the Triton backend for a GPU that need not be here, and prints what became of them as JSON.

python tests/triton_compiling.py ARCH [all], in a process without TRITON_INTERPRET. "all": every rule in every mixture
of types, which takes minutes; otherwise those that the properties look at.
"""

import json
import os
import re
import subprocess
import sys
import tempfile

import torch
import triton
from fusedsched.triton_kernels import metric, rules, scheduled_targets, step, telemetry, tuning
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fusedsched import optim
from fusedsched.optim.triton_launches import warps_of

F32, F64, BF16, F16 = (f"torch.{name}" for name in ("float32", "float64", "bfloat16", "float16"))
# (parameter, gradient, states, computed in)
TYPES = {
    "float32": (F32, F32, F32, F32),
    "float64": (F64, F64, F64, F64),
    "bfloat16": (BF16, BF16, BF16, F32),
    "float16": (F16, F16, F16, F32),
    "bfloat16, state in float32": (BF16, BF16, F32, F32),
    "bfloat16, the rest in float32": (BF16, F32, F32, F32),
    "float32, state in float64": (F32, F32, F64, F64),
}
MOST = "AdamCoupledAmsgrad"  # the rule with the most arrays and the longest update
POINTERS = {"i32": ("control", "edited", "past_horizon", "negative"), "fp32": ("singles", "grad_scale", "found_inf")}
POINTERS["fp64"] = ("values", "resolved", "doubles", "written", "ring")
NUMBERS = ("n_numbers", "n_active", "n_chunks", "n_targets", "unit", "amount", "rows")


def compiled(kernel, constants, arch, warps, types=None, **options):
    """The kernel for one architecture. Pointers are tables of int64 unless named above, aligned as torch's are."""
    types = {**{name: f"*{t}" for t, names in POINTERS.items() for name in names}, **(types or {})}
    types |= dict.fromkeys(NUMBERS, "i32")
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else types.get(n, "*i64") for n in names}
    loose = ("grad_scale", "found_inf", "past_horizon", "negative")
    attributes = {
        (i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n].startswith("*") and n not in loose
    }
    options = {"num_warps": warps, "enable_fp_fusion": False, **options}
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def update(arch, rule, types, aligned=True, write_grad=False, **options):
    param, grad, state, wide = (step.TYPES[name] for name in TYPES[types])
    constants = dict(RULE=rule, STATES=rules.STATES[rule], P=param, G=grad, S0=state, S1=state, S2=state, A=wide)
    constants |= dict(ALIGNED=aligned, WRITE_GRAD=write_grad, BLOCK=tuning.BLOCK)
    scalars = {"scalars": "*fp64" if wide == step.TYPES[F64] else "*fp32"}
    warps = warps_of(tuple(getattr(torch, name.removeprefix("torch.")) for name in TYPES[types]))
    return compiled(step.update_kernel, constants, arch, warps, scalars, **options)


def prepare(arch, family, amp):
    constants = dict(FAMILY=family, SCALED=amp, CHECKED=amp, BLOCK=tuning.PREPARE_BLOCK)
    return compiled(step.prepare_kernel, constants, arch, tuning.PREPARE_WARPS)


def facts(kernel):
    """Bytes of stack per thread, and which instructions there are."""
    tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", text)
    ptx = kernel.asm["ptx"]
    wide = r"global(?:\.\w+)*\.v(?:4\.\w32|2\.\w64|8\.\w16)"
    return {
        "registers": int(found.group(1)),
        "stack": int(found.group(2)) + int(found.group(3)),
        "wide_loads": len(re.findall(r"\bld\." + wide, ptx)),
        "wide_stores": len(re.findall(r"\bst\." + wide, ptx)),
        "float64": len(re.findall(r"\.f64\b", ptx)),
        "fused": len(re.findall(r"\bfma\.", ptx)),
    }


def product(arch):
    """name -> facts of all rules in all types, aligned or not, with AMP and without."""
    return {
        f"{rule}/{types}/{'' if aligned else 'un'}aligned{'/amp' if amp else ''}": facts(
            update(arch, rule, types, aligned=aligned, write_grad=amp)
        )
        for rule in rules.STATES
        for types in TYPES
        for aligned in (True, False)
        for amp in (False, True)
    }


def everything(arch, every_rule):
    """name -> facts of the variants: all rules in float32, the longest one in all types, aligned or not, with AMP."""
    found = {}
    for rule in rules.STATES if every_rule else (MOST, "AdamW"):
        found[f"{rule}/float32"] = facts(update(arch, rule, "float32"))
    for types in TYPES:
        found[f"{MOST}/{types}/amp"] = facts(update(arch, MOST, types, write_grad=True))
        found[f"{MOST}/{types}/unaligned"] = facts(update(arch, MOST, types, aligned=False, write_grad=True))
    for family in sorted({getattr(optim, name)._spec.family for name in optim.OPTIMIZERS}):
        found[f"prepare/{family}"] = facts(prepare(arch, family, amp=True))
    watch = {"board": "*fp64", "metric": "*fp64", "n": "i32"}
    found["observe"] = facts(compiled(metric.observe_kernel, dict(BLOCK=tuning.METRIC_BLOCK), arch, 1, watch))
    found["advance"] = facts(compiled(step.advance_kernel, {}, arch, 1))
    found["advance by"] = facts(compiled(step.advance_by_kernel, {}, arch, 1))
    constants = {"CHECKED": True, "BLOCK": tuning.PREPARE_BLOCK}
    found["record"] = facts(compiled(telemetry.record_kernel, constants, arch, tuning.PREPARE_WARPS))
    for conditional in (True, False):
        kernel = compiled(scheduled_targets.schedule_kernel, {"CONDITIONAL": conditional}, arch, 1)
        found[f"rates/{'conditional' if conditional else 'plain'}"] = facts(kernel)
    found["mutant: few registers"] = facts(update(arch, MOST, "float32", maxnreg=32))
    return found


if __name__ == "__main__":
    target = int(sys.argv[1])
    print(json.dumps(product(target) if "all" in sys.argv else everything(target, every_rule=target == 90)))
