// SPDX-License-Identifier: Apache-2.0
// The one CUDA kernel of a step: every rule, every dtype. Compiled once for each storage variant
// (FS_VARIANT) to build in parallel.
//
// A block walks its share of all arrays' elements. Of each batch of arrays it first works out the scalars, in float64,
// then it updates their tiles. It counts the updates of arrays that no other block reads. The block that is done last
// knows that all others have read the tables: it counts the arrays that span blocks, advances the clocks and evaluates
// the native schedules for the next step.
#include "batch.cuh"
#include "kernels.cuh"

namespace fs_cuda {

extern __shared__ uint4 shared_memory[];

namespace {

// A tile of an array: where its first elements lie.
template <class R, class A>
struct Tile {
  static constexpr int kRoom = R::kStates > 0 ? R::kStates : 1;  // no array has no elements
  void *grad, *param, *state[kRoom];
  const Array* types;
  A gain;         // the gradient is multiplied by it
  bool unscaled;  // and stored so
};

// One vector of each array, in place. grad changes only if it has to be stored unscaled.
template <class R, class A, class Arrays, int kWidth>
__device__ __forceinline__ void update_vector(const Tile<R, A>& tile, const typename R::template Scalars<A>& scalars,
                                              Raw& grad, Raw& param, Raw (&state)[Tile<R, A>::kRoom]) {
  constexpr int kAtOnce = Arrays::template kAtOnce<kWidth>;
  const Array& types = *tile.types;
#pragma unroll
  for (int first = 0; first < kWidth; first += kAtOnce) {
    A g[kAtOnce], p[kAtOnce], s[Tile<R, A>::kRoom][kAtOnce];
    Arrays::open(types.dtype[kGrad], grad, first, g);
    Arrays::open(types.dtype[kParam], param, first, p);
#pragma unroll
    for (int k = 0; k < R::kStates; ++k) Arrays::open(types.dtype[kState0 + k], state[k], first, s[k]);
#pragma unroll
    for (int e = 0; e < kAtOnce; ++e) {
      A of_element[Tile<R, A>::kRoom];
#pragma unroll
      for (int k = 0; k < R::kStates; ++k) of_element[k] = s[k][e];
      R::template update<A>(scalars, g[e], p[e], of_element);
#pragma unroll
      for (int k = 0; k < R::kStates; ++k) s[k][e] = of_element[k];
    }
    Arrays::close(types.dtype[kParam], param, first, p);
#pragma unroll
    for (int k = 0; k < R::kStates; ++k) Arrays::close(types.dtype[kState0 + k], state[k], first, s[k]);
    if (!tile.unscaled) continue;
#pragma unroll
    for (int e = 0; e < kAtOnce; ++e) g[e] *= tile.gain;
    Arrays::close(types.dtype[kGrad], grad, first, g);
  }
}

// The elements [begin, end) of a tile, by vectors of kWidth, kDepth of them at a time. Their number is a multiple of
// kWidth.
template <class R, class A, class Arrays, int kWidth, int kDepth>
__device__ __forceinline__ void update(const Tile<R, A>& tile, const typename R::template Scalars<A>& scalars,
                                       int32_t begin, int32_t end) {
  constexpr int kStride = kThreads * kWidth;
  const Array& types = *tile.types;
#pragma unroll 1
  for (int32_t first = begin + threadIdx.x * kWidth; first < end; first += kDepth * kStride) {
    Raw grad[kDepth], param[kDepth], state[kDepth][Tile<R, A>::kRoom];
#pragma unroll
    for (int j = 0; j < kDepth; ++j) {
      const int32_t i = first + j * kStride;
      grad[j] = param[j] = {};  // without it, the compiler carries what was there from one round to the next
#pragma unroll
      for (int k = 0; k < Tile<R, A>::kRoom; ++k) state[j][k] = {};
      if (i >= end) continue;
      grad[j] = Arrays::template load<kWidth>(tile.grad, types.dtype[kGrad], i);
      param[j] = Arrays::template load<kWidth>(tile.param, types.dtype[kParam], i);
#pragma unroll
      for (int k = 0; k < R::kStates; ++k) {
        state[j][k] = Arrays::template load<kWidth>(tile.state[k], types.dtype[kState0 + k], i);
      }
    }
#pragma unroll
    for (int j = 0; j < kDepth; ++j) {
      const int32_t i = first + j * kStride;
      if (i >= end) continue;
      update_vector<R, A, Arrays, kWidth>(tile, scalars, grad[j], param[j], state[j]);
      Arrays::template store<kWidth>(tile.param, types.dtype[kParam], i, param[j]);
#pragma unroll
      for (int k = 0; k < R::kStates; ++k) {
        Arrays::template store<kWidth>(tile.state[k], types.dtype[kState0 + k], i, state[j][k]);
      }
      if (tile.unscaled) Arrays::template store<kWidth>(tile.grad, types.dtype[kGrad], i, grad[j]);
    }
  }
}

template <class R, class A, class Arrays>
__device__ __forceinline__ void update_tile(const Launch& launch, const Array& array, void* grad, A gain,
                                            const typename R::template Scalars<A>& scalars, int32_t number) {
  constexpr int kWidth = 16 / Arrays::kBytes;
  const int64_t begin = number * kTile, rest = array.numel - begin;
  const int32_t n = rest < kTile ? rest : kTile;
  Tile<R, A> tile;
  tile.grad = Arrays::at(grad, array.dtype[kGrad], begin);
  tile.param = Arrays::at(array.data[kParam], array.dtype[kParam], begin);
#pragma unroll
  for (int k = 0; k < R::kStates; ++k) tile.state[k] = Arrays::at(array.data[kState0 + k], array.dtype[kState0 + k], begin);
  tile.types = &array;
  tile.gain = gain;
  tile.unscaled = launch.grad_scale != nullptr;
  const bool aligned = array.aligned && reinterpret_cast<uintptr_t>(grad) % 16 == 0;
  const int32_t even = aligned ? n / kWidth * kWidth : 0;
  update<R, A, Arrays, kWidth, kVectors<Arrays::kBytes>>(tile, scalars, 0, even);
  update<R, A, Arrays, 1, kSingles<Arrays::kMixed>>(tile, scalars, even, n);
}

// The block's share of the tiles of the present batch.
template <class R, class A, class Arrays>
__device__ __forceinline__ void update_batch(const Launch& launch, const Block<R, A>& block) {
  const A gain = static_cast<A>(block.gain);
#pragma unroll 1
  for (int32_t i = 0; i < block.n; ++i) {
    void* const grad = launch.grads[block.first + i];
    if (!has_gradient(grad)) continue;
    const Array& array = block.arrays[i];
    const int32_t tiles = static_cast<int32_t>((array.numel + kTile - 1) / kTile);
    const int32_t end = block.first + i == block.stop.array ? block.stop.tile : tiles;
#pragma unroll 1
    for (int32_t tile = block.first + i == block.start.array ? block.start.tile : 0; tile < end; ++tile) {
      update_tile<R, A, Arrays>(launch, array, grad, gain, block.scalars[i], tile);
    }
  }
}

// What one thread alone may do, once all blocks have read the tables.
__device__ __forceinline__ void finish(const Launch& launch, bool skipped) {
  const int32_t thread = threadIdx.x;
#pragma unroll 1
  for (int32_t b = 1 + thread; b < static_cast<int32_t>(gridDim.x) && !skipped; b += kThreads) {
    const Start start = launch.starts[b], before = launch.starts[b - 1];
    if (start.tile == 0 || (before.array == start.array && before.tile > 0)) continue;  // not cut here, or before too
    const Array& array = launch.arrays[start.array];
    store_updates(array, updates_of(array) + 1);
  }
  if (thread == 0) *launch.ticket = 0;
  if (!launch.last) return;
  // Also when the update is skipped: the plan hands over a number once.
#pragma unroll 1
  for (int32_t p = thread; p < launch.n_pending; p += kThreads) store_value(launch.groups, launch.pending[p]);
  if (thread == 0) ++launch.clocks[skipped ? kSkipped : kUpdates];
  if (skipped) return;
  __syncthreads();
  const int32_t n = static_cast<int32_t>(*launch.schedules.n);
#pragma unroll 1
  for (int32_t i = thread; i < n; i += kThreads) write_current(launch.schedules.list[i], launch.past_horizon);
}

template <class R, class A, class Arrays>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor<Arrays::kBytes, Arrays::kMixed, R::kStates>)
    step_kernel(const __grid_constant__ Launch launch) {
  Block<R, A>& block = *reinterpret_cast<Block<R, A>*>(shared_memory);
  if (threadIdx.x == 0) {
    block.start = launch.starts[blockIdx.x];
    block.stop = launch.starts[blockIdx.x + 1];
    block.skipped = launch.found_inf != nullptr && *launch.found_inf != 0.0f;
    block.gain = launch.grad_scale != nullptr ? 1.0 / *launch.grad_scale : 1.0;
    block.end = block.stop.tile > 0 ? block.stop.array + 1 : block.stop.array;
    choose_batch(launch, block, block.start.array);
  }
  __syncthreads();
  while (!block.skipped && block.n > 0) {
    prepare<R, A, Arrays>(launch, block);
    update_batch<R, A, Arrays>(launch, block);
    __syncthreads();
    if (threadIdx.x == 0) choose_batch(launch, block, block.first + block.n);
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    __threadfence();
    block.is_last = atomicAdd(launch.ticket, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!block.is_last) return;
  __threadfence();
  finish(launch, block.skipped);
}

#if FS_VARIANT == 0
using Compute = float;
using Stored = Uniform<float>;
#elif FS_VARIANT == 1
using Compute = double;
using Stored = Uniform<double>;
#elif FS_VARIANT == 2
using Compute = float;
using Stored = Uniform<BFloat16>;
#elif FS_VARIANT == 3
using Compute = float;
using Stored = Uniform<Float16>;
#elif FS_VARIANT == 4
using Compute = float;
using Stored = Mixed<float>;
#else
using Compute = double;
using Stored = Mixed<double>;
#endif

}  // namespace

#define FS_JOIN_(a, b) a##b
#define FS_JOIN(a, b) FS_JOIN_(a, b)

const StepKernels FS_JOIN(step_kernels_, FS_VARIANT) = {
    {
#define FS_ENTRY(name, ...) step_kernel<__VA_ARGS__, Compute, Stored>,
        FS_RULES(FS_ENTRY)
#undef FS_ENTRY
    },
    {
#define FS_ENTRY(name, ...) sizeof(Block<__VA_ARGS__, Compute>),
        FS_RULES(FS_ENTRY)
#undef FS_ENTRY
    }};

}  // namespace fs_cuda
