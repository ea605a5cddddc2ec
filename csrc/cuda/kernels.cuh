// SPDX-License-Identifier: Apache-2.0
// The kernels that runtime.cu launches. step.cu is compiled once for each variant.
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

// telemetry.cu
__global__ void record_kernel(const __grid_constant__ Header header, double* ring, int64_t rows);

// schedule.cu
__global__ void schedule_kernel(DeviceSchedule args);

// metric.cu
__global__ void observe_kernel(double* table, const void* metric, DType dtype);

}  // namespace fs_cuda
