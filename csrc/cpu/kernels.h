// SPDX-License-Identifier: Apache-2.0
// What the plan hands to the CPU kernels. Free of torch; the one header that both sides of the border include.
#pragma once

#include <cstdint>

namespace fs_cpu {

enum class DType : uint8_t { kFloat32, kFloat64, kBFloat16, kFloat16 };

// One parameter in one step. All arrays have the same element order.
struct Span {
  void* param;
  const void* grad;
  void* state[3];
  int64_t numel;
  int32_t scalars;  // index of its scalars
  uint8_t rule;
  DType param_dtype, grad_dtype;
  DType state_dtype[3];
};

using Kernel = void (*)(const Span& span, int64_t begin, int64_t end, const double* scalars);

constexpr int kMaxRules = 16;

// Columns of the table: all arrays of one DType (its number), or mixed and computed in float32 or float64.
constexpr int kMixedFloat32 = 4, kMixedFloat64 = 5, kLoops = 6;

struct Kernels {
  const char* isa;
  Kernel kernel[kMaxRules][kLoops];
};

// The best kernels that this processor runs, or the ones named by the environment variable FUSEDSCHED_ISA.
const Kernels& kernels();

}  // namespace fs_cpu
