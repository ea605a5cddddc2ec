// SPDX-License-Identifier: Apache-2.0
// What the plan hands to the CPU kernels. Free of torch; the one header that both sides of the border include.
#pragma once

#include <cstdint>

#include "../core/array.h"

namespace fs_cpu {

using fs::Array, fs::DType, fs::kVariants, fs::kMixedFloat32, fs::kMixedFloat64;

constexpr int64_t kLine = 64;    // bytes of a cache line
constexpr int64_t kAhead = 1280;  // bytes; how far before their use lines are asked for

// Updates the elements from begin to end of an array.
using Kernel = void (*)(const Array& array, int64_t begin, int64_t end, const double* scalars);

constexpr int kMaxRules = 16;

struct Kernels {
  const char* isa;
  Kernel kernel[kMaxRules][kVariants];
};

// The best kernels that this processor runs, or the ones named by the environment variable FUSEDSCHED_ISA.
const Kernels& kernels();

}  // namespace fs_cpu
