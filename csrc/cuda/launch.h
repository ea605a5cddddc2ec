// SPDX-License-Identifier: Apache-2.0
// What the plan hands to the CUDA kernels: tables in device memory, and the arguments of one launch. Free of torch and
// of CUDA's headers; the one header that both sides of the border include.
//
// Three lifetimes. Arrays and groups stay until something moves, in device memory. The addresses of the gradients come
// by value in the launch arguments: they may change at each step without a copy, and a captured graph keeps its own.
// Clocks and counts are advanced by the kernel itself.
#pragma once

#include <cstdint>

#include "../core/array.h"
#include "../core/edit.h"
#include "../core/rules.h"

namespace fs_cuda {

using fs::Array, fs::DType, fs::EditRule, fs::kClocks, fs::kSamples, fs::kSkipped, fs::kTokens, fs::kUpdates;
using fs::kMaxHyperparameters, fs::kVariants;

// Where the kernel reads a hyperparameter: from a tensor with one element, written by user code, by a native schedule or
// by anything else; null: from Group::values.
struct Hyperparameter {
  const void* tensor;
  DType tensor_dtype;
};

struct Group {
  double* values;         // the group's row in the table of hyperparameters (runtime/hyperparameters.py)
  Hyperparameter hyperparameters[kMaxHyperparameters];  // in the order of the family's Hyper
};

// A number of the host that Group::values does not hold yet. The kernel reads it in place of that one; the last block
// of the step's last launch stores it there.
struct PendingValue {
  int32_t at;  // group * kMaxHyperparameters + k
  int32_t reserved;
  double value;
};

// A native schedule. `place` holds its value for the next update: the kernel reads it there as any other tensor, and
// whatever advances the clock evaluates the program again.
struct NativeSchedule {
  const double* program;  // core/schedule.h; null: the schedule was replaced
  const int64_t* clock;
  double* place;          // one element, visible to the user
  double written;         // what was last stored in `place`; another number there is an edit. NaN: nothing was stored
  int64_t edited;         // 1: an edit was found, and `place` is left alone
};

// Both in device memory, so that a captured graph reads schedules that are put there later.
struct NativeSchedules {
  const int64_t* n;
  NativeSchedule* list;
};

// Where a block begins: block b works from starts[b] up to starts[b + 1], tile after tile; the first one at the first
// tile of the first array. Arrays without tiles belong to the block before, so that each array that lies in one share
// has a block that counts its updates.
struct Start {
  int32_t array, tile;
};

#if defined(FS_SMALL_ARGUMENTS)  // CUDA before 12.1
constexpr int kArgumentBytes = 4096, kMaxBlocks = 256, kMaxPending = 16, kOldestDriver = 0;
#else
constexpr int kArgumentBytes = 32764, kMaxBlocks = 640, kMaxPending = 64, kOldestDriver = 12010;
#endif

struct Header {
  const Array* arrays;
  const Group* groups;
  NativeSchedules schedules;
  int64_t* clocks;          // kClocks of them
  uint32_t* ticket;         // zero between launches
  int32_t* past_horizon;    // set to 1 when a program is past its horizon; memory that the host can read
  const float* grad_scale;  // the gradients are divided by it, in memory too; or null
  const float* found_inf;   // not zero: change nothing; or null
  int32_t n_groups, n_pending;
  bool last;                // of this step's launches: it advances the clocks
  PendingValue pending[kMaxPending];
  Start starts[kMaxBlocks + 1];
};

constexpr int kMaxGrads = (kArgumentBytes - sizeof(Header)) / sizeof(void*);

// Arguments of a launch, passed by value. grads[i] belongs to arrays[i]. A number below kFirstAddress is no address:
// arrays[i] has no gradient, nor have those after it, so many in all; a kernel passes over them at once.
constexpr uintptr_t kFirstAddress = 1 << 16;

struct Launch : Header {
  void* grads[kMaxGrads];
};
static_assert(sizeof(Launch) <= kArgumentBytes, "CUDA refuses more");

// Elements per tile: a block takes them one at a time.
constexpr int64_t kTile = 4096;

// What a drop-in scheduler writes (schedule.cu): places of the table of hyperparameters, or tensors of any optimizer. The
// rows are eight words of eight bytes each, which Triton's kernel reads as well. core/edit.h says how an edit is
// continued. The last rule of a target ends at infinity.
struct ScheduledTarget {
  const double* program;
  void* tensor;            // one element
  const EditRule* rules;
  int64_t dtype;           // fs::DType
  double written;          // what the tensor holds since the last launch. NaN: whatever it holds is no edit
  double gain, shift, until;
};
static_assert(sizeof(ScheduledTarget) == 64, "eight words");

// Arguments of one launch: a step of the scheduler, from *clock to *clock + 1.
struct DeviceSchedule {
  ScheduledTarget* targets;
  int64_t* clock;
  const int64_t* updates;  // the optimizer's clock, or null: no step if it is what it was at the last one
  int64_t* seen;           // what it was then
  int32_t* past_horizon;   // as in Header
  int32_t n_targets;
};

// Bytes from the host to the device.
struct HostCopy {
  void* to;
  const void* from;
  uint64_t bytes;
};

// What a device can do for the plan: always the current one. The callers make it current with torch's guard, which
// leaves devices that this process does not use without a context (cudaSetDevice would create one). `rule` is fs::Rule,
// `variant` a storage variant (fs::kVariants of them). Functions return null or CUDA's words for what went wrong. Streams
// are cudaStream_t as numbers.
struct Runtime {
  const char* name;                                     // "cuda", or what stands in for it
  // Loads all kernels but those of the step, which `blocks` loads: a driver may refuse to load one in a capture.
  const char* (*load)();
  const char* (*blocks)(int rule, int variant, int* blocks);  // as many as run at once, at most kMaxBlocks
  const char* (*step)(uint64_t stream, int rule, int variant, int blocks, const Launch& launch);
  // Adds `by` to *clock.
  const char* (*advance)(uint64_t stream, int64_t* clock, int64_t by);
  // Adds the number on the device that `by` points to, int64 if `wide`, else int32. A negative one adds nothing and
  // sets *negative to 1, memory that the host can read.
  const char* (*advance_by)(uint64_t stream, int64_t* clock, const void* by, bool wide,
                            int32_t* negative);
  // Evaluates native schedules at the present clocks and stores their values, edited ones excepted. `most`: how many
  // there are, as the host knows it.
  const char* (*write_current)(uint64_t stream, const NativeSchedules& schedules, int most,
                               int32_t* past_horizon);
  // Stores `n` values, in device memory, where they belong.
  const char* (*store)(uint64_t stream, const Group* groups, const PendingValue* values, int n);
  // Writes the row of telemetry (core/telemetry.h) that belongs to the step that is launched next with this header.
  const char* (*record)(uint64_t stream, const Header& header, double* ring, int64_t rows);
  const char* (*capturing)(uint64_t stream, bool* capturing);
  // Copies from the host at once and waits for it, also while a stream is being captured: on a stream of its own, in
  // relaxed capture mode. Nothing of it becomes part of a graph. It overtakes what waits in other streams: only for
  // captures, before which the device is idle.
  const char* (*write)(const HostCopy* copies, int n);
  // One step of a drop-in scheduler.
  const char* (*schedule)(uint64_t stream, const DeviceSchedule& schedule);
  // Decides by a metric, one number in memory, and writes the learning rates. `table`: see core/metric.h.
  const char* (*observe)(uint64_t stream, double* table, const void* metric, DType dtype);
  // Memory that is never freed, also while a stream is being captured.
  const char* (*allocate)(uint64_t bytes, void** result);
};

}  // namespace fs_cuda

// csrc/cuda/runtime.cu.
extern "C" const fs_cuda::Runtime* fs_cuda_runtime();
