// SPDX-License-Identifier: Apache-2.0
// Hyperparameters as the kernel sees them: what a slot is worth now, and what is shown after a step.
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
__device__ __forceinline__ bool is_edited(const Slot& slot) {
  if (slot.edited) return true;
  return slot.shown != nullptr && slot.written == slot.written && *slot.shown != slot.written;
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

__device__ __forceinline__ double slot_value(const Header& header, int32_t group, int32_t k) {
  const Slot& slot = header.groups[group].slots[k];
  if (slot.program != nullptr) {
    if (*slot.clock < slot.held_until) return slot.held;
    return is_edited(slot) ? *slot.shown : program_value(slot.program, *slot.clock);
  }
  if (slot.tensor != nullptr) return number_at(slot.tensor, slot.tensor_dtype);
  const int32_t at = group * kMaxSlots + k;
#pragma unroll 1
  for (int32_t e = 0; e < header.n_edits; ++e) {
    if (header.edits[e].at == at) return header.edits[e].value;
  }
  return header.values[at];
}

// Shows the values at the present clocks, `stride` threads together. What was edited stays as it is from now on.
__device__ __forceinline__ void show_programs(Group* groups, int32_t n_groups, int32_t* past_horizon, int32_t first,
                                              int32_t stride) {
#pragma unroll 1
  for (int32_t item = first; item < n_groups * kMaxSlots; item += stride) {
    Slot& slot = groups[item / kMaxSlots].slots[item % kMaxSlots];
    if (slot.program == nullptr) continue;
    if (is_edited(slot)) {
      slot.edited = true;
      continue;
    }
    const int64_t clock = *slot.clock;
    if (is_past(slot.program, clock)) *past_horizon = 1;
    if (slot.shown == nullptr) continue;
    slot.written = program_value(slot.program, clock);
    *slot.shown = slot.written;
  }
}

}  // namespace fs_cuda
