// SPDX-License-Identifier: Apache-2.0
// The tables of step kernels: step.cu is compiled once for each loop, runtime.cu picks. And plateau.cu's one kernel.
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

using ObserveKernel = void (*)(double*, const void*, DType);

extern const ObserveKernel observe_kernel_address;

}  // namespace fs_cuda
