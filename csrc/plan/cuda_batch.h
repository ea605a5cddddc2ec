// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/DeviceGuard.h>

#include "plan/cuda_plan.h"

namespace fs {

// Arrays of one rule and one combination of types, as many as fit into the arguments of a launch.
struct CudaPlan::LaunchBatch {
  Rule rule = kAdamW;
  int variant = 0, blocks = 1;
  int32_t present = 0;      // how many have a gradient
  std::vector<Entry*> members;
  at::Tensor arrays;        // their table, on the device
  fs_cuda::Launch launch{};
};

// CUDA's words, if something went wrong.
inline void check_cuda(const char* error) { TORCH_CHECK(error == nullptr, "CUDA: ", error); }

// Calls a function of the runtime with `device` as the current one.
template <class Function, class... Arguments>
void call_on(at::Device device, Function function, Arguments&&... arguments) {
  const c10::DeviceGuard guard(device);
  check_cuda(function(std::forward<Arguments>(arguments)...));
}

// Memory for what is written at once while a graph is captured. torch would take it from the pool of that graph, where
// a temporary of the same capture may have lain before: each replay would write that one over it. It is never freed,
// since nobody says when the graph is gone.
at::Tensor beside_graphs(at::Device device, at::IntArrayRef sizes, at::ScalarType type);

}  // namespace fs
