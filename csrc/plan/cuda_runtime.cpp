// SPDX-License-Identifier: Apache-2.0
// Where the kernels come from: built in, or an emulation that tests load in their place.
#include <dlfcn.h>

#include "plan/cuda_batch.h"

namespace fs {

namespace {

const fs_cuda::Runtime*& chosen() {
#if defined(FUSEDSCHED_CUDA)
  static const fs_cuda::Runtime* runtime = fs_cuda_runtime();
#else
  static const fs_cuda::Runtime* runtime = nullptr;
#endif
  return runtime;
}

}  // namespace

const fs_cuda::Runtime* cuda_runtime() { return chosen(); }

at::Tensor beside_graphs(at::Device device, at::IntArrayRef sizes, at::ScalarType type) {
  void* memory = nullptr;
  const uint64_t bytes = c10::multiply_integers(sizes) * c10::elementSize(type);
  call_on(device, cuda_runtime()->allocate, bytes, &memory);
  return tensor_over(memory, sizes, type, device);
}

void emulate_cuda(const std::string& library) {
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  TORCH_CHECK(handle != nullptr, "cannot load ", library, ": ", dlerror());
  void* found = dlsym(handle, "fs_cuda_runtime");
  TORCH_CHECK(found != nullptr, library, " has no function fs_cuda_runtime.");
  chosen() = reinterpret_cast<decltype(&fs_cuda_runtime)>(found)();
}

}  // namespace fs
