// SPDX-License-Identifier: Apache-2.0
// Launches, and the little else that the plan wants of a device: launch.h has the list.
#include <cuda_runtime.h>

#include "kernels.cuh"
#include "hyperparameters.cuh"
#include "tuning.h"

#ifndef FS_RUNTIME_NAME
#define FS_RUNTIME_NAME "cuda"
#endif

namespace fs_cuda {

namespace {

__global__ void advance_kernel(int64_t* clock, int64_t by) { *clock += by; }

__global__ void advance_by_kernel(int64_t* clock, const void* by, bool wide, int32_t* negative) {
  const int64_t amount = wide ? *static_cast<const int64_t*>(by) : *static_cast<const int32_t*>(by);
  if (amount < 0) {
    *negative = 1;
  } else {
    *clock += amount;
  }
}

__global__ void __launch_bounds__(kSmallThreads) write_current_kernel(NativeSchedules schedules,
                                                                      int32_t* past_horizon) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kSmallThreads + threadIdx.x;
  if (i < *schedules.n) write_current(schedules.list[i], past_horizon);
}

__global__ void __launch_bounds__(kSmallThreads) store_kernel(const Group* groups, const PendingValue* values,
                                                              int32_t n) {
#pragma unroll 1
  for (int32_t i = threadIdx.x; i < n; i += kSmallThreads) store_value(groups, values[i]);
}

const StepKernels& kernels_of(int variant) {
  static const StepKernels* const tables[kVariants] = {&step_kernels_0, &step_kernels_1, &step_kernels_2,
                                                    &step_kernels_3, &step_kernels_4, &step_kernels_5};
  return *tables[variant];
}

const char* words(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

cudaStream_t stream_of(uint64_t number) { return reinterpret_cast<cudaStream_t>(static_cast<uintptr_t>(number)); }

template <class Kernel>
const char* launch_on(uint64_t stream, Kernel kernel, int blocks, int threads, void** arguments, int shared_bytes = 0) {
  return words(cudaLaunchKernel(kernel, dim3(blocks), dim3(threads), arguments, shared_bytes, stream_of(stream)));
}

template <class... Kernels>
cudaError_t load_all(Kernels... kernels) {
  cudaFuncAttributes attributes;
  cudaError_t error = cudaSuccess;
  ((error = error != cudaSuccess ? error : cudaFuncGetAttributes(&attributes, kernels)), ...);
  return error;
}

const char* load() {
  int driver = 0;
  const cudaError_t error = cudaDriverGetVersion(&driver);
  if (error != cudaSuccess) return words(error);
  if (driver < kOldestDriver) return "the driver is too old for these kernels: R530 or newer is needed";
  return words(load_all(advance_kernel, advance_by_kernel, write_current_kernel, store_kernel, record_kernel,
                        schedule_kernel, observe_kernel));
}

const char* blocks(int rule, int variant, int* result) {
  int device = 0, multiprocessors = 0, resident = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) {
    const StepKernels& kernels = kernels_of(variant);
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernels.kernel[rule], kThreads,
                                                          kernels.shared_bytes[rule]);
  }
  const int64_t most = static_cast<int64_t>(multiprocessors) * resident;
  *result = static_cast<int>(most < 1 ? 1 : most > kMaxBlocks ? kMaxBlocks : most);
  return words(error);
}

const char* step(uint64_t stream, int rule, int variant, int blocks, const Launch& launch) {
  const StepKernels& kernels = kernels_of(variant);
  void* arguments[] = {const_cast<Launch*>(&launch)};
  return launch_on(stream, kernels.kernel[rule], blocks, kThreads, arguments, kernels.shared_bytes[rule]);
}

const char* advance(uint64_t stream, int64_t* clock, int64_t by) {
  void* arguments[] = {&clock, &by};
  return launch_on(stream, advance_kernel, 1, 1, arguments);
}

const char* advance_by(uint64_t stream, int64_t* clock, const void* by, bool wide, int32_t* negative) {
  void* arguments[] = {&clock, &by, &wide, &negative};
  return launch_on(stream, advance_by_kernel, 1, 1, arguments);
}

const char* schedule(uint64_t stream, const DeviceSchedule& schedule) {
  void* arguments[] = {const_cast<DeviceSchedule*>(&schedule)};
  return launch_on(stream, schedule_kernel, 1, kSmallThreads, arguments);
}

const char* write_current_values(uint64_t stream, const NativeSchedules& schedules, int most,
                                 int32_t* past_horizon) {
  const int blocks = (most + kSmallThreads - 1) / kSmallThreads;
  void* arguments[] = {const_cast<NativeSchedules*>(&schedules), &past_horizon};
  return blocks == 0 ? nullptr : launch_on(stream, write_current_kernel, blocks, kSmallThreads, arguments);
}

const char* store(uint64_t stream, const Group* groups, const PendingValue* values, int n) {
  void* arguments[] = {&groups, &values, &n};
  return launch_on(stream, store_kernel, 1, kSmallThreads, arguments);
}

const char* record_row(uint64_t stream, const Header& header, double* ring, int64_t rows) {
  void* arguments[] = {const_cast<Header*>(&header), &ring, &rows};
  return launch_on(stream, record_kernel, 1, kSmallThreads, arguments);
}

const char* capturing(uint64_t stream, bool* result) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(stream_of(stream), &status);
  *result = status != cudaStreamCaptureStatusNone;
  return words(error);
}

// While it lives, this thread may call what a capture on one of its streams would forbid and be spoilt by.
class Relaxed {
 public:
  Relaxed() : error(cudaThreadExchangeStreamCaptureMode(&mode_)) {}
  ~Relaxed() {
    if (error == cudaSuccess) cudaThreadExchangeStreamCaptureMode(&mode_);
  }
  Relaxed(const Relaxed&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;  // then what it was before

 public:
  cudaError_t error;
};

// A stream of its own that waits for no other, and that no capture sees.
const char* write(const HostCopy* copies, int n) {
  const Relaxed relaxed;
  if (relaxed.error != cudaSuccess) return words(relaxed.error);
  cudaStream_t stream = nullptr;
  cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error != cudaSuccess) return words(error);
  for (int i = 0; i < n && error == cudaSuccess; ++i) {
    error = cudaMemcpyAsync(copies[i].to, copies[i].from, copies[i].bytes, cudaMemcpyHostToDevice, stream);
  }
  const cudaError_t waited = cudaStreamSynchronize(stream);
  if (error == cudaSuccess) error = waited;
  cudaStreamDestroy(stream);
  return words(error);
}

const char* allocate(uint64_t bytes, void** result) {
  const Relaxed relaxed;
  return words(relaxed.error != cudaSuccess ? relaxed.error : cudaMalloc(result, bytes));
}

const char* observe(uint64_t stream, double* table, const void* metric, DType dtype) {
  void* arguments[] = {&table, &metric, &dtype};
  return launch_on(stream, observe_kernel, 1, kSmallThreads, arguments);
}

constexpr Runtime kRuntime = {FS_RUNTIME_NAME, load,      blocks,  step,  advance,  advance_by, write_current_values,
                              store,           record_row, capturing, write, schedule, observe,    allocate};

}  // namespace

}  // namespace fs_cuda

extern "C" const fs_cuda::Runtime* fs_cuda_runtime() { return &fs_cuda::kRuntime; }
