// SPDX-License-Identifier: Apache-2.0
// Devices, streams and their capture, and the functions by which tests steer them. A launch on a stream that is being
// recorded is kept, with its arguments as they were, and runs when the recording is replayed.
#include <cstring>
#include <map>
#include <new>
#include <set>
#include <vector>

#include "machine.h"

struct EmulatedStream {};

namespace {

struct Node {
  dim3 grid, block;
  size_t shared_bytes;
  std::function<void()> thread;
};

using Graph = std::vector<Node>;

std::map<cudaStream_t, Graph> recordings;
std::map<int64_t, Graph> graphs;
std::set<const void*> loaded;  // kernels: a driver loads each at its first use
int64_t next_graph = 1, launches = 0;
int multiprocessors = 3, driver = 13000;
thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;

cudaStream_t stream_of(uint64_t number) { return reinterpret_cast<cudaStream_t>(static_cast<uintptr_t>(number)); }

// What could wait for a stream that is being recorded is refused, unless the thread asked to be trusted.
cudaError_t forbidden_while_recording() {
  const bool trusted = capture_mode == cudaStreamCaptureModeRelaxed;
  return recordings.empty() || trusted ? cudaSuccess : cudaErrorStreamCaptureUnsupported;
}

}  // namespace

void emulation::load(const void* kernel) { loaded.insert(kernel); }

cudaError_t emulation::submit(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                              std::function<void()> thread) {
  const auto recording = recordings.find(stream);
  const bool first = loaded.insert(kernel).second;
  if (recording != recordings.end()) {
    if (first) return cudaErrorStreamCaptureUnsupported;  // as drivers before 12.3
    recording->second.push_back({grid, block, shared_bytes, std::move(thread)});
    return cudaSuccess;
  }
  ++launches;
  return run(grid, block, shared_bytes, thread);
}

extern "C" {

// `multiprocessors` of the pretended device, two blocks on each; `seed` of the order in which threads and blocks run.
void fs_emulation_configure(int new_multiprocessors, uint32_t seed) {
  multiprocessors = new_multiprocessors;
  emulation::seed(seed);
}

// Forgets which kernels were loaded.
void fs_emulation_unload() { loaded.clear(); }

void fs_emulation_set_driver(int version) { driver = version; }

void fs_emulation_break(int how) { emulation::broken = how; }

int fs_emulation_begin(uint64_t stream) { return recordings.try_emplace(stream_of(stream)).second ? 0 : -1; }

// The number of the recorded graph; -1 if the stream was not being recorded.
int64_t fs_emulation_end(uint64_t stream) {
  const auto recording = recordings.find(stream_of(stream));
  if (recording == recordings.end()) return -1;
  graphs[next_graph] = std::move(recording->second);
  recordings.erase(recording);
  return next_graph++;
}

// 0, or a cudaError_t, or -1 if there is no such graph.
int fs_emulation_replay(int64_t graph) {
  const auto found = graphs.find(graph);
  if (found == graphs.end()) return -1;
  for (const Node& node : found->second) {
    ++launches;
    const cudaError_t error = emulation::run(node.grid, node.block, node.shared_bytes, node.thread);
    if (error != cudaSuccess) return error;
  }
  return 0;
}

int64_t fs_emulation_nodes(int64_t graph) {
  const auto found = graphs.find(graph);
  return found == graphs.end() ? -1 : static_cast<int64_t>(found->second.size());
}

void fs_emulation_forget(int64_t graph) { graphs.erase(graph); }

// Kernels run so far, replayed ones included.
int64_t fs_emulation_launches() { return launches; }

}  // extern "C"

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorLaunchFailure: return "unspecified launch failure: some threads of a block missed a barrier";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
  }
  return "unrecognized error code";
}

cudaError_t emulated_occupancy(int* blocks, int, size_t) {
  *blocks = 2;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = driver;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = multiprocessors;
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = recordings.count(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, capture_mode);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new EmulatedStream;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) { return forbidden_while_recording(); }

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  const cudaError_t error = forbidden_while_recording();
  if (error == cudaSuccess) *memory = ::operator new(bytes, std::align_val_t{256});
  return error;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  const cudaError_t error = recordings.count(stream) ? cudaErrorStreamCaptureUnsupported : forbidden_while_recording();
  if (error == cudaSuccess) std::memcpy(to, from, bytes);
  return error;
}
