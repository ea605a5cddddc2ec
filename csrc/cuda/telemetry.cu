// SPDX-License-Identifier: Apache-2.0
// One row of telemetry: what the step that follows in the stream is about to use. A launch of its own, so that a step
// without telemetry is the same kernel.
#include "../core/telemetry.h"
#include "kernels.cuh"
#include "hyperparameters.cuh"
#include "tuning.h"

namespace fs_cuda {

__global__ void __launch_bounds__(kSmallThreads) record_kernel(const __grid_constant__ Header header, double* ring,
                                                                int64_t rows) {
  const int32_t n_numbers = header.n_groups * kMaxHyperparameters;
  double* const row = fs::next_row(ring, rows, fs::row_width(header.n_groups));
#pragma unroll 1
  for (int32_t item = threadIdx.x; item < n_numbers; item += kSmallThreads) {
    row[fs::kRowHead + item] = hyperparameter_value(header, item / kMaxHyperparameters, item % kMaxHyperparameters);
  }
  __syncthreads();  // all have read which row it is
  if (threadIdx.x != 0) return;
  fs::finish_row(ring, row, header.clocks[kUpdates], header.found_inf != nullptr && *header.found_inf != 0.0f);
}

}  // namespace fs_cuda
