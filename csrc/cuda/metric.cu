// SPDX-License-Identifier: Apache-2.0
// One block decides by a metric and writes the learning rates, where the next update reads them.
#include <cuda_runtime.h>

#include "../core/convert.h"
#include "../core/metric.h"
#include "kernels.cuh"
#include "hyperparameters.cuh"
#include "tuning.h"

namespace fs_cuda {

namespace {

__device__ __forceinline__ void store_number(void* at, DType dtype, double value) {
  switch (dtype) {
    case DType::kFloat32: fs::from_compute(value, *static_cast<float*>(at)); break;
    case DType::kFloat64: *static_cast<double*>(at) = value; break;
    case DType::kBFloat16: fs::from_compute(value, *static_cast<fs::BFloat16*>(at)); break;
    case DType::kFloat16: fs::from_compute(value, *static_cast<fs::Float16*>(at)); break;
  }
}

// Counts the learning rates that are above their minimum.
__device__ __forceinline__ void rewrite(fs::MetricState& state, fs::MetricTarget* targets, fs::Verdict verdict) {
  const int32_t n = static_cast<int32_t>(state.n_targets);
#pragma unroll 1
  for (int32_t i = threadIdx.x; i < n; i += kSmallThreads) {
    fs::MetricTarget& target = targets[i];
    const DType dtype = static_cast<DType>(target.dtype);
    const double old = number_at(target.at, dtype), fresh = fs::rate_after(state, target, verdict, old);
    if (fresh != old) store_number(target.at, dtype, fresh);
    target.last = number_at(target.at, dtype);  // as it was rounded
    if (target.last > target.least) atomicAdd(&state.above, 1u);
  }
}

}  // namespace

__global__ void __launch_bounds__(kSmallThreads) observe_kernel(double* table, const void* metric, DType dtype) {
  fs::MetricState& state = *reinterpret_cast<fs::MetricState*>(table);
  fs::MetricTarget* targets = reinterpret_cast<fs::MetricTarget*>(table + fs::kMetricStateWidth);
  if (threadIdx.x == 0) {
    double* window = table + fs::kMetricStateWidth + static_cast<int64_t>(state.n_targets) * fs::kMetricTargetWidth;
    state.verdict = fs::is_due(state) ? fs::observe(state, window, number_at(metric, dtype)) : fs::kStay;
    state.above = 0;
  }
  __syncthreads();
  const fs::Verdict verdict = static_cast<fs::Verdict>(static_cast<int32_t>(state.verdict));
  rewrite(state, targets, verdict);
  __syncthreads();
  if (threadIdx.x == 0 && verdict == fs::kLower && state.above == 0 && fs::starts_over(state)) {
    state.verdict = fs::kStartOver;
  }
  __syncthreads();
  if (static_cast<int32_t>(state.verdict) == fs::kStartOver) rewrite(state, targets, fs::kStartOver);
}

}  // namespace fs_cuda
