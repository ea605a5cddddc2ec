// SPDX-License-Identifier: Apache-2.0
// A block's share of a step, batch by batch: which arrays come next, their scalars, their counts of updates.
#pragma once

#include "hyperparameters.cuh"
#include "memory.cuh"
#include "tuning.h"

namespace fs_cuda {

using namespace fs;  // where the rules are

namespace {

// What the threads of a block share. The numbers that every thread could hold for itself are here too: across the
// preparation of the scalars, which needs many registers, they would be spilled.
template <class R, class A>
struct Block {
  Array arrays[kBatch];
  typename R::template Scalars<A> scalars[kBatch];
  double hyper[kBatch][kMaxHyperparameters];
  double updates[kBatch];  // the number of this update of each array, 1 for its first
  double gain;             // gradients are multiplied by it
  Start start, stop;       // of the block's share
  int32_t first, n, end;   // the present batch; the end of all
  bool skipped, is_last;
};

__device__ __forceinline__ bool has_gradient(const void* grad) {
  return reinterpret_cast<uintptr_t>(grad) >= kFirstAddress;
}

__device__ __forceinline__ int64_t updates_of(const Array& array) {
  const int64_t count = *array.count;
  if (array.step == nullptr || static_cast<float>(count) == *array.step) return count;
  return static_cast<int64_t>(*array.step);
}

__device__ __forceinline__ void store_updates(const Array& array, int64_t updates) {
  *array.count = updates;
  if (array.step != nullptr) *array.step = static_cast<float>(updates);
}

// Whether the block has all of an array of its share.
template <class R, class A>
__device__ __forceinline__ bool is_alone(const Block<R, A>& block, int32_t array) {
  return (array > block.start.array || block.start.tile == 0) && array < block.stop.array;
}

template <class R, class A>
__device__ __forceinline__ typename R::template Scalars<A> rounded(const typename R::template Scalars<double>& wide) {
  using Scalars = typename R::template Scalars<A>;
  constexpr int kCount = sizeof(Scalars) / sizeof(A);
  double from[kCount];
  A to[kCount];
  __builtin_memcpy(from, &wide, sizeof from);
#pragma unroll
  for (int k = 0; k < kCount; ++k) to[k] = static_cast<A>(from[k]);
  Scalars scalars;
  __builtin_memcpy(&scalars, to, sizeof scalars);
  return scalars;
}

// Asks for the first tiles of the present batch, a line a thread: the arrays of a parameter one after the other.
template <class R, class A, class Arrays>
__device__ __forceinline__ void prefetch_tiles(const Launch& launch, const Block<R, A>& block) {
  int64_t before = 0;  // bytes of the arrays before
#pragma unroll 1
  for (int32_t i = 0; i < block.n && i < kPrefetchArrays; ++i) {
    void* const grad = launch.grads[block.first + i];
    if (!has_gradient(grad)) continue;
    const Array& array = block.arrays[i];
    const int64_t begin = (block.first + i == block.start.array ? block.start.tile : 0) * kTile;
    const int64_t end = array.numel - begin < kTile ? array.numel : begin + kTile;
#pragma unroll 1
    for (int role = kGrad; role < kState0 + R::kStates; ++role) {
      void* const data = role == kGrad ? grad : array.data[role];
      const char* const from = static_cast<const char*>(Arrays::at(data, array.dtype[role], begin));
      const int64_t bytes = static_cast<const char*>(Arrays::at(data, array.dtype[role], end)) - from;
#pragma unroll 1
      for (int64_t at = threadIdx.x * kLine; at < kPrefetchBytes; at += kThreads * kLine) {
        if (at >= before && at < before + bytes) prefetch(from + (at - before));
      }
      before += bytes;
    }
  }
}

// The scalars of the present batch.
template <class R, class A, class Arrays>
__device__ __forceinline__ void prepare(const Launch& launch, Block<R, A>& block) {
  constexpr int32_t kWords = sizeof(Array) / sizeof(uint64_t);
  static_assert(sizeof(Array) % sizeof(uint64_t) == 0);
  const int32_t thread = threadIdx.x;
  const uint64_t* from = reinterpret_cast<const uint64_t*>(launch.arrays + block.first);
  uint64_t* to = reinterpret_cast<uint64_t*>(block.arrays);
#pragma unroll 1
  for (int32_t word = thread; word < block.n * kWords; word += kThreads) to[word] = from[word];
  __syncthreads();
  prefetch_tiles<R, A, Arrays>(launch, block);
#pragma unroll 1
  for (int32_t item = thread; item < kBatch * (kMaxHyperparameters + 1); item += kThreads) {
    const int32_t i = item % kBatch, k = item / kBatch;
    if (i >= block.n || !has_gradient(launch.grads[block.first + i])) continue;
    if (k == kMaxHyperparameters) {
      const int64_t updates = updates_of(block.arrays[i]) + 1;
      block.updates[i] = static_cast<double>(updates);
      if (is_alone(block, block.first + i)) store_updates(block.arrays[i], updates);
    } else {
      block.hyper[i][k] = hyperparameter_value(launch, block.arrays[i].group, k);
    }
  }
  __syncthreads();
  if (thread < block.n && has_gradient(launch.grads[block.first + thread])) {
    block.scalars[thread] = rounded<R, A>(R::prepare(block.hyper[thread], StepInfo{block.gain, block.updates[thread]}));
  }
  __syncthreads();
}

// The next batch of the share, from `first` on: arrays without a gradient are passed over.
template <class R, class A>
__device__ __forceinline__ void choose_batch(const Launch& launch, Block<R, A>& block, int32_t first) {
  if (first < block.end) {
    const uintptr_t grad = reinterpret_cast<uintptr_t>(launch.grads[first]);
    if (grad < kFirstAddress) first += static_cast<int32_t>(grad);
  }
  block.first = first;
  block.n = block.end - first < kBatch ? block.end - first : kBatch;
}

}  // namespace

}  // namespace fs_cuda
