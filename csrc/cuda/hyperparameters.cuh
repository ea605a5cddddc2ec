// SPDX-License-Identifier: Apache-2.0
// Hyperparameters as the kernel sees them: what a hyperparameter is now, and what is shown after a step.
#pragma once

#include <cuda_runtime.h>

#include "../core/convert.h"
#include "../core/schedule.h"
#include "launch.h"

namespace fs_cuda {

__device__ __forceinline__ double horizon_of(const double* program) { return program[2]; }

__device__ __forceinline__ bool is_past(const double* program, int64_t clock) {
  return horizon_of(program) >= 0.0 && static_cast<double>(clock) > horizon_of(program);
}

// Past its horizon a program keeps its last value.
__device__ __forceinline__ double program_value(const double* program, int64_t clock) {
  return fs::evaluate(program, is_past(program, clock) ? horizon_of(program) : static_cast<double>(clock));
}

// Whether somebody wrote to the shown value. Before the first time that it is shown, `written` is NaN.
__device__ __forceinline__ bool is_edited(const Hyperparameter& h) {
  if (h.edited) return true;
  return h.shown != nullptr && h.written == h.written && *h.shown != h.written;
}

__device__ __forceinline__ double number_at(const void* tensor, DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return *static_cast<const float*>(tensor);
    case DType::kFloat64: return *static_cast<const double*>(tensor);
    case DType::kBFloat16: return fs::to_compute(*static_cast<const fs::BFloat16*>(tensor));
    case DType::kFloat16: return fs::to_compute(*static_cast<const fs::Float16*>(tensor));
  }
  return 0.0;
}

__device__ __forceinline__ double hyperparameter_value(const Header& header, int32_t group, int32_t k) {
  const Hyperparameter& h = header.groups[group].hyperparameters[k];
  if (h.program != nullptr) {
    if (*h.clock < h.held_until) return h.held;
    return is_edited(h) ? *h.shown : program_value(h.program, *h.clock);
  }
  if (h.tensor != nullptr) return number_at(h.tensor, h.tensor_dtype);
  const int32_t at = group * kMaxHyperparameters + k;
#pragma unroll 1
  for (int32_t e = 0; e < header.n_pending; ++e) {
    if (header.pending[e].at == at) return header.pending[e].value;
  }
  return header.values[at];
}

// Shows the values at the present clocks, `stride` threads together. What was edited stays as it is from now on.
__device__ __forceinline__ void show_programs(Group* groups, int32_t n_groups, int32_t* past_horizon, int32_t first,
                                              int32_t stride) {
#pragma unroll 1
  for (int32_t item = first; item < n_groups * kMaxHyperparameters; item += stride) {
    Hyperparameter& h = groups[item / kMaxHyperparameters].hyperparameters[item % kMaxHyperparameters];
    if (h.program == nullptr) continue;
    if (is_edited(h)) {
      h.edited = true;
      continue;
    }
    const int64_t clock = *h.clock;
    if (is_past(h.program, clock)) *past_horizon = 1;
    if (h.shown == nullptr) continue;
    h.written = program_value(h.program, clock);
    *h.shown = h.written;
  }
}

}  // namespace fs_cuda
