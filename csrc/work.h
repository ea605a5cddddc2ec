// SPDX-License-Identifier: Apache-2.0
// What one step does: spans for the kernels, their scalars, and the copies that have to live until it is done.
#pragma once

#include <torch/extension.h>

#include <optional>
#include <vector>

#include "plan.h"

namespace fs {

// The kernels' dtype, complex numbers being pairs of real ones.
inline std::optional<fs_cpu::DType> dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat: case at::kComplexFloat: return fs_cpu::DType::kFloat32;
    case at::kDouble: case at::kComplexDouble: return fs_cpu::DType::kFloat64;
    case at::kBFloat16: return fs_cpu::DType::kBFloat16;
    case at::kHalf: case at::kComplexHalf: return fs_cpu::DType::kFloat16;
    default: return std::nullopt;
  }
}

struct Plan::Work {
  std::vector<Entry*> entries;          // the parameters that have a gradient
  std::vector<double> scalars;          // kMaxScalars each, shared by the entries of one group at one step
  std::vector<int64_t> unit_ends;       // running sum of the entries' work units
  std::vector<at::Tensor> copies;       // gradients laid out anew
  std::vector<std::pair<Entry*, at::Tensor>> gathered;  // dense copies of parameters with gaps

  void clear() {
    entries.clear();
    scalars.clear();
    unit_ends.clear();
    copies.clear();
    gathered.clear();
  }
};

}  // namespace fs
