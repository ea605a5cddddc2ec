// SPDX-License-Identifier: Apache-2.0
// Hyperparameters as the kernels read them, and the values of native schedules for the next update.
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
  const Group& row = header.groups[group];
  if (row.hyperparameters[k].tensor != nullptr) return number_at(row.hyperparameters[k].tensor, row.hyperparameters[k].tensor_dtype);
  const int32_t at = group * kMaxHyperparameters + k;
#pragma unroll 1
  for (int32_t p = 0; p < header.n_pending; ++p) {
    if (header.pending[p].at == at) return header.pending[p].value;
  }
  return row.values[k];
}

__device__ __forceinline__ void store_value(const Group* groups, const PendingValue& pending) {
  groups[pending.at / kMaxHyperparameters].values[pending.at % kMaxHyperparameters] = pending.value;
}

// Evaluates one native schedule at its present clock. An edited place is left alone from now on.
__device__ __forceinline__ void write_current(NativeSchedule& schedule, int32_t* past_horizon) {
  if (schedule.program == nullptr || schedule.edited) return;
  if (schedule.written == schedule.written && *schedule.place != schedule.written) {
    schedule.edited = 1;
    return;
  }
  const int64_t clock = *schedule.clock;
  if (is_past(schedule.program, clock)) *past_horizon = 1;
  schedule.written = program_value(schedule.program, clock);
  *schedule.place = schedule.written;
}

}  // namespace fs_cuda
