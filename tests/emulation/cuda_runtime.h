// SPDX-License-Identifier: Apache-2.0
// A stand-in for CUDA's header: the kernels' sources, unchanged, become plain C++. Device memory is host memory; grid.cpp
// runs the threads of a grid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <tuple>

#define __host__
#define __device__
#define __global__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) uint2 { uint32_t x, y; };
struct uint3 { uint32_t x, y, z; };
struct dim3 {
  uint32_t x, y, z;
  dim3(uint32_t x = 1, uint32_t y = 1, uint32_t z = 1) : x(x), y(y), z(z) {}
};

inline uint3 threadIdx, blockIdx;  // of the thread that has its turn
inline dim3 blockDim, gridDim;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900
};
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };
constexpr unsigned cudaStreamNonBlocking = 1;
using cudaStream_t = struct EmulatedStream*;

namespace emulation {

// Ways to break this machine on purpose, to show that the laws notice.
enum Broken : int { kSound, kFourthBarrierMissing, kFirstBlockIsLast };
inline int broken = kSound;

void barrier();
cudaError_t submit(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                   std::function<void()> thread);
void load(const void* kernel);

}  // namespace emulation

inline void __syncthreads() { emulation::barrier(); }
inline void __threadfence() {}
inline uint32_t atomicAdd(uint32_t* address, uint32_t value) {
  const uint32_t before = *address;
  *address = before + value;
  return emulation::broken == emulation::kFirstBlockIsLast ? gridDim.x - 1 - before : before;
}

template <class... Arguments>
cudaError_t cudaLaunchKernel(void (*kernel)(Arguments...), dim3 grid, dim3 block, void** arguments, size_t shared_bytes,
                             cudaStream_t stream) {
  auto copies = [&]<size_t... i>(std::index_sequence<i...>) {
    return std::make_shared<std::tuple<Arguments...>>(*static_cast<Arguments*>(arguments[i])...);
  }(std::index_sequence_for<Arguments...>());
  return emulation::submit(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes, stream,
                           [kernel, copies] { std::apply(kernel, *copies); });
}

cudaError_t emulated_occupancy(int* blocks, int threads, size_t shared_bytes);
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel kernel, int threads, size_t shared_bytes) {
  emulation::load(reinterpret_cast<const void*>(kernel));
  return emulated_occupancy(blocks, threads, shared_bytes);
}

struct cudaFuncAttributes {};
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel kernel) {
  emulation::load(reinterpret_cast<const void*>(kernel));
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaDriverGetVersion(int* version);
// There is no cudaSetDevice: it would create a context on a device that the process does not use.
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaMalloc(void** memory, size_t bytes);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
