// SPDX-License-Identifier: Apache-2.0
// One block takes note of a metric and rewrites the rates, where the next update reads them.
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

// Counts those that are left above their minimum.
__device__ __forceinline__ void rewrite(fs::Watch& watch, fs::Rate* rates, fs::Verdict verdict) {
  const int32_t n = static_cast<int32_t>(watch.n_rates);
#pragma unroll 1
  for (int32_t i = threadIdx.x; i < n; i += kSmallThreads) {
    fs::Rate& rate = rates[i];
    const DType dtype = static_cast<DType>(rate.dtype);
    const double old = number_at(rate.at, dtype), fresh = fs::rate_after(watch, rate, verdict, old);
    if (fresh != old) store_number(rate.at, dtype, fresh);
    rate.last = number_at(rate.at, dtype);  // as it was rounded
    if (rate.last > rate.least) atomicAdd(&watch.above, 1u);
  }
}

}  // namespace

__global__ void __launch_bounds__(kSmallThreads) observe_kernel(double* board, const void* metric, DType dtype) {
  fs::Watch& watch = *reinterpret_cast<fs::Watch*>(board);
  fs::Rate* rates = reinterpret_cast<fs::Rate*>(board + fs::kWatchWidth);
  if (threadIdx.x == 0) {
    double* window = board + fs::kWatchWidth + static_cast<int64_t>(watch.n_rates) * fs::kRateWidth;
    watch.verdict = fs::is_due(watch) ? fs::observe(watch, window, number_at(metric, dtype)) : fs::kStay;
    watch.above = 0;
  }
  __syncthreads();
  const fs::Verdict verdict = static_cast<fs::Verdict>(static_cast<int32_t>(watch.verdict));
  rewrite(watch, rates, verdict);
  __syncthreads();
  if (threadIdx.x == 0 && verdict == fs::kLower && watch.above == 0 && fs::starts_over(watch)) {
    watch.verdict = fs::kStartOver;
  }
  __syncthreads();
  if (static_cast<int32_t>(watch.verdict) == fs::kStartOver) rewrite(watch, rates, fs::kStartOver);
}

}  // namespace fs_cuda
