// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda_plan.h"

namespace fs {

// Arrays of one rule and one combination of types, as many as fit into the arguments of a launch.
struct CudaPlan::Part {
  Rule rule = kAdamW;
  int loop = 0, blocks = 1;
  int32_t present = 0;      // how many have a gradient
  std::vector<Entry*> members;
  at::Tensor arrays;        // their table, on the device
  fs_cuda::Launch launch{};
};

// CUDA's words, if something went wrong.
inline void check_cuda(const char* error) { TORCH_CHECK(error == nullptr, "CUDA: ", error); }

}  // namespace fs
