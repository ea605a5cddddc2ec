// SPDX-License-Identifier: Apache-2.0
// What the plan hands to the CPU kernels. Free of torch; the one header that both sides of the border include.
#pragma once

#include <cstdint>

#include "../core/dtype.h"

namespace fs_cpu {

using fs::DType, fs::kVariants, fs::kMixedFloat32, fs::kMixedFloat64;

constexpr int64_t kLine = 64;    // bytes of a cache line
constexpr int64_t kAhead = 1280;  // bytes; how far before their use lines are asked for

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

struct Kernels {
  const char* isa;
  Kernel kernel[kMaxRules][kVariants];
};

// The best kernels that this processor runs, or the ones named by the environment variable FUSEDSCHED_ISA.
const Kernels& kernels();

}  // namespace fs_cpu
