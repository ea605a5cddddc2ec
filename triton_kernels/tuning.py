# SPDX-License-Identifier: Apache-2.0
"""Launch numbers, all in one place. None of them has been measured yet; what is known stands beside each.

There is no autotuning: a kernel that writes in place cannot be run twice to see which run was faster.
"""

BLOCK = 2048
"""Elements per tile. Each of 256 threads has 8: one 128-bit access per array of 16-bit numbers, two of float32."""

WARPS = 8
"""Warps of an update program. 8 elements of 5 arrays in float32 need some 40 registers of the 255 that there are."""

MIXED_FLOAT64_WARPS = 16
"""The same where float64 is computed from narrower arrays too: with 8 one kernel spills on sm_80, with 4 some do on
sm_100."""

PROGRAMS_PER_PROCESSOR = 4
"""Persistent update programs for each multiprocessor: 4 * 256 threads, half of what an H100 holds at once."""

PREPARE_BLOCK = 256
"""Parameters whose scalars are computed side by side."""

PREPARE_WARPS = 8
"""Warps of the one program that prepares a step: as many threads as PREPARE_BLOCK, each owns a parameter."""

METRIC_BLOCK = 64
"""Rates that one warp rewrites side by side when a metric has decided: two to a thread."""

SCHEDULE_PROGRAMS = 528
"""Programs of one warp that step the targets of a drop-in scheduler: four for each of 132 multiprocessors."""

INTERPRETED_PROGRAMS = 2
"""Under the interpreter: enough for a second one to begin in the middle."""
