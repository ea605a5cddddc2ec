# SPDX-License-Identifier: Apache-2.0
"""Layouts of memory that Python and Triton share with C++: orders, columns and widths.

`fusedsched._C.layouts()` has those of the C++ headers; a test compares all. What an optimizer consists of is in its
`fusedsched.optim.spec.OptimizerSpec`.
"""

CLOCKS = ("updates", "samples", "tokens", "skipped")
"""The counters of an optimizer, int64: fs::Clock in csrc/core/rules.h."""

DTYPES = ("float32", "float64", "bfloat16", "float16")
"""How kernels know a dtype: fs::DType in csrc/core/dtype.h."""

VARIANTS = (*DTYPES, "mixed float32", "mixed float64")
"""Storage variants of a kernel: all arrays of one dtype, or mixed and computed in the wider one."""

MAX_HYPERPARAMETERS = 8
"""Numbers of a group: the width of a row of hyperparameters. fs::kMaxHyperparameters."""

MAX_STATES = 3
"""State arrays of a parameter. fs::kMaxStates."""

ROLES = ("grad", "param", "state0", "state1", "state2", "exact", "ema", "scratch")
"""What an array is to its parameter: fs::Role in csrc/core/array.h."""

MAX_SCALARS = 10
"""Numbers that a rule prepares for a parameter. fs::kMaxScalars."""

# Tables of eight-byte columns. "" is reserved.

PROGRAM_HEADER = ("n_rows", "period", "horizon", "", "", "", "", "")
"""The first row of a schedule program: fs::Header in csrc/core/schedule.h."""

PROGRAM_ROW = ("begin", "shape", "span", "start", "stop", "param", "cycle", "track")
"""A row of a schedule program: fs::Row in csrc/core/schedule.h."""

TELEMETRY_HEADER = ("rows_written", "next_norm")
"""Columns of the first row of a ring of telemetry: fs::RingHeader in csrc/core/telemetry.h."""

TELEMETRY_HEAD = ("update", "skipped", "grad_norm")
"""The first columns of the other rows, before the hyperparameters of each group: fs::RowHead."""

METRIC_STATE = (
    "greedy", "comparison", "factor", "threshold", "patience", "cooldown", "warmup", "eps", "window", "reset_start",
    "n_targets", "clock", "begin", "end",
    "best", "bad", "good", "cooldown_counter", "warmup_counter", "lower_before_reset", "epoch", "sum", "held", "next",
    "verdict", "above",
)  # fmt: skip
"""The state of a scheduler that follows a metric: fs::MetricState in csrc/core/metric.h."""

METRIC_TARGET = ("at", "dtype", "least", "most", "initial", "last")
"""The learning rate of one group that it writes: fs::MetricTarget in csrc/core/metric.h."""

SCHEDULED_TARGET = ("program", "tensor", "rules", "dtype", "written", "gain", "shift", "until")
"""A number that a drop-in scheduler writes: fs_cuda::ScheduledTarget in csrc/cuda/launch.h."""

EDIT_RULE = ("end", "kind", "pivot", "low", "period", "gain_per_unit")
"""How an edit of it is continued: fs::EditRule in csrc/core/edit.h."""


UPDATE_ARRAY = ("param", "grad", "state0", "state1", "state2", "numel", "scalars")
"""One parameter in a launch of the Triton backend's update kernel: addresses, real numbers, row of its scalars."""

NUMBER_SOURCES = ("value", "float32", "float64")
"""Where that backend finds a hyperparameter: in the table of values, or at the address of a tensor of this dtype."""


def row_width(groups: int) -> int:
    """Columns of a ring of telemetry.

    >>> row_width(2)
    19
    """
    return len(TELEMETRY_HEAD) + groups * MAX_HYPERPARAMETERS
