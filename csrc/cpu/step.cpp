// SPDX-License-Identifier: Apache-2.0
// The one CPU loop: every rule, every dtype. Compiled once per instruction set, under that set's name (FS_ISA).
//
// Where all arrays have one dtype, the loop converts in registers. Mixed ones pass through scratch blocks that stay in
// the first-level cache, so that the maths is instantiated once per dtype and not once per combination. The last,
// shorter block runs the same code as all others. Contraction to fused multiply-add is left to the compiler here: the
// update rounds each result once less, and no two evaluators have to agree on it bit by bit.
#include "kernels.h"

#include "../core/convert.h"
#include "../core/rules.h"

FS_NAMESPACE_BEGIN

namespace {


constexpr int64_t kBlock = 512;  // elements; five float32 scratch blocks are 10 KB, a fifth of a small L1

template <class T, class A>
__attribute__((noinline)) void load(const void* from, int64_t begin, int64_t n, A* __restrict__ to) {
  const T* __restrict__ source = static_cast<const T*>(from) + begin;
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<A>(to_compute(source[i]));
}

template <class T, class A>
__attribute__((noinline)) void store(void* to, int64_t begin, int64_t n, const A* __restrict__ from) {
  T* __restrict__ target = static_cast<T*>(to) + begin;
  for (int64_t i = 0; i < n; ++i) from_compute(from[i], target[i]);
}

template <class A>
A* open(const void* array, DType dtype, int64_t begin, int64_t n, A* scratch) {
  switch (dtype) {
    case DType::kFloat32: load<float>(array, begin, n, scratch); break;
    case DType::kFloat64: load<double>(array, begin, n, scratch); break;
    case DType::kBFloat16: load<BFloat16>(array, begin, n, scratch); break;
    case DType::kFloat16: load<Float16>(array, begin, n, scratch); break;
  }
  return scratch;
}

template <class A>
void close(void* array, DType dtype, int64_t begin, int64_t n, const A* block) {
  switch (dtype) {
    case DType::kFloat32: store<float>(array, begin, n, block); break;
    case DType::kFloat64: store<double>(array, begin, n, block); break;
    case DType::kBFloat16: store<BFloat16>(array, begin, n, block); break;
    case DType::kFloat16: store<Float16>(array, begin, n, block); break;
  }
}

// One element, in the compute type.
template <class R, class A>
FS_HD void update_element(const typename R::template Scalars<A>& s, A g, A& p, A& first, A& second, A& third) {
  if constexpr (R::kStates == 0) {
    R::template update<A>(s, g, p, nullptr);
  } else {
    A state[R::kStates];
    state[0] = first;
    if constexpr (R::kStates > 1) state[1] = second;
    if constexpr (R::kStates > 2) state[2] = third;
    R::template update<A>(s, g, p, state);
    first = state[0];
    if constexpr (R::kStates > 1) second = state[1];
    if constexpr (R::kStates > 2) third = state[2];
  }
}

// The loop over elements. T: how they are stored; A: in what they are computed.
template <class R, class A, class T>
FS_HD void update_elements(const typename R::template Scalars<A>& s, int64_t n, const T* __restrict__ grad,
                           T* __restrict__ param, T* __restrict__ first, T* __restrict__ second,
                           T* __restrict__ third) {
  // Unrolled, a short loop is contracted to other fused operations than a long one, and results differ by a bit.
#pragma GCC unroll 1
  for (int64_t i = 0; i < n; ++i) {
    A p = to_compute(param[i]), a{}, b{}, c{};
    if constexpr (R::kStates > 0) a = to_compute(first[i]);
    if constexpr (R::kStates > 1) b = to_compute(second[i]);
    if constexpr (R::kStates > 2) c = to_compute(third[i]);
    update_element<R, A>(s, to_compute(grad[i]), p, a, b, c);
    from_compute(p, param[i]);
    if constexpr (R::kStates > 0) from_compute(a, first[i]);
    if constexpr (R::kStates > 1) from_compute(b, second[i]);
    if constexpr (R::kStates > 2) from_compute(c, third[i]);
  }
}

FS_HD uint32_t load_pair(const BFloat16* array, int64_t i) {
  uint32_t pair;
  __builtin_memcpy(&pair, array + 2 * i, sizeof pair);
  return pair;
}

FS_HD void store_pair(BFloat16* array, int64_t i, float low, float high) {
  const uint32_t pair = pair_of(low, high);
  __builtin_memcpy(array + 2 * i, &pair, sizeof pair);
}

// The same for bfloat16, two elements at a time; an odd last one takes the loop above.
template <class R>
FS_HD void update_pairs(const typename R::template Scalars<float>& s, int64_t n, const BFloat16* __restrict__ grad,
                        BFloat16* __restrict__ param, BFloat16* __restrict__ first, BFloat16* __restrict__ second,
                        BFloat16* __restrict__ third) {
#pragma GCC unroll 1
  for (int64_t i = 0; i < n / 2; ++i) {
    const uint32_t gw = load_pair(grad, i), pw = load_pair(param, i);
    uint32_t aw = 0, bw = 0, cw = 0;
    if constexpr (R::kStates > 0) aw = load_pair(first, i);
    if constexpr (R::kStates > 1) bw = load_pair(second, i);
    if constexpr (R::kStates > 2) cw = load_pair(third, i);
    float p0 = low_of(pw), a0 = low_of(aw), b0 = low_of(bw), c0 = low_of(cw);
    float p1 = high_of(pw), a1 = high_of(aw), b1 = high_of(bw), c1 = high_of(cw);
    update_element<R, float>(s, low_of(gw), p0, a0, b0, c0);
    update_element<R, float>(s, high_of(gw), p1, a1, b1, c1);
    store_pair(param, i, p0, p1);
    if constexpr (R::kStates > 0) store_pair(first, i, a0, a1);
    if constexpr (R::kStates > 1) store_pair(second, i, b0, b1);
    if constexpr (R::kStates > 2) store_pair(third, i, c0, c1);
  }
  const int64_t last = n / 2 * 2;
  update_elements<R, float, BFloat16>(s, n - last, grad + last, param + last, first + last, second + last, third + last);
}

template <class R, class A, class T>
FS_HD void update_some(const typename R::template Scalars<A>& s, int64_t n, const T* grad, T* param, T* first,
                       T* second, T* third) {
  if constexpr (kPairs<T>) {
    update_pairs<R>(s, n, grad, param, first, second, third);
  } else {
    update_elements<R, A, T>(s, n, grad, param, first, second, third);
  }
}

// A cache line of each array at a time, while the lines kAhead bytes further on are asked for: a processor's own
// prefetcher begins anew at each page of each array. Nothing is asked for beyond the end.
template <class R, class A, class T>
void update_block(const typename R::template Scalars<A>& scalars, int64_t n, const T* grad, T* param, T* first,
                  T* second, T* third) {
  constexpr int64_t line = fs_cpu::kLine / sizeof(T), ahead = fs_cpu::kAhead / sizeof(T);
  const typename R::template Scalars<A> s = scalars;
  int64_t i = 0;
  for (; i + ahead < n; i += line) {
    __builtin_prefetch(param + i + ahead);
    __builtin_prefetch(grad + i + ahead);
    if constexpr (R::kStates > 0) __builtin_prefetch(first + i + ahead);
    if constexpr (R::kStates > 1) __builtin_prefetch(second + i + ahead);
    if constexpr (R::kStates > 2) __builtin_prefetch(third + i + ahead);
    update_some<R, A, T>(s, line, grad + i, param + i, first + i, second + i, third + i);
  }
  update_some<R, A, T>(s, n - i, grad + i, param + i, first + i, second + i, third + i);
}

template <class R, class A>
typename R::template Scalars<A> rounded(const double* values) {
  using Scalars = typename R::template Scalars<A>;
  constexpr int count = sizeof(Scalars) / sizeof(A);
  static_assert(count <= kMaxScalars, "the plan reserves kMaxScalars doubles");
  A each[count];
  for (int k = 0; k < count; ++k) each[k] = static_cast<A>(values[k]);
  Scalars scalars;
  __builtin_memcpy(&scalars, each, sizeof scalars);
  return scalars;
}

// All arrays are of type T.
template <class R, class A, class T>
void update_array(const Array& array, int64_t begin, int64_t end, const double* values) {
  T* state[kMaxStates] = {};
  for (int k = 0; k < R::kStates; ++k) state[k] = static_cast<T*>(array.data[kState0 + k]) + begin;
  const T* grad = static_cast<const T*>(array.data[kGrad]) + begin;
  T* param = static_cast<T*>(array.data[kParam]) + begin;
  const typename R::template Scalars<A> scalars = rounded<R, A>(values);
  update_block<R, A, T>(scalars, end - begin, grad, param, state[0], state[1], state[2]);
}

// Arrays of several types.
template <class R, class A>
void update_mixed_array(const Array& array, int64_t begin, int64_t end, const double* values) {
  const typename R::template Scalars<A> scalars = rounded<R, A>(values);
  alignas(64) A scratch[2 + kMaxStates][kBlock];
  for (int64_t at = begin; at < end; at += kBlock) {
    const int64_t n = end - at < kBlock ? end - at : kBlock;
    A* p = open<A>(array.data[kParam], array.dtype[kParam], at, n, scratch[0]);
    const A* g = open<A>(array.data[kGrad], array.dtype[kGrad], at, n, scratch[1]);
    A* state[kMaxStates] = {};
    for (int k = 0; k < R::kStates; ++k) {
      state[k] = open<A>(array.data[kState0 + k], array.dtype[kState0 + k], at, n, scratch[2 + k]);
    }
    update_block<R, A, A>(scalars, n, g, p, state[0], state[1], state[2]);
    close<A>(array.data[kParam], array.dtype[kParam], at, n, p);
    for (int k = 0; k < R::kStates; ++k) {
      close<A>(array.data[kState0 + k], array.dtype[kState0 + k], at, n, state[k]);
    }
  }
}

#define FS_STRING_(x) #x
#define FS_STRING(x) FS_STRING_(x)
#define FS_JOIN_(a, b) a##b
#define FS_JOIN(a, b) FS_JOIN_(a, b)

static_assert(kRules <= fs_cpu::kMaxRules, "the table is too short");

constexpr fs_cpu::Kernels kTable = {FS_STRING(FS_ISA),
                                    {
#define FS_ENTRY(name, ...)                                                                              \
  {update_array<__VA_ARGS__, float, float>,    update_array<__VA_ARGS__, double, double>,                \
   update_array<__VA_ARGS__, float, BFloat16>, update_array<__VA_ARGS__, float, Float16>,                \
   update_mixed_array<__VA_ARGS__, float>,     update_mixed_array<__VA_ARGS__, double>},
                                        FS_RULES(FS_ENTRY)
#undef FS_ENTRY
                                    }};

}  // namespace

FS_NAMESPACE_END

// dispatch.cpp knows it by this name.
extern const fs_cpu::Kernels FS_JOIN(fs_kernels_, FS_ISA);
const fs_cpu::Kernels FS_JOIN(fs_kernels_, FS_ISA) = fs::kTable;
