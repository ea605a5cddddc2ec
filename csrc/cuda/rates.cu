// SPDX-License-Identifier: Apache-2.0
// One step of a scheduler that writes tensors: all rates of all groups, and its counter. launch.h has the tables.
#include <cuda_runtime.h>

#include "kernels.cuh"
#include "slots.cuh"
#include "tuning.h"

namespace fs_cuda {

namespace {

__device__ __forceinline__ const Piece& piece_at(const Piece* piece, double clock) {
#pragma unroll 1
  while (clock >= piece->end) ++piece;
  return *piece;
}

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

// What an edit changes: `found` stands where the program has `value`, at a clock of this piece.
__device__ __forceinline__ void carry_edit(Rate& rate, const Piece& piece, double clock, double value, double found) {
  const double above = found - piece.pivot, height = value - piece.pivot;
  const auto carry = static_cast<int64_t>(piece.carry);
  double until = piece.end;
  if (carry == kDiscard) return;
  if (carry == kWave) {
    const double passed = fs::fmod(clock - piece.low, piece.turn), next = clock - passed + piece.turn;
    if (next < until) until = next;
    rate.gain = passed == 0.0 ? 1.0 + above * piece.kick : above / height;
  } else if (height != 0.0) {
    rate.gain = above / height;
    rate.shift = 0.0;
  } else if (carry == kHold) {
    rate.shift = above;
  } else {
    return;
  }
  rate.until = until;
}

__device__ __forceinline__ void step_rate(Rate& rate, int64_t clock, int32_t* past_horizon) {
  const auto dtype = static_cast<DType>(rate.dtype);
  const double found = number_at(rate.tensor, dtype);
  const bool edited = rate.written == rate.written && found != rate.written;
  double value = 0.0, pivot = 0.0;
  // At the clock of the edit, then at the next one: in a loop, since the evaluator's code is long.
#pragma unroll 1
  for (int64_t at = edited ? clock : clock + 1; at <= clock + 1; ++at) {
    const Piece& piece = piece_at(rate.pieces, static_cast<double>(at));
    value = program_value(rate.program, at);
    pivot = piece.pivot;
    if (at == clock) carry_edit(rate, piece, static_cast<double>(at), value, found);
  }
  if (static_cast<double>(clock + 1) >= rate.until) {
    rate.gain = 1.0;
    rate.shift = 0.0;
  }
  if (rate.gain != 1.0 || rate.shift != 0.0) value = pivot + rate.gain * (value - pivot) + rate.shift;
  if (is_past(rate.program, clock + 1)) *past_horizon = 1;
  rate.written = store_number(rate.tensor, dtype, value);
}

}  // namespace

__global__ void __launch_bounds__(kSmallThreads) rates_kernel(Rates args) {
  const int64_t clock = *args.clock;
  const int64_t updates = args.updates == nullptr ? 0 : *args.updates;
  const bool held = args.updates != nullptr && updates == *args.seen;
  __syncthreads();  // all have read what the first is about to change
  if (held) return;
#pragma unroll 1
  for (int32_t i = threadIdx.x; i < args.n_rates; i += kSmallThreads) step_rate(args.rates[i], clock, args.past_horizon);
  if (threadIdx.x != 0) return;
  *args.clock = clock + 1;
  if (args.updates != nullptr) *args.seen = updates;
}

}  // namespace fs_cuda
