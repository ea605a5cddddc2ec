// SPDX-License-Identifier: Apache-2.0
// How numbers are stored, and which variant of a kernel serves a mixture of them. One list for all kernels.
#pragma once

#include <cstdint>

namespace fs {

enum class DType : uint8_t { kFloat32, kFloat64, kBFloat16, kFloat16 };

constexpr int size_of(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

// Storage variants: all arrays of one DType (its number), or mixed and computed in float32 or float64.
constexpr int kMixedFloat32 = 4, kMixedFloat64 = 5, kVariants = 6;

}  // namespace fs
