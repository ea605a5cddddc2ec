// SPDX-License-Identifier: Apache-2.0
// One step of a drop-in scheduler: all targets of all groups, and its counter. launch.h has the tables.
#include <cuda_runtime.h>

#include "kernels.cuh"
#include "hyperparameters.cuh"
#include "tuning.h"

namespace fs_cuda {

namespace {

// Stores a number as the tensor keeps it, and says what it became.
__device__ __forceinline__ double store_number(void* tensor, DType dtype, double value) {
  switch (dtype) {
    case DType::kFloat32: *static_cast<float*>(tensor) = static_cast<float>(value); break;
    case DType::kFloat64: *static_cast<double*>(tensor) = value; break;
    case DType::kBFloat16: fs::from_compute(value, *static_cast<fs::BFloat16*>(tensor)); break;
    case DType::kFloat16: fs::from_compute(value, *static_cast<fs::Float16*>(tensor)); break;
  }
  return number_at(tensor, dtype);
}

__device__ __forceinline__ bool is_edited(const ScheduledTarget& target) {
  return target.written == target.written &&
         number_at(target.tensor, static_cast<DType>(target.dtype)) != target.written;
}

// What follows an evaluation, at a clock whose value it gave: the first is that of an edit, the last that of the step.
__device__ __forceinline__ void use_value(ScheduledTarget& target, double clock, bool last, double value) {
  const auto dtype = static_cast<DType>(target.dtype);
  const EditRule& rule = fs::rule_at(target.rules, clock);
  fs::Edit edit = {target.gain, target.shift, target.until};
  if (!last) {
    edit = fs::edited(edit, rule, clock, value, number_at(target.tensor, dtype));
  } else if (clock >= edit.until) {
    edit.gain = 1.0;
    edit.shift = 0.0;
  }
  target.gain = edit.gain;
  target.shift = edit.shift;
  target.until = edit.until;
  if (!last) return;
  value = fs::apply(edit, rule, clock, value);
  target.written = store_number(target.tensor, dtype, value);
}

}  // namespace

__global__ void __launch_bounds__(kSmallThreads) schedule_kernel(DeviceSchedule args) {
  if (args.updates != nullptr && *args.updates == *args.seen) return;  // all threads: `seen` changes after the barrier
  // Two evaluations for each target: at the clock of an edit, which is left out without one, and at the next clock. One
  // evaluator does both, since its code is long; what is needed after it is loaded after it: nothing is kept across its
  // calls.
#pragma unroll 1
  for (int32_t i = 2 * threadIdx.x; i < 2 * args.n_targets; i += i % 2 ? 2 * kSmallThreads - 1 : 1) {
    if (i % 2 == 0 && !is_edited(args.targets[i / 2])) ++i;
    const double value = program_value(args.targets[i / 2].program, *args.clock + i % 2);
    use_value(args.targets[i / 2], static_cast<double>(*args.clock + i % 2), i % 2 == 1, value);
    if (i % 2 == 1 && is_past(args.targets[i / 2].program, *args.clock + 1)) *args.past_horizon = 1;
  }
  __syncthreads();  // all have read what the first is about to change
  if (threadIdx.x != 0) return;
  *args.clock += 1;
  if (args.updates != nullptr) *args.seen = *args.updates;
}

}  // namespace fs_cuda
