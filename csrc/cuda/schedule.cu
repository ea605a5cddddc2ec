// SPDX-License-Identifier: Apache-2.0
// One step of a scheduler that writes tensors: all rates of all groups, and its counter. launch.h has the tables.
#include <cuda_runtime.h>

#include "kernels.cuh"
#include "hyperparameters.cuh"
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
    const double since = clock - piece.low;  // whole numbers, as a turn is: the remainder is exact
    const double passed = since - fs::floor(since / piece.turn) * piece.turn, next = clock - passed + piece.turn;
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

__device__ __forceinline__ bool is_edited(const Rate& rate) {
  return rate.written == rate.written && number_at(rate.tensor, static_cast<DType>(rate.dtype)) != rate.written;
}

// What follows an evaluation, at a clock whose value it gave: the first is that of an edit, the last that of the step.
__device__ __forceinline__ void use_value(Rate& rate, double clock, bool last, double value) {
  const auto dtype = static_cast<DType>(rate.dtype);
  const Piece& piece = piece_at(rate.pieces, clock);
  if (!last) return carry_edit(rate, piece, clock, value, number_at(rate.tensor, dtype));
  if (clock >= rate.until) {
    rate.gain = 1.0;
    rate.shift = 0.0;
  }
  if (rate.gain != 1.0 || rate.shift != 0.0) value = piece.pivot + rate.gain * (value - piece.pivot) + rate.shift;
  rate.written = store_number(rate.tensor, dtype, value);
}

}  // namespace

__global__ void __launch_bounds__(kSmallThreads) rates_kernel(Rates args) {
  const bool held = args.updates != nullptr && *args.updates == *args.seen;
  // Two turns for each rate: at the clock of an edit, which is left out without one, and at the next. One evaluator
  // does both, since its code is long; what is needed after it is loaded after it: nothing is kept across its calls.
#pragma unroll 1
  for (int32_t turn = 2 * threadIdx.x; turn < 2 * args.n_rates && !held; turn += turn % 2 ? 2 * kSmallThreads - 1 : 1) {
    if (turn % 2 == 0 && !is_edited(args.rates[turn / 2])) ++turn;
    const double value = program_value(args.rates[turn / 2].program, *args.clock + turn % 2);
    use_value(args.rates[turn / 2], static_cast<double>(*args.clock + turn % 2), turn % 2 == 1, value);
    if (turn % 2 == 1 && is_past(args.rates[turn / 2].program, *args.clock + 1)) *args.past_horizon = 1;
  }
  __syncthreads();  // all have read what the first is about to change
  if (threadIdx.x != 0 || held) return;
  *args.clock += 1;
  if (args.updates != nullptr) *args.seen = *args.updates;
}

}  // namespace fs_cuda
