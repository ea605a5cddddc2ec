// SPDX-License-Identifier: Apache-2.0
// Kernels of other files that runtime.cu launches: those of a step, of which step.cu is compiled once for each loop, and
// telemetry's.
#pragma once

#include <cuda_runtime.h>

#include "launch.h"

namespace fs_cuda {

using StepKernel = void (*)(Launch);

struct StepKernels {
  StepKernel kernel[fs::kRules];
  int shared_bytes[fs::kRules];
};

extern const StepKernels step_kernels_0, step_kernels_1, step_kernels_2, step_kernels_3, step_kernels_4,
    step_kernels_5;

using RecordKernel = void (*)(Header, double*, int64_t);

extern const RecordKernel record;

}  // namespace fs_cuda
