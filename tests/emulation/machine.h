// SPDX-License-Identifier: Apache-2.0
// What grid.cpp and streams.cpp know of each other.
#pragma once

#include "cuda_runtime.h"

namespace emulation {

cudaError_t run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread);
void seed(uint32_t seed);

}  // namespace emulation
