// SPDX-License-Identifier: Apache-2.0
// Numbers of a launch, each with its reason; no other file has any. They were computed from register counts, sizes of
// loads and published bandwidths. None has been measured on a GPU yet.
#pragma once

#include <cstdint>

namespace fs_cuda {

// Threads of a block. Small enough that a few blocks share a multiprocessor, so that one computes while others wait.
#if defined(FS_THREADS)
constexpr int kThreads = FS_THREADS;  // tests run each thread in turn
#else
constexpr int kThreads = 256;
#endif

// Blocks that a multiprocessor holds: 3 leave 80 registers to a thread, 2 leave 128, 1 leaves 255. Fewer for what does
// not fit without spilling: float64, conversions that are chosen at run time, a third state; each of them counts. AdamW
// then has 98 KB of loads under way per multiprocessor in float32, 49 KB in 16-bit numbers, 64 KB in float64; latency
// asks for 29 KB (4.8 TB/s x 0.8 us over 132 of them).
template <int kBytesPerElement, bool kMixed, int kStates>
constexpr int kBurdens = (kBytesPerElement == 8) + kMixed + (kStates > 2);
template <int kBytesPerElement, bool kMixed, int kStates>
constexpr int kBlocksPerMultiprocessor = kBurdens<kBytesPerElement, kMixed, kStates> == 0   ? 3
                                         : kBurdens<kBytesPerElement, kMixed, kStates> == 1 ? 2
                                                                                            : 1;

// Threads of the small kernels beside the step: native schedules, a row of telemetry, a drop-in scheduler, a decision by a
// metric. But for the first they have one block, since it alone can advance what all its threads have read.
#if defined(FS_THREADS)
constexpr int kSmallThreads = FS_THREADS;
#else
constexpr int kSmallThreads = 128;
#endif

// Arrays whose scalars are prepared at a time: one warp prepares one batch, a lane each.
constexpr int kBatch = 32;

// Bytes that a block asks for before it works out the scalars of a batch, so that memory is not idle meanwhile, and the
// arrays that it takes them from. 396 blocks ask for 19 MB: what 4 us bring, and less than half of the L2 cache.
constexpr int kPrefetchBytes = 48 * 1024, kPrefetchArrays = 4, kLine = 128;

// Vectors that a thread loads from each array before it computes, as long as they are 16 bytes of the widest type. One
// of 16-bit numbers has 8 elements already.
template <int kBytesPerElement>
constexpr int kVectors = kBytesPerElement == 2 ? 1 : 2;

// Elements that a thread takes at a time where vectors cannot be used: tails and unaligned arrays. Of arrays of several
// types one, since more would not fit.
template <bool kMixed>
constexpr int kSingles = kMixed ? 1 : 4;

}  // namespace fs_cuda
